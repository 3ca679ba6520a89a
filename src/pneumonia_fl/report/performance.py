"""One model on one set of images, in the one form that the report draws, whatever file it comes from."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pneumonia_fl.metrics.binary import NAMES, ScoreHistogram, bin_centres, summarise
from pneumonia_fl.metrics.curves import pr_points, reliability, roc_points
from pneumonia_fl.metrics.platt import PLAIN, Scaling

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Curve = Mapping[str, Any]

SPLITS = {"test": "Test", "val": "Validation", "train": "Training"}
SCORE_BINS = 20
"""Bars of the score distribution."""


@dataclass(frozen=True)
class Performance:
    """Metrics, curves and counts; None or empty where something is not known.

    `roc`, `pr` have the keys of `evaluations/*.json`; `reliability` a list of {predicted, observed, n}, and
    `uncalibrated` the same before calibration; `scores` the number of images by class and twentieth of P; `sites` and
    `missing` are those of an evaluation at the sites.
    """

    split: str
    exact: bool
    n: int
    positives: int
    patients: int | None
    threshold: float
    scaling: Scaling
    operating_point: str
    metrics: Mapping[str, float | None]
    intervals: Mapping[str, tuple[float, float] | None] = field(default_factory=dict)
    roc: Curve | None = None
    pr: Curve | None = None
    confusion: Mapping[str, int] | None = None
    reliability: Sequence[Curve] = field(default_factory=list)
    uncalibrated: Sequence[Curve] = field(default_factory=list)
    uncalibrated_metrics: Mapping[str, float] = field(default_factory=dict)
    subtypes: Mapping[str, Any] = field(default_factory=dict)
    sites: Mapping[str, Any] = field(default_factory=dict)
    missing: Mapping[str, str] = field(default_factory=dict)
    scores: Floats | None = None

    @property
    def prevalence(self) -> float:
        """Share of images with pneumonia."""
        return self.positives / self.n if self.n else 0.0


def of_evaluation(values: Mapping[str, Any]) -> Performance:
    """Read one of `evaluations/*.json`; what it does not say is taken as unknown."""
    before = values.get("uncalibrated") or {}
    intervals = values.get("intervals") or {}
    return Performance(
        split=str(values.get("split", "?")),
        exact=True,
        n=int(values["n"]),
        positives=int(values["positives"]),
        patients=values.get("patients"),
        threshold=float(values.get("threshold", 0.5)),
        scaling=Scaling.of(values),
        operating_point=str(values.get("operating_point") or ""),
        metrics=values.get("metrics") or {},
        intervals={key: ends and (float(ends[0]), float(ends[1])) for key, ends in intervals.items()},
        roc=values.get("roc"),
        pr=values.get("pr"),
        confusion=values.get("confusion"),
        reliability=values.get("reliability") or [],
        uncalibrated=before.get("reliability") or [],
        uncalibrated_metrics={key: before[key] for key in ("ece", "brier") if before.get(key) is not None},
        subtypes=values.get("subtypes") or {},
        sites={str(site): dict(alone) for site, alone in (values.get("sites") or {}).items()},
        missing=dict(values.get("missing") or {}),
    )


def of_histogram(counts_and_loss: Mapping[str, Any], card: Mapping[str, Any]) -> Performance:
    """Describe the pooled validation scores at the saved threshold and scaling; no interval is possible.

    `counts_and_loss` is what `ScoreHistogram.to_dict` wrote.
    """
    histogram = ScoreHistogram.from_dict(counts_and_loss)
    threshold, scaling = float(card.get("threshold", 0.5)), Scaling.of(card)
    values, raw = summarise(histogram, threshold, scaling), summarise(histogram)
    counts, centres = histogram.counts, bin_centres()
    p, is_positive = scaling.probability(centres), scaling.decided(centres, threshold)
    both = bool(counts.sum(1).all())
    (tn, fp), (fn, tp) = (map(int, (row[~is_positive].sum(), row[is_positive].sum())) for row in counts)
    return Performance(
        split="val",
        exact=False,
        n=values.n,
        positives=values.positives,
        patients=None,
        threshold=threshold,
        scaling=scaling,
        operating_point=str(card.get("operating_point") or ""),
        metrics=asdict(values),
        roc=dict(zip(("fpr", "tpr"), roc_points(counts), strict=True)) if both else None,
        pr=dict(zip(("recall", "precision"), pr_points(counts), strict=True)) if both else None,
        confusion={"tn": tn, "fp": fp, "fn": fn, "tp": tp},
        reliability=reliability(centres, counts, scaling),
        uncalibrated=reliability(centres, counts, PLAIN),
        uncalibrated_metrics={"ece": raw.ece, "brier": raw.brier},
        scores=np.stack([_by_probability(p, row) for row in counts]),
    )


def of_card(card: Mapping[str, Any]) -> Performance:
    """Return the results that a model card has on pooled validation data: numbers without curves."""
    metrics = card["metrics"]
    return Performance(
        split="val",
        exact=False,
        n=int(metrics["n"]),
        positives=int(metrics["positives"]),
        patients=None,
        threshold=float(card.get("threshold", 0.5)),
        scaling=Scaling.of(card),
        operating_point=str(card.get("operating_point") or ""),
        metrics={key: metrics[key] for key in NAMES if key in metrics},
    )


def _by_probability(p: Floats, counts: Ints) -> Floats:
    place = np.minimum((p * SCORE_BINS).astype(int), SCORE_BINS - 1)
    return np.bincount(place, weights=counts, minlength=SCORE_BINS).astype(np.float64)
