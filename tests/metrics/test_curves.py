from typing import Any

import numpy as np
import pytest
import sklearn.metrics as reference
from hypothesis import given, settings
from hypothesis import strategies as st

from pneumonia_fl.metrics.binary import Scores, exact_metrics
from pneumonia_fl.metrics.curves import grid, pr_grid, pr_points, reliability, roc_grid, roc_points
from pneumonia_fl.metrics.platt import PLAIN, Scaling

Array = np.ndarray[Any, Any]
pairs_with_both = st.lists(st.tuples(st.integers(-6, 6), st.integers(0, 1)), max_size=30).map(
    lambda pairs: [*pairs, (0, 0), (1, 1)]
)


def sample(seed: int, n: int = 300) -> tuple[Array, Array]:
    rng = np.random.default_rng(seed)
    labels = (rng.random(n) < 0.7).astype(np.int64)
    return np.round(rng.normal(2 * labels - 0.5, 2), 1), labels


@given(pairs_with_both)
@settings(max_examples=100, deadline=None)
def test_curve_points_are_those_of_scikit_learn(pairs: list[tuple[int, int]]) -> None:
    margins, labels = (np.array(values) for values in zip(*pairs, strict=True))
    counts = Scores.of(margins, labels).counts()
    false, true, _ = reference.roc_curve(labels, margins, drop_intermediate=False)
    np.testing.assert_allclose(roc_points(counts), (false, true), atol=1e-12, rtol=0)
    precision, recall, _ = reference.precision_recall_curve(labels, margins)
    # scikit-learn adds the point (0, 1) that belongs to no threshold, and goes the other way.
    np.testing.assert_allclose(pr_points(counts), (recall[-2::-1], precision[-2::-1]), atol=1e-12, rtol=0)


def test_the_drawn_roc_curve_lies_on_the_points() -> None:
    margins, labels = sample(1)
    counts = Scores.of(margins, labels).counts()
    false, true = roc_points(counts)
    drawn = roc_grid(counts)
    for x, y in zip(grid(), drawn, strict=True):
        if (exact := np.isclose(false, x)).any():
            assert y == pytest.approx(true[exact].max())
    assert np.trapezoid(drawn, grid()) == pytest.approx(reference.roc_auc_score(labels, margins), abs=0.01)
    assert (drawn[-1], np.all(np.diff(drawn) >= 0)) == (1, True)


def test_the_drawn_precision_is_that_of_the_highest_threshold_with_the_recall() -> None:
    margins, labels = sample(2)
    counts = Scores.of(margins, labels).counts()
    for recall, precision in zip(grid(), pr_grid(counts), strict=True):
        for cut in sorted(set(margins), reverse=True):
            if (margins[labels == 1] >= cut).mean() >= recall - 1e-12:
                break
        assert precision == pytest.approx(labels[margins >= cut].mean())


def test_scores_that_were_not_drawn_change_no_curve() -> None:
    margins, labels = sample(3)
    rows = np.random.default_rng(0).integers(300, size=40)
    some, alone = Scores.of(margins, labels).counts(rows), Scores.of(margins[rows], labels[rows]).counts()
    np.testing.assert_array_equal(roc_grid(some), roc_grid(alone))
    np.testing.assert_array_equal(pr_grid(some), pr_grid(alone))


@pytest.mark.parametrize("scaling", [PLAIN, Scaling(2.0, 0.5)], ids=str)
def test_the_reliability_bins_add_up_to_the_calibration_error(scaling: Scaling) -> None:
    margins, labels = sample(4)
    scores = Scores.of(margins, labels)
    bins = reliability(scores.values, scores.counts(), scaling)
    gaps = [abs(one["predicted"] - one["observed"]) * one["n"] for one in bins]
    expected = exact_metrics(margins, labels, scaling=scaling).ece
    assert sum(gaps) / 300 == pytest.approx(expected, abs=1e-12)
    assert sum(one["n"] for one in bins) == 300
    mean = sum(one["predicted"] * one["n"] for one in bins) / 300
    assert mean == pytest.approx(scaling.probability(margins).mean())
