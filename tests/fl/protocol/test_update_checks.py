"""Updates that must not count, each with the reason that names it."""

import io
from typing import Any

import numpy as np
import pytest

from pneumonia_fl.fl.protocol.update_checks import MAX_SAMPLES, byte_count, own_model_problem, problem_of

REFERENCE = {
    "weight": np.ones((2, 3), np.float32),
    "bias": np.zeros(3, np.float32),
    "counter": np.float64(4),
}


def update(**changes: Any) -> dict[str, Any]:
    return {**REFERENCE, **changes}


def test_a_good_update_has_no_problem() -> None:
    assert problem_of(update(), 100, REFERENCE) == ""


def test_a_counter_may_come_as_an_integer() -> None:
    assert problem_of(update(counter=np.int64(5)), 100, REFERENCE) == ""


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"extra": np.ones(1)}, "1 unknown parameters: extra"),
        ({"weight": np.ones((3, 2), np.float32)}, "weight has shape [3, 2], not [2, 3]"),
        ({"weight": np.ones((2, 3), np.float64)}, "weight is float64, not float32"),
        ({"bias": np.array([0, np.nan, 0], np.float32)}, "bias has values that are no numbers"),
        ({"bias": np.array([0, np.inf, 0], np.float32)}, "bias has values that are no numbers"),
        ({"bias": [0.0, 0.0, 0.0]}, "bias is not an array"),
        ({"bias": np.array(["a", "b", "c"])}, "bias is <U1, not float32"),
    ],
)
def test_a_bad_update_is_named(changes: dict[str, Any], problem: str) -> None:
    assert problem_of(update(**changes), 100, REFERENCE) == problem


def test_missing_parameters_are_counted_and_some_are_named() -> None:
    many = {f"layer{number}": np.zeros(1) for number in range(9)}
    assert problem_of({}, 100, many) == "9 parameters are missing: layer0, layer1, layer2, …"


@pytest.mark.parametrize("samples", [0, -1, 0.5, MAX_SAMPLES + 1])
def test_a_sample_count_out_of_range_is_a_problem(samples: float) -> None:
    assert (
        problem_of(update(), samples, REFERENCE)
        == f"the sample count {samples} is out of range (1 to 10,000,000)"
    )


@pytest.mark.parametrize("samples", [None, "100", True, float("nan"), float("inf")])
def test_a_sample_count_that_is_no_number_is_a_problem(samples: object) -> None:
    assert problem_of(update(), samples, REFERENCE) == "the sample count is no number"


@pytest.mark.parametrize("arrays", [None, [], "weights", {1: np.ones(3)}, {"weight": 1, 5: 2}])
def test_what_is_no_mapping_of_names_is_no_update(arrays: object) -> None:
    assert problem_of(arrays, 100, REFERENCE) == "no arrays by name"


def packed() -> Any:
    """Arrays as NumPy's archive: each is unpacked anew, as large as it may be, whenever it is looked at."""
    content = io.BytesIO()
    np.savez_compressed(content, **REFERENCE)
    content.seek(0)
    return np.load(content)


def test_arrays_that_would_be_unpacked_when_they_are_looked_at_are_no_update() -> None:
    assert problem_of(packed(), 100, REFERENCE) == "no arrays by name"
    assert own_model_problem(packed(), REFERENCE) == "sent no model"


def test_what_a_sum_over_sites_could_not_hold_is_a_problem() -> None:
    assert (
        problem_of(update(bias=np.array([0, 3e38, 0], np.float32)), 1, REFERENCE)
        == "bias has values beyond 1e+12"
    )


def test_a_huge_count_is_a_problem_and_not_an_error() -> None:
    assert (
        problem_of(update(), 10**5000, REFERENCE) == "the sample count int is out of range (1 to 10,000,000)"
    )


@pytest.mark.parametrize(
    ("model", "problem"),
    [
        (REFERENCE | {"norm.weight": np.ones(3, np.float32)}, ""),
        ({"weight": REFERENCE["weight"]}, "2 parameters are missing: bias, counter"),
        (REFERENCE | {"more": np.ones(99, np.float32)}, "its model is larger than any of this job"),
        (REFERENCE | {"more": np.array(["a"])}, "its model holds more than arrays of numbers"),
        (REFERENCE | {"more": "text"}, "its model holds more than arrays of numbers"),
        (REFERENCE | {"more": np.array([np.nan])}, "more has values that are no numbers"),
        (None, "sent no model"),
    ],
)
def test_an_own_model_holds_the_global_one_and_little_more(model: Any, problem: str) -> None:
    assert own_model_problem(model, REFERENCE) == problem


def test_bytes_are_those_of_all_parameters() -> None:
    assert byte_count(REFERENCE) == 24 + 12 + 8
    assert byte_count(None) == 0
