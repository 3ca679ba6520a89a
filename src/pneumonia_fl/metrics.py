"""Metrics of a two-class classifier, exact and pooled over sites from score histograms.

A score is the margin z = logit(PNEUMONIA) - logit(NORMAL), so P(pneumonia) = 1 / (1 + exp(-z)). A site says
how many of its images of each class fall into each of 1024 margin bins, never a score; sums of such
histograms over sites are the histogram of all images together, in any order.

Error of a histogram: counts at a bin edge (accuracy, sensitivity, specificity at P = 0.5) are exact, and so
is the loss but for rounding. AUROC errs only on pairs of a normal and a pneumonia image in one bin, which
count half: by at most half of their share (`auroc_error_bound`). A bin is 1/32 wide, so a probability errs by
at most 1/64 x 1/4 = 0.004 and the Brier score by at most 0.008; ECE has no such bound, since a probability
beside the edge of a calibration bin may change sides.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pneumonia_fl.errors import DataError

BINS = 1024
LIMIT = 16.0
WIDTH = 2 * LIMIT / BINS
ECE_BINS = 15
# Losses are rounded to this before they are added: sums stay exact below 2^33, hence equal in any order.
LOSS_UNIT = 2.0**-20

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Metrics:
    """What a classifier did on `n` images, `positives` of them pneumonia; None: a class is missing.

    `loss` is the mean cross-entropy in nats, `ece` the expected calibration error of P(pneumonia) over 15
    equal bins (Naeini et al. 2015), `brier` the mean of (P - y)^2.
    """

    auroc: float | None
    sensitivity: float | None
    specificity: float | None
    accuracy: float
    balanced_accuracy: float | None
    brier: float
    ece: float
    loss: float
    n: int
    positives: int

    @property
    def floor(self) -> float:
        """Accuracy of always answering pneumonia."""
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
        # Divided before anything is added: a tiny negative margin must not round up to the edge at 0.
        bins = np.clip(np.floor(z / WIDTH) + BINS // 2, 0, BINS - 1).astype(np.int64)
        counts = np.bincount(y * BINS + bins, minlength=2 * BINS).reshape(2, BINS)
        losses = np.round(_losses(z, y) / LOSS_UNIT) * LOSS_UNIT
        return cls(counts.astype(np.int64), float(losses.sum()))

    @classmethod
    def empty(cls) -> Self:
        """Return the histogram of no image: where a sum over sites starts."""
        return cls(np.zeros((2, BINS), np.int64), 0.0)

    @property
    def n(self) -> int:
        """Number of images."""
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
            DataError: keys are missing, or the counts are negative or of another shape.
        """
        try:
            counts = np.asarray(values["counts"], dtype=np.int64)
            loss_sum = float(values["loss_sum"])
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise DataError(f"not a score histogram: {error!r}") from None
        if counts.shape != (2, BINS) or counts.min() < 0 or not np.isfinite(loss_sum):
            raise DataError(f"not a score histogram: counts {counts.shape}, loss {loss_sum}")
        return cls(counts, loss_sum)


def summarise(histogram: ScoreHistogram, threshold: float = 0.5) -> Metrics:
    """Compute all metrics from a (pooled) histogram; `threshold` is moved to the nearest bin edge.

    Raises:
        DataError: the histogram is empty, or the threshold lies outside (0, 1).
    """
    edge = round((_logit(threshold) + LIMIT) / WIDTH)
    z = np.tile(_centres(), 2)
    y = np.repeat((0, 1), BINS)
    decided = np.tile(np.arange(BINS) >= edge, 2)
    loss = histogram.loss_sum / max(histogram.n, 1)
    area = _auroc_of_counts(histogram.counts)
    return _metrics(z, y, histogram.counts.ravel(), decided, area=area, loss=loss)


def exact_metrics(margins: ArrayLike, labels: ArrayLike, threshold: float = 0.5) -> Metrics:
    """Compute all metrics from margins (N,) and labels (N,); pneumonia is P >= `threshold`.

    Raises:
        DataError: no images, a margin that is not finite, or a threshold outside (0, 1).
    """
    z, y = _checked(margins, labels)
    loss = float(_losses(z, y).mean()) if len(z) else 0.0
    weight = np.ones(len(z), np.int64)
    return _metrics(z, y, weight, z >= _logit(threshold), area=auroc(z, y), loss=loss)


def auroc(scores: ArrayLike, labels: ArrayLike) -> float | None:
    """Area under the ROC curve of any monotone score; ties count half; None without both classes."""
    z, y = _checked(scores, labels)
    values, position = np.unique(z, return_inverse=True)
    counts = np.stack([np.bincount(position[y == label], minlength=len(values)) for label in (0, 1)])
    return _auroc_of_counts(counts)


def auroc_error_bound(histogram: ScoreHistogram) -> float:
    """Largest possible difference of the pooled from the exact AUROC: half the share of pairs in one bin."""
    negatives, positives = (int(count) for count in histogram.counts.sum(1))
    if not negatives or not positives:
        return 0.0
    return float((histogram.counts[0] * histogram.counts[1]).sum()) / 2 / negatives / positives


def choose_threshold(histogram: ScoreHistogram) -> float:
    """Return the P(pneumonia) that maximises sensitivity + specificity (Youden 1950), for validation data.

    Thresholds are bin edges; among equally good ones the middle one is taken. 0.5 when a class is missing.
    """
    negatives, positives = histogram.counts.sum(1)
    if not negatives or not positives:
        return 0.5
    below = np.cumsum(histogram.counts, axis=1)[:, :-1]
    # Integer cross-products, so that equally good edges compare equal.
    youden = below[0] * positives - below[1] * negatives
    best = np.flatnonzero(youden == youden.max())
    edge = -LIMIT + WIDTH * (best[len(best) // 2] + 1)
    return float(_probability(edge))


def bootstrap_ci(
    scores: ArrayLike,
    labels: ArrayLike,
    patients: Sequence[str],
    *,
    statistic: Callable[[Floats, Ints], float | None] = auroc,
    seed: int = 7,
    n: int = 1000,
) -> tuple[float, float] | None:
    """95 % percentile interval of a statistic over `n` resamples of patients (their images are dependent).

    Resamples in which the statistic is undefined are left out; None when all are.
    """
    z, y = _checked(scores, labels)
    _, owner = np.unique(np.asarray(patients), return_inverse=True)
    groups = np.split(np.argsort(owner, kind="stable"), np.cumsum(np.bincount(owner))[:-1])
    rng = np.random.default_rng(seed)
    draws = (
        np.concatenate([groups[i] for i in rng.integers(len(groups), size=len(groups))]) for _ in range(n)
    )
    values = [value for rows in draws if (value := statistic(z[rows], y[rows])) is not None]
    if not values:
        return None
    low, high = np.percentile(values, (2.5, 97.5))
    return float(low), float(high)


def _metrics(
    z: Floats, y: Ints, weight: Ints, decided: NDArray[np.bool_], *, area: float | None, loss: float
) -> Metrics:
    """Combine scores `z` that stand for `weight` images of class `y` each."""
    n, positives = int(weight.sum()), int(weight[y == 1].sum())
    if n == 0:
        raise DataError("no images to score")
    hits, rejections = int(weight[decided & (y == 1)].sum()), int(weight[~decided & (y == 0)].sum())
    sensitivity, specificity = _share(hits, positives), _share(rejections, n - positives)
    both = None if sensitivity is None or specificity is None else (sensitivity + specificity) / 2
    p = _probability(z)
    return Metrics(
        auroc=area,
        sensitivity=sensitivity,
        specificity=specificity,
        accuracy=(hits + rejections) / n,
        balanced_accuracy=both,
        brier=float(weight @ (p - y) ** 2) / n,
        ece=_calibration_error(p, y, weight),
        loss=loss,
        n=n,
        positives=positives,
    )


def _calibration_error(p: Floats, y: Ints, weight: Ints) -> float:
    bins = np.minimum((p * ECE_BINS).astype(np.int64), ECE_BINS - 1)
    gaps = np.bincount(bins, weights=weight * (p - y), minlength=ECE_BINS)
    return float(np.abs(gaps).sum() / weight.sum())


def _auroc_of_counts(counts: Ints) -> float | None:
    """Area from counts (2, K) in order of rising score."""
    negatives, positives = (int(count) for count in counts.sum(1))
    if not negatives or not positives:
        return None
    below = np.cumsum(counts[0]) - counts[0]
    twice_won = int((counts[1] * (2 * below + counts[0])).sum())
    return twice_won / (2 * negatives * positives)


def _checked(scores: ArrayLike, labels: ArrayLike) -> tuple[Floats, Ints]:
    z, y = np.asarray(scores, dtype=np.float64), np.asarray(labels, dtype=np.int64)
    if z.ndim != 1 or z.shape != y.shape:
        raise DataError(f"expected as many scores as labels, got {z.shape} and {y.shape}")
    if not np.isfinite(z).all():
        raise DataError("a score is not finite: the model's weights or its input are broken")
    if not np.isin(y, (0, 1)).all():
        raise DataError("a label is neither 0 (NORMAL) nor 1 (PNEUMONIA)")
    return z, y


def _losses(z: Floats, y: Ints) -> Floats:
    return np.logaddexp(0.0, np.where(y == 1, -z, z))


def _centres() -> Floats:
    return -LIMIT + WIDTH * (np.arange(BINS, dtype=np.float64) + 0.5)


def _probability(z: Floats) -> Floats:
    # The tanh form does not overflow for large |z|.
    return 0.5 + 0.5 * np.tanh(0.5 * z)


def _logit(threshold: float) -> float:
    if not 0.0 < threshold < 1.0:
        raise DataError(f"a threshold lies between 0 and 1, not {threshold}")
    return float(np.log(threshold) - np.log1p(-threshold))


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None
