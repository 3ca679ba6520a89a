"""Sums of results: the same bits in every order, the exact mean rounded once, and memory that sites do not fill."""

import random
import tracemalloc
from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from nvflare.apis.fl_constant import FLMetaKey
from nvflare.app_common.abstract.fl_model import FLModel, ParamsType

from pneumonia_fl.config.algorithm import Algorithm
from pneumonia_fl.fl.algorithms.exact_sum import BLOCK, ExactSum
from pneumonia_fl.fl.algorithms.fednova import CLASS_COUNTS, SECOND_MOMENTS, STEPS
from pneumonia_fl.fl.algorithms.registry import server_algorithm
from pneumonia_fl.fl.algorithms.scaffold import CHANGE, LOST
from pneumonia_fl.fl.algorithms.server_base import Parameters
from pneumonia_fl.fl.algorithms.weighted_average import SampleWeightedAverage, SiteWeights, weighted_average
from pneumonia_fl.models.architectures import build_model

MODELS_ALLOWED = 3
LARGEST = 25_783_554
"""Parameters of `pneumonia_network` at 224 px."""

floats = st.floats(-(2.0**40), 2.0**40, width=32)
"""All that an update may hold: both zeros, and the smallest numbers that float32 has."""
weights = st.one_of(st.integers(1, 10**7), st.floats(0.01, 1e9), st.integers(1, 50).map(lambda n: n / 7))
Addend = tuple[float, NDArray[Any]]
addends = st.lists(st.tuples(weights, arrays(np.float32, 5, elements=floats)), min_size=1, max_size=12)


def mean_of(pairs: Iterable[Addend]) -> NDArray[Any]:
    return weighted_average((weight, {"w": values}) for weight, values in pairs)["w"]


def wide(seed: int, size: int, sites: int = 8) -> list[Addend]:
    """Numbers whose exponents have nothing to do with each other, and some that cancel each other."""
    rng = np.random.default_rng(seed)
    made: list[Addend] = []
    for number in range(sites):
        values = np.ldexp(rng.normal(size=size), rng.integers(-149, 38, size)).astype(np.float32)
        if number % 3 == 2:
            values[: size // 2] = -made[-1][1][: size // 2]
        made.append((float(rng.integers(1, 5000)), values))
    return made


@given(addends, st.randoms(use_true_random=False))
def test_no_order_changes_a_bit(pairs: list[Addend], chance: random.Random) -> None:
    shuffled = chance.sample(pairs, len(pairs))
    assert mean_of(shuffled).tobytes() == mean_of(pairs).tobytes()


@given(addends)
def test_the_mean_is_the_exact_one_rounded(pairs: list[Addend]) -> None:
    """To float64 three times (sum, weights, quotient) and to float32 once."""
    total = sum(Fraction(weight) for weight, _ in pairs)
    for position, value in enumerate(mean_of(pairs)):
        exact = sum(Fraction(weight) * Fraction(float(values[position])) for weight, values in pairs) / total
        near = np.float32(float(exact))
        neighbours = (near, np.nextafter(near, np.float32(-np.inf)), np.nextafter(near, np.float32(np.inf)))
        assert value in neighbours
        if value != near:  # only where the exact mean lies in the middle of two
            middle = (Fraction(float(value)) + Fraction(float(near))) / 2
            assert abs(exact - middle) <= abs(exact) * Fraction(1, 2**50)


@pytest.mark.parametrize("seed", range(5))
def test_numbers_that_differ_by_fifty_powers_of_ten_give_the_same_in_every_order(seed: int) -> None:
    pairs, chance = wide(seed, 3 * BLOCK // 2), random.Random(seed)
    wanted = mean_of(pairs).tobytes()
    for _ in range(4):
        assert mean_of(chance.sample(pairs, len(pairs))).tobytes() == wanted


def test_what_is_large_and_cancels_leaves_what_is_small() -> None:
    small = np.float32(1e-30)
    values = [np.full(3, v, np.float32) for v in (1e12, small, -1e12, 1.0, -1.0)]
    for order in ([0, 1, 2, 3, 4], [1, 0, 3, 4, 2], [4, 3, 1, 2, 0]):
        assert mean_of((1.0, values[i]) for i in order).tolist() == [np.float32(small / 5)] * 3


def test_counters_take_the_nearest_whole_number() -> None:
    counters = [np.array(value, np.int64) for value in (7, 7, 9)]
    average = weighted_average(
        (weight, {"n": value}) for weight, value in zip((3, 5, 7), counters, strict=True)
    )
    assert (average["n"], average["n"].dtype, average["n"].shape) == (8, np.int64, ())
    assert all(mean_of((w, counters[0]) for w in ws) == 7 for ws in ((1, 3, 5), (0.1, 0.7, 0.3)))


@pytest.mark.parametrize("size", [0, 1, BLOCK - 1, BLOCK, BLOCK + 1])
@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64, np.int32, np.int64])
def test_arrays_of_every_size_and_kind_keep_their_values(size: int, kind: type[np.generic]) -> None:
    values = np.arange(size).astype(kind)
    average = mean_of([(3.0, values), (4.0, values)])
    assert average.dtype == kind
    assert np.array_equal(average, values)


def test_views_and_transposed_arrays_count_as_they_look() -> None:
    values = np.arange(24, dtype=np.float32).reshape(4, 6)
    assert np.array_equal(mean_of([(1.0, values.T), (1.0, values.T)]), values.T)


def test_sums_are_added_to_a_start() -> None:
    start, total = {"w": np.array([1.0, 2.0], np.float32)}, ExactSum()
    for value in (1.0, 3.0):
        total.add({"w": np.full(2, value, np.float32)}, 2.0)
    moved = total.added_to(start, 0.5)["w"]
    assert (moved.tolist(), moved.dtype) == ([5.0, 6.0], np.float32)


@pytest.mark.parametrize(
    ("factors", "weights"),
    [
        ({}, (10, 20)),
        ({"a": 1.0, "b": 1.0}, (10, 20)),
        ({"b": 0.5}, (20, 20)),
        ({"a": 0.1, "b": 2.25}, (20, 900)),
    ],
)
def test_weights_are_whole_numbers_in_the_ratio_of_images_and_factors(
    factors: dict[str, float], weights: tuple[int, int]
) -> None:
    made = SiteWeights(factors)
    assert (made.of("a", 10), made.of("b", 20)) == weights


def sent_model(seed: int) -> Parameters:
    model = build_model("small_resnet", norm="batch", size=32, seed=seed)
    return {name: value.numpy().copy() for name, value in model.state_dict().items()}


def answers(start: Parameters, trainable: set[str]) -> dict[str, FLModel]:
    rng, made = np.random.default_rng(1), {}
    for number in range(7):
        params = {
            name: np.asarray(value + rng.normal(0, 0.01, value.shape)).astype(value.dtype)
            for name, value in start.items()
        }
        moments = {name: np.square(params[name]) for name in trainable}
        meta = {
            FLMetaKey.NUM_STEPS_CURRENT_ROUND: int(rng.integers(10, 900)),
            STEPS: int(rng.integers(1, 30)),
            CLASS_COUNTS: [5, 0] if number % 3 == 0 else [4, 3],
            SECOND_MOMENTS: moments,
            CHANGE: {name: params[name] - start[name] for name in trainable},
            LOST: False,
        }
        made[f"site-{number}"] = FLModel(params=params, params_type=ParamsType.FULL, meta=meta)
    return made


@pytest.mark.parametrize("name", ["fedavg", "fednova", "scaffold", "fedavgm", "fedadam", "fedyogi"])
def test_every_algorithm_gives_the_same_bits_in_every_order(name: str) -> None:
    """Two rounds each: the second begins with what the first has left at the server."""
    start = sent_model(3)
    trainable = {key for key, _ in build_model("small_resnet", norm="batch", size=32).named_parameters()}
    given = answers(start, trainable)
    found = set()
    for seed in range(4):
        server, chance, model = (
            server_algorithm(Algorithm(name=name), frozenset(trainable)),
            random.Random(seed),
            start,
        )
        for number in range(2):
            server.begin_round(model)
            extras = server.outgoing(number, len(given))
            aggregator = SampleWeightedAverage()
            for site in chance.sample(sorted(given), len(given)):
                answer = FLModel(
                    params=given[site].params, params_type=ParamsType.FULL, meta=dict(given[site].meta)
                )
                server.accept(site, answer)
                answer.params = server.averaged(answer.params)
                aggregator.accept_model(answer)
            model = server.update(model, aggregator.aggregate_model().params)
        state = server.state()
        found.add(
            b"".join(np.asarray(v).tobytes() for values in (model, state) for _, v in sorted(values.items()))
        )
        assert model.keys() == start.keys()
        assert str(extras)
    assert len(found) == 1


def peak(parameters: int, sites: int, values: Callable[[NDArray[Any], int], None]) -> float:
    """Stream results into the average; the most memory at any time beside the result itself, in models."""
    incoming = np.empty(parameters, np.float32)
    aggregator = SampleWeightedAverage()
    tracemalloc.start()
    for number in range(sites):
        values(incoming, number)
        meta = {FLMetaKey.NUM_STEPS_CURRENT_ROUND: 3000 + number}
        aggregator.accept_model(FLModel(params={"w": incoming}, params_type=ParamsType.FULL, meta=meta))
    average = aggregator.aggregate_model().params["w"]
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert average.dtype == np.float32
    return most / incoming.nbytes


def in_blocks(incoming: NDArray[Any]) -> Iterator[NDArray[Any]]:
    """What is made for a test counts as little as possible."""
    return (incoming[start : start + BLOCK] for start in range(0, incoming.size, BLOCK))


def near_each_other(incoming: NDArray[Any], number: int) -> None:
    """Sites that moved from one model: what a federation sends."""
    start, moved = np.random.default_rng(0), np.random.default_rng(number + 1)
    for block in in_blocks(incoming):
        start.standard_normal(dtype=np.float32, out=block)
        np.add(block, 0.01 * moved.standard_normal(block.size, dtype=np.float32), out=block)


def unrelated(incoming: NDArray[Any], number: int) -> None:
    """Models that have nothing in common."""
    np.random.default_rng(number).standard_normal(dtype=np.float32, out=incoming)


def from_all_over_the_range(incoming: NDArray[Any], number: int) -> None:
    """What sites would send that want the server to need much memory."""
    rng = np.random.default_rng(number)
    for block in in_blocks(incoming):
        block[:] = np.ldexp(rng.normal(size=block.size), rng.integers(-149, 38, block.size))


@pytest.mark.parametrize("values", [near_each_other, unrelated])
def test_a_hundred_sites_fit_into_the_memory_of_three_models(
    values: Callable[[NDArray[Any], int], None],
) -> None:
    assert peak(1_000_000, 100, values) < MODELS_ALLOWED


@pytest.mark.slow
def test_a_hundred_sites_with_the_largest_network_fit_into_the_memory_of_three_models() -> None:
    assert peak(LARGEST, 100, near_each_other) < MODELS_ALLOWED


def test_memory_is_bounded_by_the_range_of_numbers_and_not_by_the_sites() -> None:
    few, many = (peak(200_000, sites, from_all_over_the_range) for sites in (15, 45))
    assert many < 12
    assert many < few + 1
