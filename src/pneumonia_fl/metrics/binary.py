"""Metrics of a two-class classifier, exact and pooled over sites from score histograms.

A score is the margin z = logit(PNEUMONIA) - logit(NORMAL), so P(pneumonia) = 1 / (1 + exp(-z)). A site says
how many of its images of each class fall into each of 1024 margin bins, never a score; sums of such
histograms over sites are the histogram of all images together, in any order.

With a `Scaling` of temperature T and offset o, P = 1 / (1 + exp(-(z - o) / T)).

Error of a histogram: counts at a bin edge (sensitivity, specificity, F1, accuracy at P = 0.5, or at a threshold
that was chosen on a histogram) are exact, and so is the loss but for rounding. AUROC errs only on pairs of a
normal and a pneumonia image in one bin, which count half: by at most half of their share (`auroc_error_bound`).
A bin is 1/32 wide, so, for margins within ±16, a probability errs by at most 1/64 x 1/4 / T = 0.004 / T, the
Brier score by at most 0.008 / T, and with a scaling the loss by at most 1/64 / T; ECE has no such bound,
since a probability beside the edge of a calibration bin may change sides.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pneumonia_fl.errors import DataError
from pneumonia_fl.metrics.platt import PLAIN, WIDTH, Scaling

BINS = 1024
LIMIT = BINS * WIDTH / 2
ECE_BINS = 15
MAX_COUNT = 2**40  # in one bin; the sum of 2048 such bins over thousands of sites is still below 2^63
# Losses are rounded to this before they are added: sums stay exact below 2^33, hence equal in any order.
LOSS_UNIT = 2.0**-20

NAMES = {
    "auroc": "AUROC",
    "sensitivity": "Sensitivity",
    "specificity": "Specificity",
    "f1": "F1",
    "balanced_accuracy": "Balanced accuracy",
    "brier": "Brier score",
    "ece": "ECE",
    "loss": "Loss (nats)",
    "accuracy": "Accuracy",
}
"""What people call the metrics, in the order in which they are shown: accuracy last."""
COLUMN_NAMES = {**NAMES, "brier": "Brier", "loss": "Loss"}
RATES = {"sensitivity": 1, "specificity": 0}
"""Metrics that are a share of the images of one class."""
LEADING = ("auroc", *RATES)
CELL = (*LEADING, "brier", "ece", "n")
"""What is kept of one model on one site's data: `n` images; the rates at P = 0.5, so that models can be compared."""
COMPARED = tuple(name for name in NAMES if name not in ("loss", "accuracy"))
"""What `compare` says of a model at its own threshold."""

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Metrics:
    """Metrics of a classifier on `n` images, `positives` of them pneumonia; None: a class is missing.

    `loss` is the mean cross-entropy in nats, `ece` the expected calibration error of P(pneumonia) over 15
    equal bins (Naeini et al. 2015), `brier` the mean of (P - y)^2, `f1` = 2 TP / (2 TP + FP + FN), which is None
    without pneumonia only.
    """

    auroc: float | None
    sensitivity: float | None
    specificity: float | None
    f1: float | None
    accuracy: float
    balanced_accuracy: float | None
    brier: float
    ece: float
    loss: float
    n: int
    positives: int

    @property
    def floor(self) -> float:
        """Return the accuracy of always answering pneumonia."""
        return self.positives / self.n


@dataclass(frozen=True, slots=True)
class ScoreHistogram:
    """Counts int64 (2, 1024) of images by class and margin bin, and the sum of their losses in nats.

    Bins are half open, [-16 + k/32, -16 + (k+1)/32); the outer two hold everything beyond ±16 as well.
    """

    counts: Ints
    loss_sum: float

    @classmethod
    def from_scores(cls, margins: ArrayLike, labels: ArrayLike) -> Self:
        """Count margins (N,) with labels (N,) of 0 and 1.

        Raises:
            DataError: a margin is not finite, a label is neither 0 nor 1, or the lengths differ.
        """
        z, y = _checked(margins, labels)
        counts = np.bincount(y * BINS + bins_of(z), minlength=2 * BINS).reshape(2, BINS)
        losses = np.round(np.logaddexp(0.0, np.where(y == 1, -z, z)) / LOSS_UNIT) * LOSS_UNIT
        return cls(counts.astype(np.int64), float(losses.sum()))

    @classmethod
    def empty(cls) -> Self:
        """Return the histogram of no image: where a sum over sites starts."""
        return cls(np.zeros((2, BINS), np.int64), 0.0)

    @property
    def n(self) -> int:
        """Return the number of images."""
        return int(self.counts.sum())

    def __add__(self, other: "ScoreHistogram") -> "ScoreHistogram":
        """Pool two sites."""
        return ScoreHistogram(self.counts + other.counts, self.loss_sum + other.loss_sum)

    def to_dict(self) -> dict[str, Any]:
        """Return plain lists and numbers that JSON and NVFlare can carry."""
        return {"counts": self.counts.tolist(), "loss_sum": self.loss_sum}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Read what `to_dict` wrote.

        Raises:
            DataError: keys are missing, or the counts are negative, of another shape, or so large that sums overflow.
        """
        try:
            counts = np.asarray(values["counts"], dtype=np.int64)
            loss_sum = float(values["loss_sum"])
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise DataError(f"not a score histogram: {error!r}") from None
        fits = counts.shape == (2, BINS) and counts.min() >= 0 and counts.max() <= MAX_COUNT
        if not fits or not np.isfinite(loss_sum):
            raise DataError(f"not a score histogram: counts {counts.shape}, loss {loss_sum}")
        return cls(counts, loss_sum)


@dataclass(frozen=True, slots=True)
class Scores:
    """Margins as counts of their distinct values: what all metrics need, and quick to count again for a resample.

    `values` (K,) rise; `code` (N,) is label x K + the position of the image's margin in `values`.
    """

    values: Floats
    code: Ints

    @classmethod
    def of(cls, margins: ArrayLike, labels: ArrayLike) -> Self:
        """Sort margins (N,) with labels (N,).

        Raises:
            DataError: a margin is not finite, a label is neither 0 nor 1, or the lengths differ.
        """
        z, y = _checked(margins, labels)
        values, position = np.unique(z, return_inverse=True)
        return cls(values, y * len(values) + position)

    def counts(self, rows: Ints | None = None) -> Ints:
        """Count the images (2, K), int64, by class and margin: all, or those in `rows`, which may repeat."""
        code = self.code if rows is None else self.code[rows]
        return np.bincount(code, minlength=2 * len(self.values)).reshape(2, len(self.values))

    def metrics(self, threshold: float = 0.5, scaling: Scaling = PLAIN, rows: Ints | None = None) -> Metrics:
        """Compute all metrics of all images, or of those in `rows`, which may repeat."""
        return metrics_of_counts(self.values, self.counts(rows), threshold, scaling)


def summarise(histogram: ScoreHistogram, threshold: float = 0.5, scaling: Scaling = PLAIN) -> Metrics:
    """Compute all metrics from a (pooled) histogram; pneumonia is P >= `threshold`.

    The threshold is moved to the nearest bin edge. The loss is exact without a scaling only.

    Raises:
        DataError: the histogram is empty, or the threshold is outside (0, 1).
    """
    metrics = metrics_of_counts(bin_centres(), histogram.counts, threshold, scaling)
    return replace(metrics, loss=histogram.loss_sum / histogram.n) if scaling == PLAIN else metrics


def exact_metrics(
    margins: ArrayLike, labels: ArrayLike, threshold: float = 0.5, scaling: Scaling = PLAIN
) -> Metrics:
    """Compute all metrics from margins (N,) and labels (N,); pneumonia is P >= `threshold`.

    Raises:
        DataError: no images, a margin that is not finite, or a threshold outside (0, 1).
    """
    return Scores.of(margins, labels).metrics(threshold, scaling)


def calibration_bin(p: Floats) -> Ints:
    """Return the calibration bin, 0 to 14, of each probability."""
    return np.minimum((p * ECE_BINS).astype(np.int64), ECE_BINS - 1)


def bins_of(margins: ArrayLike) -> Ints:
    """Return the histogram bin, 0 to 1023, of each margin."""
    # Divided before anything is added: a tiny negative margin must not round up to the edge at 0.
    bins = np.clip(np.floor(np.asarray(margins, np.float64) / WIDTH) + BINS // 2, 0, BINS - 1)
    return np.asarray(bins, np.int64)


def bin_centres() -> Floats:
    """Return the margins (1024,) in the middle of a histogram's bins."""
    return -LIMIT + WIDTH * (np.arange(BINS, dtype=np.float64) + 0.5)


def auroc(scores: ArrayLike, labels: ArrayLike) -> float | None:
    """Compute the area under the ROC curve; ties count half; None without both classes."""
    return auroc_of_counts(Scores.of(scores, labels).counts())


def auroc_of_counts(counts: Ints) -> float | None:
    """Compute the area under the ROC curve from counts (2, K) of both classes in order of rising score."""
    negatives, positives = (int(count) for count in counts.sum(1))
    if not negatives or not positives:
        return None
    # At most 2 x negatives x positives: Python integers where int64 does not hold that.
    exact = counts if 2 * negatives * positives < 2**63 else counts.astype(object)
    below = np.cumsum(exact[0]) - exact[0]
    twice_won = int((exact[1] * (2 * below + exact[0])).sum())
    return twice_won / (2 * negatives * positives)


def auroc_error_bound(histogram: ScoreHistogram) -> float:
    """Bound the difference of the pooled from the exact AUROC: half the share of pairs in one bin."""
    negatives, positives = (int(count) for count in histogram.counts.sum(1))
    if not negatives or not positives:
        return 0.0
    exact = histogram.counts if negatives * positives < 2**63 else histogram.counts.astype(object)
    return float((exact[0] * exact[1]).sum()) / 2 / negatives / positives


def metrics_of_counts(values: Floats, counts: Ints, threshold: float, scaling: Scaling) -> Metrics:
    """Compute all metrics of margins `values` (K,) that `counts` (2, K) images of both classes have.

    Raises:
        DataError: there are no images, or the threshold is outside (0, 1).
    """
    n, positives = int(counts.sum()), int(counts[1].sum())
    if n == 0:
        raise DataError("no images to score")
    is_positive = scaling.decided(values, threshold)
    hits, rejections = int(counts[1, is_positive].sum()), int(counts[0, ~is_positive].sum())
    sensitivity, specificity = _share(hits, positives), _share(rejections, n - positives)
    both = None if sensitivity is None or specificity is None else (sensitivity + specificity) / 2
    p = scaling.probability(values)
    gaps = np.stack((p, p - 1))
    return Metrics(
        auroc=auroc_of_counts(counts),
        sensitivity=sensitivity,
        specificity=specificity,
        # TP + FP + TP + FN = TP + FP + all positives
        f1=_share(2 * hits, hits + n - positives - rejections + positives) if positives else None,
        accuracy=(hits + rejections) / n,
        balanced_accuracy=both,
        brier=float((counts * gaps**2).sum()) / n,
        ece=_calibration_error(p, (counts * gaps).sum(0), n),
        loss=float((counts * _losses(scaling.logit(values))).sum()) / n,
        n=n,
        positives=positives,
    )


def _calibration_error(p: Floats, gaps: Floats, n: int) -> float:
    return float(np.abs(np.bincount(calibration_bin(p), weights=gaps, minlength=ECE_BINS)).sum()) / n


def _checked(scores: ArrayLike, labels: ArrayLike) -> tuple[Floats, Ints]:
    z, y = np.asarray(scores, dtype=np.float64), np.asarray(labels, dtype=np.int64)
    if z.ndim != 1 or z.shape != y.shape:
        raise DataError(f"expected as many scores as labels, got {z.shape} and {y.shape}")
    if not np.isfinite(z).all():
        raise DataError("a score is not finite: the model's weights or its input are broken")
    if not np.isin(y, (0, 1)).all():
        raise DataError("a label is neither 0 (NORMAL) nor 1 (PNEUMONIA)")
    return z, y


def _losses(z: Floats) -> Floats:
    """Compute the cross-entropy in nats (2, …) of margins as normal and as pneumonia images."""
    return np.logaddexp(0.0, np.stack((z, -z)))


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None
