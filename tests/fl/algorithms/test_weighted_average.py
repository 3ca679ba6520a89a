from itertools import permutations
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nvflare.apis.fl_constant import FLMetaKey
from nvflare.app_common.abstract.fl_model import FLModel, ParamsType

from pneumonia_fl.fl.algorithms.weighted_average import SampleWeightedAverage, weighted_average

SITES = ("site-1", "site-2", "site-10")


def result(site: str, samples: int, **params: Any) -> FLModel:
    meta = {"client_name": site, FLMetaKey.NUM_STEPS_CURRENT_ROUND: samples}
    return FLModel(params=params, params_type=ParamsType.FULL, meta=meta)


def random_results(seed: int = 0) -> dict[str, tuple[float, dict[str, np.ndarray[Any, Any]]]]:
    rng = np.random.default_rng(seed)
    shapes = {"conv": (4, 3, 3), "bias": (4,)}
    return {
        site: (
            float(rng.integers(1, 5000)),
            {k: rng.normal(size=s).astype(np.float32) for k, s in shapes.items()},
        )
        for site in SITES
    }


def test_a_site_counts_as_often_as_it_has_samples() -> None:
    average = weighted_average(
        [
            (10.0, {"w": np.array([1.0, 0.0]), "b": np.array(2.0)}),
            (30.0, {"w": np.array([5.0, 4.0]), "b": np.array(-2.0)}),
        ]
    )
    np.testing.assert_allclose(average["w"], [4.0, 3.0])
    assert average["b"] == pytest.approx(-1.0)
    assert average["b"].shape == ()


def test_one_site_alone_keeps_its_model_bit_for_bit() -> None:
    params = random_results()["site-1"][1]
    average = weighted_average([(17.0, params)])
    assert all(np.array_equal(average[name], params[name]) for name in params)


@given(st.integers(0, 2**32 - 1))
def test_equal_models_give_the_same_model(seed: int) -> None:
    params = random_results(seed)["site-1"][1]
    average = weighted_average((weight, params) for weight, _ in random_results(seed).values())
    for name in params:
        np.testing.assert_allclose(average[name], params[name], rtol=1e-6)


@pytest.mark.parametrize("kind", [np.float32, np.float64, np.float16, np.int64])
def test_the_type_of_the_numbers_is_kept(kind: type[np.generic]) -> None:
    results = [(1.0, {"w": np.ones(3, dtype=kind)}) for _ in SITES]
    assert weighted_average(results)["w"].dtype == kind


def test_the_order_of_arrival_changes_no_bit() -> None:
    results = random_results()
    averages = []
    for order in permutations(SITES):
        aggregator = SampleWeightedAverage()
        for site in order:
            aggregator.accept_model(result(site, int(results[site][0]), **results[site][1]))
        averages.append(aggregator.aggregate_model().params)
    for average in averages[1:]:
        assert all(average[name].tobytes() == averages[0][name].tobytes() for name in average)


def test_a_round_knows_nothing_of_the_one_before() -> None:
    aggregator = SampleWeightedAverage()
    aggregator.accept_model(result("a", 1, w=np.array([1.0])))
    assert aggregator.aggregate_model().params["w"] == [1.0]
    aggregator.accept_model(result("b", 1, w=np.array([3.0])))
    model = aggregator.aggregate_model()
    assert model.params["w"] == [3.0]
    assert model.params_type == ParamsType.FULL
