"""Scaling and operating point, both from a score histogram of validation data, and what became of them later.

The histogram is the sum over all sites (`metrics.ScoreHistogram`), so a federation calibrates its model without
a score, an image or a patient leaving a site. Both are fitted on validation data only.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from pneumonia_fl.config.algorithm import OperatingPoint
from pneumonia_fl.metrics.binary import BINS, LIMIT, Floats, ScoreHistogram, bin_centres
from pneumonia_fl.metrics.platt import PLAIN, WIDTH, Scaling

# 1 / temperature, and -offset / temperature wherever in a histogram the margins lie.
SLOPES = (0.05, 20.0)
INTERCEPTS = (-400.0, 400.0)
# More than the rounding of a sum over the bins: where any slope will do, the gentlest is taken.
ROUNDING = 1e-9
# Of a root: as good as a float can be, so that an intercept's error stays below `ROUNDING` in the sum over the bins.
PRECISION = 1e-15
# Beyond, a probability near 1 has too few digits left to say which bin edge it was.
PROBABILITIES = (1e-6, 1 - 1e-6)
SHIFT = 0.05
"""A change from validation data to another split that is worth a sentence, chance or not."""
MISSING_CLASS = "0.5, since the validation data lack a class"


@dataclass(frozen=True, slots=True)
class Calibration:
    """Decision rule of a model: `scaling` turns a margin into P, pneumonia from `threshold` on.

    `operating_point` says in words by which rule the threshold was chosen.
    """

    scaling: Scaling
    threshold: float
    operating_point: str


def calibrate(histogram: ScoreHistogram, point: OperatingPoint) -> Calibration:
    """Fit scaling and threshold on the (pooled) histogram of validation data."""
    scaling = fit_scaling(histogram)
    rule = describe(point) if _both_classes(histogram) else MISSING_CLASS
    return Calibration(scaling, choose_threshold(histogram, point, scaling), rule)


def fit_scaling(histogram: ScoreHistogram) -> Scaling:
    """Return the temperature in 0.05–20 and the offset with the least cross-entropy (Platt 1999; Guo et al. 2017).

    The labels are smoothed by Platt's rule, (N1 + 1) / (N1 + 2) and 1 / (N0 + 2): without it a few images that happen
    to be separated perfectly would ask for certainty (T = 0). `PLAIN` when a class is missing.
    """
    if not _both_classes(histogram):
        return PLAIN
    z, totals = bin_centres(), histogram.counts.sum(1)
    images = histogram.counts.sum(0)
    expected = histogram.counts[0] / (totals[0] + 2) + histogram.counts[1] * (totals[1] + 1) / (totals[1] + 2)

    def excess(slope: float, intercept: float) -> Floats:
        return np.asarray(images * PLAIN.probability(slope * z + intercept) - expected)

    def intercept(slope: float) -> float:
        return _root(lambda value: float(excess(slope, value).sum()), *INTERCEPTS)

    # The cross-entropy is convex in slope and intercept together: with the best intercept for each, in the slope alone.
    slope = _root(lambda value: float(z @ excess(value, intercept(value))) + ROUNDING, *SLOPES)
    return Scaling(1 / slope, -intercept(slope) / slope)


def choose_threshold(histogram: ScoreHistogram, point: OperatingPoint, scaling: Scaling = PLAIN) -> float:
    """Return the calibrated P(pneumonia) from which the answer is pneumonia, by `point`'s rule.

    `sensitivity`: the highest threshold that has at least the target's; `specificity`: the lowest that has;
    `youden`: the largest sum of both (Youden 1950), the middle one among equals. Thresholds are inner bin edges
    between 1e-6 and 1 - 1e-6, the nearest of them where none reaches the target; 0.5 when a class is missing.
    """
    if not _both_classes(histogram):
        return 0.5
    edges = scaling.probability(-LIMIT + WIDTH * np.arange(BINS))
    allowed = np.flatnonzero((edges >= PROBABILITIES[0]) & (edges <= PROBABILITIES[1]))
    # The first bin holds all that lies below as well, so that no cut has them all above it.
    return float(edges[_choose(histogram, point, allowed[allowed > 0])])


def describe(point: OperatingPoint) -> str:
    """Describe the rule: `sensitivity >= 0.95 on validation`."""
    if point.rule == "youden":
        return "highest sensitivity + specificity on validation"
    return f"{point.rule} >= {point.target:g} on validation"


@dataclass(frozen=True, slots=True)
class Shift:
    """One metric on validation data and on another split, there with its 95 % interval where that is known."""

    name: str
    before: float
    after: float
    interval: tuple[float, float] | None

    @property
    def verb(self) -> str:
        """Return "held" when the validation value lies inside the interval, otherwise "fell" or "rose".

        Without an interval a change of less than `SHIFT` counts as held.
        """
        margin = (self.after - SHIFT, self.after + SHIFT)
        low, high = self.interval or margin
        return "fell" if self.before > high else "rose" if self.before < low else "held"

    @property
    def large(self) -> bool:
        """Return whether the value changed by `SHIFT` or more."""
        return abs(self.after - self.before) >= SHIFT


def shifts(
    before: Mapping[str, Any], after: Mapping[str, Any], intervals: Mapping[str, Any]
) -> Iterator[Shift]:
    """Compare the metrics of validation data with those of another split, as far as both are known."""
    for name in ("sensitivity", "specificity", "auroc"):
        if before.get(name) is not None and after.get(name) is not None:
            yield Shift(name, before[name], after[name], intervals.get(name))


def shift_notes(evaluation: Mapping[str, Any]) -> list[str]:
    """Describe how operating point and calibration changed from validation data to this split.

    Takes what `Evaluation.to_dict` gives.
    """
    before, now, split = evaluation["validation"], evaluation["metrics"], evaluation["split"]
    notes = []
    for shift in shifts(before, now, evaluation["intervals"]):
        ends = shift.interval and f" (95 % CI {shift.interval[0]:.3f}–{shift.interval[1]:.3f})"
        here = f"{shift.after:.3f} on {split}{ends or ''}"
        notes.append(f"{shift.name} {shift.verb}: {shift.before:.3f} on validation, {here}")
    if before["ece"] is not None:
        fitted = f"the temperature {evaluation['temperature']:.2f} and the offset {evaluation['offset']:.2f}"
        without = f"{evaluation['uncalibrated']['ece']:.3f} without {fitted}"
        notes.append(
            f"calibration error: {before['ece']:.3f} on validation, {now['ece']:.3f} on {split} ({without})"
        )
    return notes


def _choose(histogram: ScoreHistogram, point: OperatingPoint, allowed: Any) -> int:
    """Choose the best of the `allowed` bins as the first that counts as pneumonia."""
    totals = histogram.counts.sum(1)
    below = (np.cumsum(histogram.counts, axis=1) - histogram.counts)[:, allowed]
    if point.rule == "youden":
        # Integer cross-products, so that equally good edges compare equal.
        youden = below[0] * totals[1] - below[1] * totals[0]
        best = np.flatnonzero(youden == youden.max())
        return int(allowed[best[len(best) // 2]])
    # Less a rounding error: 0.55 x 20 must not ask for 12 of 20.
    needed = point.target * totals - 1e-9
    if point.rule == "sensitivity":
        return int(allowed[max(np.count_nonzero(totals[1] - below[1] >= needed[1]) - 1, 0)])
    return int(allowed[min(np.count_nonzero(below[0] < needed[0]), len(allowed) - 1)])


def _root(rising: Callable[[float], float], low: float, high: float) -> float:
    """Find where a rising function passes 0; the nearer end where it does not."""
    from scipy.optimize import brentq

    if rising(low) >= 0:
        return low
    return float(brentq(rising, low, high, xtol=PRECISION)) if rising(high) > 0 else high


def _both_classes(histogram: ScoreHistogram) -> bool:
    return bool(histogram.counts.sum(1).all())
