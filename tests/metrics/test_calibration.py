import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from pneumonia_fl.config.algorithm import OperatingPoint
from pneumonia_fl.metrics.binary import ScoreHistogram, auroc, exact_metrics, summarise
from pneumonia_fl.metrics.calibration import (
    Shift,
    calibrate,
    choose_threshold,
    describe,
    fit_scaling,
    shift_notes,
)
from pneumonia_fl.metrics.platt import PLAIN, Scaling

SENSITIVITY = OperatingPoint()
SPECIFICITY = OperatingPoint(rule="specificity", target=0.9)
YOUDEN = OperatingPoint(rule="youden")
RULES = (SENSITIVITY, SPECIFICITY, YOUDEN)
each_rule = pytest.mark.parametrize("point", RULES, ids=lambda point: point.rule)

Array = np.ndarray[Any, Any]
scored = st.lists(st.tuples(st.floats(-20, 20, width=32), st.integers(0, 1)), min_size=1, max_size=40)


def labelled(seed: int, n: int, true: Scaling = PLAIN) -> tuple[Array, Array]:
    """Margins whose probabilities by `true` are those with which the labels are drawn."""
    rng = np.random.default_rng(seed)
    z = rng.normal(0.5, 2.0, n)
    return z * true.temperature + true.offset, (rng.random(n) < PLAIN.probability(z)).astype(np.int64)


def histogram(seed: int = 1, n: int = 2000) -> ScoreHistogram:
    return ScoreHistogram.from_scores(*labelled(seed, n))


@pytest.mark.parametrize("true", [Scaling(0.4, -1.5), PLAIN, Scaling(2.5, 3.0)], ids=str)
def test_a_known_scaling_is_recovered(true: Scaling) -> None:
    fitted = [fit_scaling(ScoreHistogram.from_scores(*labelled(seed, 4000, true))) for seed in range(10)]
    temperatures, offsets = np.array([(one.temperature, one.offset) for one in fitted]).T
    assert np.mean(temperatures) == pytest.approx(true.temperature, rel=0.03)
    assert np.std(temperatures) < 0.06 * true.temperature
    assert np.mean(offsets) == pytest.approx(true.offset, abs=0.03 * true.temperature)


def test_the_scaling_minimises_the_smoothed_cross_entropy_of_the_scores() -> None:
    z, y = labelled(3, 3000, Scaling(1.7, -0.6))
    target = np.where(y == 1, (y.sum() + 1) / (y.sum() + 2), 1 / ((1 - y).sum() + 2))

    def loss(line: Array) -> float:
        x = line[0] * z + line[1]
        return float(np.mean(np.logaddexp(0, x) - target * x))

    slope, intercept = minimize(loss, (1.0, 0.0), tol=1e-10).x
    fitted = fit_scaling(ScoreHistogram.from_scores(z, y))
    assert fitted.temperature == pytest.approx(1 / slope, rel=1e-3)
    assert fitted.offset == pytest.approx(-intercept / slope, abs=1e-3)


def test_scaling_lowers_the_calibration_error_and_moves_no_image() -> None:
    z, y = labelled(4, 3000, Scaling(3.0, 2.0))
    scaling = fit_scaling(ScoreHistogram.from_scores(z, y))
    raw, fitted = exact_metrics(z, y), exact_metrics(z, y, 0.3, scaling)
    assert fitted.ece < 0.3 * raw.ece
    assert fitted.brier < raw.brier
    assert fitted.loss < raw.loss
    cut = float(PLAIN.probability(scaling.offset + scaling.temperature * math.log(0.3 / 0.7)))
    same = exact_metrics(z, y, cut)
    assert (fitted.auroc, fitted.accuracy) == (same.auroc, same.accuracy)


@pytest.mark.parametrize("away", [-9.0, 9.0])
def test_margins_far_off_zero_are_brought_back(away: float) -> None:
    z, y = labelled(6, 500)
    scaling = fit_scaling(ScoreHistogram.from_scores(z + away, y))
    mean = float(scaling.probability(z + away).mean())
    assert mean == pytest.approx(y.mean(), abs=0.05)


def test_a_few_images_that_are_separated_do_not_make_the_model_certain() -> None:
    few = ScoreHistogram.from_scores([-2.0, 2.0, 3.0], [0, 1, 1])
    assert fit_scaling(few).probability(3.0) < 0.9


def test_a_model_that_has_it_the_wrong_way_round_is_not_trusted() -> None:
    fitted = calibrate(ScoreHistogram.from_scores([2.0, 3.0, -2.0, -1.0], [0, 0, 1, 1]), SENSITIVITY)
    assert fitted.scaling.temperature == pytest.approx(20)
    assert 0.4 < fitted.threshold < 0.6


def test_scores_that_say_nothing_become_the_share_of_pneumonia() -> None:
    scaling = fit_scaling(ScoreHistogram.from_scores([4.0] * 100, [0] * 20 + [1] * 80))
    assert scaling.probability(4.0) == pytest.approx(0.8, abs=0.02)


@each_rule
@pytest.mark.parametrize("labels", [[0, 0], [1, 1], []])
def test_without_both_classes_nothing_is_fitted_and_the_card_says_so(
    point: OperatingPoint, labels: list[int]
) -> None:
    fitted = calibrate(ScoreHistogram.from_scores([1.0, 2.0][: len(labels)], labels), point)
    assert (fitted.scaling, fitted.threshold) == (PLAIN, 0.5)
    assert "lack a class" in fitted.operating_point


def exhaustive(pooled: ScoreHistogram, point: OperatingPoint, scaling: Scaling) -> float:
    """The rule as it reads, tried at every bin edge."""
    edges = [float(p) for p in scaling.probability(np.arange(-512, 512) / 32) if 1e-6 <= p <= 1 - 1e-6]
    tried = {edge: summarise(pooled, edge, scaling) for edge in edges}
    if point.rule == "sensitivity":
        return max((p for p, m in tried.items() if m.sensitivity >= point.target - 1e-12), default=edges[0])
    return min((p for p, m in tried.items() if m.specificity >= point.target - 1e-12), default=edges[-1])


@pytest.mark.parametrize("scaling", [Scaling(0.5, 0.7), PLAIN, Scaling(3.0, -2.01)], ids=str)
@pytest.mark.parametrize("point", [SENSITIVITY, SPECIFICITY, OperatingPoint(target=0.55)], ids=str)
def test_the_threshold_is_the_last_that_reaches_the_target(point: OperatingPoint, scaling: Scaling) -> None:
    pooled = histogram(n=100)
    assert choose_threshold(pooled, point, scaling) == exhaustive(pooled, point, scaling)


@given(scored, st.sampled_from(RULES), st.sampled_from([Scaling(0.3, -0.77), PLAIN, Scaling(2.5, 1.234)]))
@settings(max_examples=100, deadline=None)
def test_the_validation_images_get_the_rates_that_were_promised(
    pairs: list[tuple[float, int]], point: OperatingPoint, scaling: Scaling
) -> None:
    """Ties, few images, far scores: exact and pooled counts agree at the threshold, and the target is reached."""
    pairs = [*pairs, (-1.0, 0), (1.0, 1)]
    pooled = ScoreHistogram.from_scores(*zip(*pairs, strict=True))
    threshold = choose_threshold(pooled, point, scaling)
    exact = exact_metrics(*zip(*pairs, strict=True), threshold, scaling)
    binned = summarise(pooled, threshold, scaling)
    assert (exact.sensitivity, exact.specificity) == (binned.sensitivity, binned.specificity)
    reach = min(13.8 * scaling.temperature - abs(scaling.offset), 15.9)
    if point.rule != "youden" and all(abs(z) < reach for z, _ in pairs):
        assert (getattr(exact, point.rule) or 0) >= point.target - 1e-12


def test_youden_finds_the_largest_sum_of_both_rates() -> None:
    pooled = histogram(n=300)
    best = summarise(pooled, choose_threshold(pooled, YOUDEN)).balanced_accuracy
    others = [summarise(pooled, p).balanced_accuracy for p in np.linspace(0.01, 0.99, 99)]
    assert best is not None
    assert best >= max(others)


def test_youden_takes_the_middle_of_a_gap_between_the_classes() -> None:
    pooled = ScoreHistogram.from_scores([-3.0, -1.0, 2.0, 4.0], [0, 0, 1, 1])
    assert choose_threshold(pooled, YOUDEN) == pytest.approx(1 / (1 + math.exp(-0.5)), abs=0.01)


@each_rule
def test_three_images_that_are_separated_are_told_apart(point: OperatingPoint) -> None:
    z, y = [-2.0, 2.0, 3.0], [0, 1, 1]
    fitted = calibrate(ScoreHistogram.from_scores(z, y), point)
    assert exact_metrics(z, y, fitted.threshold, fitted.scaling).accuracy == 1


def test_when_all_scores_are_equal_sensitivity_is_kept() -> None:
    z, y = [1.0] * 6, [0, 1] * 3
    fitted = calibrate(ScoreHistogram.from_scores(z, y), SENSITIVITY)
    metrics = exact_metrics(z, y, fitted.threshold, fitted.scaling)
    assert (metrics.sensitivity, metrics.specificity) == (1, 0)


def test_calibrating_the_sum_of_sites_is_calibrating_all_images() -> None:
    z, y = labelled(5, 900)
    sites = [ScoreHistogram.from_scores(z[k::3], y[k::3]) for k in range(3)]
    pooled = sum(sites, ScoreHistogram.empty())
    assert calibrate(pooled, SENSITIVITY) == calibrate(ScoreHistogram.from_scores(z, y), SENSITIVITY)


def test_the_rule_is_said_in_words() -> None:
    assert describe(SENSITIVITY) == "sensitivity >= 0.95 on validation"
    assert describe(SPECIFICITY) == "specificity >= 0.9 on validation"
    assert "sensitivity + specificity" in describe(YOUDEN)


def test_a_shift_from_validation_is_said_with_its_numbers() -> None:
    notes = shift_notes(
        {
            "split": "test",
            "temperature": 1.3,
            "offset": -0.8,
            "validation": {"sensitivity": 0.951, "specificity": 0.93, "ece": 0.012},
            "metrics": {"sensitivity": 0.97, "specificity": 0.71, "ece": 0.083},
            "intervals": {"sensitivity": (0.95, 0.985), "specificity": (0.65, 0.77)},
            "uncalibrated": {"ece": 0.095},
        }
    )
    assert notes == [
        "sensitivity held: 0.951 on validation, 0.970 on test (95 % CI 0.950–0.985)",
        "specificity fell: 0.930 on validation, 0.710 on test (95 % CI 0.650–0.770)",
        "calibration error: 0.012 on validation, 0.083 on test (0.095 without "
        "the temperature 1.30 and the offset -0.80)",
    ]


@pytest.mark.parametrize(
    ("before", "after", "interval", "verb", "large"),
    [
        (0.95, 0.97, (0.95, 0.985), "held", False),
        (0.95, 0.88, (0.80, 0.96), "held", True),
        (0.95, 0.93, (0.91, 0.94), "fell", False),
        (0.93, 0.71, (0.65, 0.77), "fell", True),
        (0.60, 0.71, (0.65, 0.77), "rose", True),
        (0.93, 0.90, None, "held", False),
        (0.93, 0.71, None, "fell", True),
        (0.60, 0.71, None, "rose", True),
    ],
)
def test_a_rate_held_when_its_validation_value_lies_in_the_interval(
    before: float, after: float, interval: tuple[float, float] | None, verb: str, large: bool
) -> None:
    shift = Shift("sensitivity", before, after, interval)
    assert (shift.verb, shift.large) == (verb, large)


def test_a_model_without_validation_figures_has_no_notes() -> None:
    nothing = dict.fromkeys(("sensitivity", "specificity", "ece"))
    values = {"split": "test", "metrics": nothing, "intervals": nothing, "validation": nothing}
    assert shift_notes(values) == []


def test_the_order_of_images_is_that_of_the_scores() -> None:
    z, y = labelled(6, 500)
    assert auroc(Scaling(2.0, 0.3).probability(z), y) == auroc(z, y)
