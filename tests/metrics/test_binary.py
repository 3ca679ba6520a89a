import itertools
import json
import math
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest
import sklearn.metrics as reference
from hypothesis import given, settings
from hypothesis import strategies as st

from pneumonia_fl.errors import DataError
from pneumonia_fl.metrics.binary import (
    BINS,
    ScoreHistogram,
    Scores,
    auroc,
    auroc_error_bound,
    exact_metrics,
    summarise,
)
from pneumonia_fl.metrics.platt import PLAIN, Scaling

Array = np.ndarray[Any, Any]


def sample(seed: int, n: int = 400) -> tuple[Array, Array]:
    """Overlapping scores, unbalanced as the real data are, with ties."""
    rng = np.random.default_rng(seed)
    labels = (rng.random(n) < 0.7).astype(np.int64)
    margins = np.round(rng.normal(2 * labels - 0.5, 2), 2)
    return margins.astype(np.float32), labels


def probability(margins: Array) -> Array:
    return 1 / (1 + np.exp(-margins.astype(np.float64)))


def calibration_error(p: Array, labels: Array) -> float:
    """ECE as a loop over its bins."""
    edges = np.linspace(0, 1, 16)
    place = np.clip(np.digitize(p, edges) - 1, 0, 14)
    return sum(abs((p - labels)[place == k].sum()) for k in range(15)) / len(p)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("threshold", [0.5, 0.2, 0.9])
@pytest.mark.parametrize("scaling", [PLAIN, Scaling(0.4, 0.3), Scaling(3.0, -1.0)], ids=str)
def test_exact_metrics_agree_with_scikit_learn(seed: int, threshold: float, scaling: Scaling) -> None:
    margins, labels = sample(seed)
    p = probability((margins - np.float64(scaling.offset)) / np.float64(scaling.temperature))
    decided = p >= threshold
    ours = exact_metrics(margins, labels, threshold, scaling)
    theirs = {
        "auroc": reference.roc_auc_score(labels, margins),
        "sensitivity": reference.recall_score(labels, decided),
        "specificity": reference.recall_score(labels, decided, pos_label=0),
        "f1": reference.f1_score(labels, decided),
        "accuracy": reference.accuracy_score(labels, decided),
        "balanced_accuracy": reference.balanced_accuracy_score(labels, decided),
        "brier": reference.brier_score_loss(labels, p),
        "loss": reference.log_loss(labels, p),
        "ece": calibration_error(p, labels),
    }
    for name, value in theirs.items():
        assert getattr(ours, name) == pytest.approx(value, abs=1e-12), name
    assert (ours.n, ours.positives) == (400, labels.sum())


def test_metrics_of_four_images_by_hand() -> None:
    metrics = exact_metrics([-2.0, 1.0, 0.0, 3.0], [0, 0, 1, 1])
    p = [1 / (1 + math.exp(2)), 1 / (1 + math.exp(-1)), 0.5, 1 / (1 + math.exp(-3))]
    assert metrics.auroc == 0.75  # of four pairs only (1.0, 0.0) stands in the wrong order
    assert (metrics.sensitivity, metrics.specificity) == (1.0, 0.5)
    assert metrics.accuracy == metrics.balanced_accuracy == 0.75
    assert metrics.floor == 0.5
    assert metrics.f1 == 0.8  # two hits, one false alarm
    assert metrics.brier == pytest.approx((p[0] ** 2 + p[1] ** 2 + 0.25 + (1 - p[3]) ** 2) / 4)
    # All four fall into different calibration bins.
    assert metrics.ece == pytest.approx((p[0] + p[1] + 0.5 + (1 - p[3])) / 4)
    assert metrics.loss == pytest.approx(
        -(math.log(1 - p[0]) + math.log(1 - p[1]) + math.log(0.5) + math.log(p[3])) / 4
    )


def test_ties_count_half() -> None:
    assert auroc([1, 1, 1, 1], [0, 1, 0, 1]) == 0.5
    assert auroc([1, 2, 2, 3], [0, 0, 1, 1]) == 0.875


@pytest.mark.parametrize(("labels", "defined"), [([1, 1], "sensitivity"), ([0, 0], "specificity")])
def test_without_both_classes_only_the_rate_of_the_present_one_is_defined(
    labels: list[int], defined: str
) -> None:
    for metrics in (
        exact_metrics([0.5, 2.0], labels),
        summarise(ScoreHistogram.from_scores([0.5, 2.0], labels)),
    ):
        rates = {
            name: getattr(metrics, name)
            for name in ("auroc", "balanced_accuracy", "sensitivity", "specificity")
        }
        assert [name for name, value in rates.items() if value is not None] == [defined]
        assert metrics.f1 == (1.0 if defined == "sensitivity" else None)
        assert metrics.accuracy is not None


@given(
    st.lists(st.tuples(st.floats(-15.875, 15.875, width=32), st.integers(0, 1)), min_size=1, max_size=60),
    st.sampled_from([Scaling(0.5, 0.3), PLAIN, Scaling(2.5, -1.2)]),
    st.integers(-300, 300),
)
@settings(max_examples=100, deadline=None)
def test_pooled_metrics_equal_the_exact_ones_within_the_documented_bounds(
    pairs: list[tuple[float, int]], scaling: Scaling, edge: int
) -> None:
    margins, labels = zip(*pairs, strict=True)
    logit = float(scaling.logit(edge / 32))
    threshold = float(PLAIN.probability(np.clip(logit, -13, 13)))
    edge_hit = abs(logit) <= 13
    histogram = ScoreHistogram.from_scores(margins, labels)
    pooled = summarise(histogram, threshold, scaling)
    exact = exact_metrics(margins, labels, threshold, scaling)
    if pooled.auroc is not None and exact.auroc is not None:
        assert abs(pooled.auroc - exact.auroc) <= auroc_error_bound(histogram) + 1e-12
    if edge_hit:
        for name in ("sensitivity", "specificity", "f1", "accuracy", "balanced_accuracy"):
            assert getattr(pooled, name) == getattr(exact, name), name
    assert abs(pooled.brier - exact.brier) <= 0.008 / scaling.temperature
    assert abs(pooled.loss - exact.loss) <= (1e-6 if scaling == PLAIN else 1 / 64 / scaling.temperature)


@pytest.mark.parametrize("scaling", [Scaling(0.5), PLAIN, Scaling(2.5, 0.7)], ids=str)
def test_the_pooled_calibration_error_is_close_to_the_exact_one(scaling: Scaling) -> None:
    margins, labels = sample(1, 4000)
    pooled = summarise(ScoreHistogram.from_scores(margins, labels), scaling=scaling)
    assert pooled.ece == pytest.approx(exact_metrics(margins, labels, scaling=scaling).ece, abs=0.01)


def test_the_error_bound_of_auroc_is_reached_when_one_bin_holds_everything() -> None:
    histogram = ScoreHistogram.from_scores([0.001, 0.002], [0, 1])
    assert auroc_error_bound(histogram) == 0.5
    assert summarise(histogram).auroc == 0.5


def test_pooling_sites_gives_the_histogram_of_all_images_in_any_order() -> None:
    samples = [sample(seed, n) for seed, n in ((1, 50), (2, 301), (3, 7))]
    whole = ScoreHistogram.from_scores(*(np.concatenate(part) for part in zip(*samples, strict=True)))
    for order in itertools.permutations(samples):
        pooled = sum((ScoreHistogram.from_scores(*part) for part in order), ScoreHistogram.empty())
        assert np.array_equal(pooled.counts, whole.counts)
        assert pooled.loss_sum == whole.loss_sum
        assert pooled.n == 358


def test_scores_beyond_the_range_fall_into_the_outer_bins() -> None:
    histogram = ScoreHistogram.from_scores([-1e6, -16.0, 16.0, 1e6], [0, 0, 1, 1])
    assert histogram.counts[0, 0] == 2
    assert histogram.counts[1, BINS - 1] == 2
    assert summarise(histogram).auroc == 1.0


def test_a_margin_of_zero_is_pneumonia_in_both_ways_of_counting() -> None:
    margins = np.array([0.0, np.nextafter(np.float32(0), np.float32(-1))], dtype=np.float32)
    for metrics in (exact_metrics(margins, [1, 0]), summarise(ScoreHistogram.from_scores(margins, [1, 0]))):
        assert metrics.accuracy == 1.0


def test_a_histogram_survives_transport_as_json() -> None:
    histogram = ScoreHistogram.from_scores(*sample(1))
    received = ScoreHistogram.from_dict(json.loads(json.dumps(histogram.to_dict())))
    assert np.array_equal(received.counts, histogram.counts)
    assert received.loss_sum == histogram.loss_sum


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"counts": [[1, 2], [3, 4]], "loss_sum": 0.0},
        {"counts": np.full((2, BINS), -1).tolist(), "loss_sum": 0.0},
        {"counts": np.zeros((2, BINS)).tolist(), "loss_sum": float("nan")},
        {"counts": "many", "loss_sum": 0.0},
    ],
)
def test_a_damaged_histogram_is_refused(values: dict[str, Any]) -> None:
    with pytest.raises(DataError, match="not a score histogram"):
        ScoreHistogram.from_dict(values)


@pytest.mark.parametrize(
    ("scores", "labels", "reason"),
    [
        ([float("nan")], [1], "not finite"),
        ([1.0], [2], "neither 0"),
        ([1.0, 2.0], [1], "as many scores"),
        ([], [], "no images"),
    ],
)
def test_scores_that_mean_nothing_are_refused(scores: list[float], labels: list[int], reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        exact_metrics(scores, labels)
    with pytest.raises(DataError, match=reason):
        summarise(ScoreHistogram.from_scores(scores, labels))


@pytest.mark.parametrize("threshold", [0.0, 1.0, -1.0, float("nan")])
def test_a_threshold_outside_0_to_1_is_refused(threshold: float) -> None:
    with pytest.raises(DataError, match="threshold"):
        exact_metrics([1.0], [1], threshold)


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("inf")])
def test_a_temperature_that_is_none_is_refused(temperature: float) -> None:
    with pytest.raises(DataError, match="temperature"):
        Scaling(temperature)


@pytest.mark.parametrize("offset", [float("nan"), float("inf")])
def test_an_offset_that_is_none_is_refused(offset: float) -> None:
    with pytest.raises(DataError, match="offset"):
        Scaling(offset=offset)


def test_metrics_of_rows_are_those_of_the_rows_alone() -> None:
    margins, labels = sample(3, 50)
    rows = np.array([0, 0, 7, 7, 7, 30, 31, 49])
    some = Scores.of(margins, labels).metrics(0.4, Scaling(1.5, 0.2), rows)
    alone = exact_metrics(margins[rows], labels[rows], 0.4, Scaling(1.5, 0.2))
    assert asdict(some) == pytest.approx(asdict(alone), abs=1e-12)
