import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar

from pneumonia_fl.calibration import calibrate, choose_threshold, describe, fit_temperature, shift_notes
from pneumonia_fl.learning import OperatingPoint
from pneumonia_fl.metrics import ScoreHistogram, auroc, exact_metrics, probability, summarise

SENSITIVITY = OperatingPoint()
SPECIFICITY = OperatingPoint(rule="specificity", target=0.9)
YOUDEN = OperatingPoint(rule="youden")
RULES = (SENSITIVITY, SPECIFICITY, YOUDEN)
each_rule = pytest.mark.parametrize("point", RULES, ids=lambda point: point.rule)

Array = np.ndarray[Any, Any]
scored = st.lists(st.tuples(st.floats(-20, 20, width=32), st.integers(0, 1)), min_size=1, max_size=40)


def labelled(seed: int, n: int, temperature: float = 1.0) -> tuple[Array, Array]:
    """Margins whose probabilities at `temperature` are those with which the labels are drawn."""
    rng = np.random.default_rng(seed)
    z = rng.normal(0.5, 2.0, n)
    return z * temperature, (rng.random(n) < probability(z)).astype(np.int64)


def histogram(seed: int = 1, n: int = 2000) -> ScoreHistogram:
    return ScoreHistogram.from_scores(*labelled(seed, n))


@pytest.mark.parametrize("temperature", [0.4, 1.0, 2.5])
def test_a_known_temperature_is_recovered(temperature: float) -> None:
    fitted = [
        fit_temperature(ScoreHistogram.from_scores(*labelled(seed, 4000, temperature))) for seed in range(10)
    ]
    assert np.mean(fitted) == pytest.approx(temperature, rel=0.03)
    assert np.std(fitted) < 0.06 * temperature


def test_the_temperature_minimises_the_smoothed_cross_entropy_of_the_scores() -> None:
    z, y = labelled(3, 3000, 1.7)
    target = np.where(y == 1, (y.sum() + 1) / (y.sum() + 2), 1 / ((1 - y).sum() + 2))

    def loss(temperature: float) -> float:
        return float(np.mean(np.logaddexp(0, z / temperature) - target * z / temperature))

    best = minimize_scalar(loss, bounds=(0.1, 10), method="bounded", options={"xatol": 1e-9}).x
    assert fit_temperature(ScoreHistogram.from_scores(z, y)) == pytest.approx(best, rel=1e-3)


def test_temperature_lowers_the_calibration_error_and_moves_no_image() -> None:
    z, y = labelled(4, 3000, 3.0)
    temperature = fit_temperature(ScoreHistogram.from_scores(z, y))
    raw, fitted = exact_metrics(z, y), exact_metrics(z, y, temperature=temperature)
    assert fitted.ece < 0.3 * raw.ece
    assert fitted.brier < raw.brier
    assert fitted.loss < raw.loss
    assert (fitted.auroc, fitted.accuracy) == (raw.auroc, raw.accuracy)


def test_a_few_images_that_are_separated_do_not_make_the_model_certain() -> None:
    few = ScoreHistogram.from_scores([-2.0, 2.0, 3.0], [0, 1, 1])
    assert probability(3.0, fit_temperature(few)) < 0.9


def test_a_model_that_has_it_the_wrong_way_round_is_not_trusted() -> None:
    fitted = calibrate(ScoreHistogram.from_scores([2.0, 3.0, -2.0, -1.0], [0, 0, 1, 1]), SENSITIVITY)
    assert fitted.temperature == pytest.approx(20)
    assert 0.4 < fitted.threshold < 0.6


@each_rule
@pytest.mark.parametrize("labels", [[0, 0], [1, 1], []])
def test_without_both_classes_nothing_is_fitted_and_the_card_says_so(
    point: OperatingPoint, labels: list[int]
) -> None:
    fitted = calibrate(ScoreHistogram.from_scores([1.0, 2.0][: len(labels)], labels), point)
    assert (fitted.temperature, fitted.threshold) == (1.0, 0.5)
    assert "lack a class" in fitted.operating_point


def exhaustive(pooled: ScoreHistogram, point: OperatingPoint, temperature: float) -> float:
    """The rule as it reads, tried at every bin edge."""
    edges = [float(p) for p in probability(np.arange(-512, 512) / 32, temperature) if 1e-6 <= p <= 1 - 1e-6]
    tried = {edge: summarise(pooled, edge, temperature) for edge in edges}
    if point.rule == "sensitivity":
        return max((p for p, m in tried.items() if m.sensitivity >= point.target - 1e-12), default=edges[0])
    return min((p for p, m in tried.items() if m.specificity >= point.target - 1e-12), default=edges[-1])


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
@pytest.mark.parametrize("point", [SENSITIVITY, SPECIFICITY, OperatingPoint(target=0.55)], ids=str)
def test_the_threshold_is_the_last_that_reaches_the_target(point: OperatingPoint, temperature: float) -> None:
    pooled = histogram(n=100)
    assert choose_threshold(pooled, point, temperature) == exhaustive(pooled, point, temperature)


@given(scored, st.sampled_from(RULES), st.sampled_from([0.3, 1.0, 2.5]))
@settings(max_examples=100, deadline=None)
def test_the_validation_images_get_the_rates_that_were_promised(
    pairs: list[tuple[float, int]], point: OperatingPoint, temperature: float
) -> None:
    """Ties, few images, far scores: exact and pooled counts agree at the threshold, and the target is reached."""
    pairs = [*pairs, (-1.0, 0), (1.0, 1)]
    pooled = ScoreHistogram.from_scores(*zip(*pairs, strict=True))
    threshold = choose_threshold(pooled, point, temperature)
    exact = exact_metrics(*zip(*pairs, strict=True), threshold, temperature)
    binned = summarise(pooled, threshold, temperature)
    assert (exact.sensitivity, exact.specificity) == (binned.sensitivity, binned.specificity)
    reach = min(13.8 * temperature, 15.9)
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
    assert exact_metrics(z, y, fitted.threshold, fitted.temperature).accuracy == 1


def test_when_all_scores_are_equal_sensitivity_is_kept() -> None:
    z, y = [1.0] * 6, [0, 1] * 3
    fitted = calibrate(ScoreHistogram.from_scores(z, y), SENSITIVITY)
    metrics = exact_metrics(z, y, fitted.threshold, fitted.temperature)
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
            "validation": {"sensitivity": 0.951, "specificity": 0.93, "ece": 0.012},
            "metrics": {"sensitivity": 0.97, "specificity": 0.71, "ece": 0.083},
            "intervals": {"sensitivity": (0.95, 0.985), "specificity": (0.65, 0.77)},
            "uncalibrated": {"ece": 0.095},
        }
    )
    assert notes == [
        "sensitivity held: 0.951 on validation, 0.970 on test (95 % CI 0.950–0.985)",
        "specificity fell: 0.930 on validation, 0.710 on test (95 % CI 0.650–0.770)",
        "calibration error: 0.012 on validation, 0.083 on test (0.095 without the temperature 1.30)",
    ]


def test_a_model_without_validation_figures_has_no_notes() -> None:
    nothing = dict.fromkeys(("sensitivity", "specificity", "ece"))
    values = {"split": "test", "metrics": nothing, "intervals": nothing, "validation": nothing}
    assert shift_notes(values) == []


def test_the_order_of_images_is_that_of_the_scores() -> None:
    z, y = labelled(6, 500)
    assert auroc(probability(z, 2.0), y) == auroc(z, y)
