"""Assess the scores of one split: metrics, curves, calibration and subtypes, with intervals by patient."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pneumonia_fl.data.store import ImageSet
from pneumonia_fl.metrics import curves
from pneumonia_fl.metrics.binary import NAMES, Floats, Ints, Scores, metrics_of_counts
from pneumonia_fl.metrics.bootstrap import TAILS, Interval, all_or_none, interval95, reflected95, resample
from pneumonia_fl.metrics.platt import PLAIN, Scaling

KEYS = tuple(NAMES)
CURVES = 2 * curves.GRID
STATISTICS = len(KEYS) + CURVES
Mask = NDArray[np.bool_]
Patients = tuple[int, int, int]


def assess(margins: ArrayLike, data: ImageSet, threshold: float, scaling: Scaling) -> dict[str, Any]:
    """Compute all results from margins (N,) of the images, under the names of `evaluation.Evaluation`.

    Raises:
        DataError: no images, a margin that is not finite, or a threshold outside (0, 1).
    """
    scores = Scores.of(margins, data.labels)
    right = scaling.decided(margins, threshold) == (data.labels == 1)
    subtypes, kind = np.unique(np.asarray(data.subtypes), return_inverse=True)

    def statistic(rows: Ints) -> Floats:
        both = statistics_of(scores.values, scores.counts(rows), threshold, scaling)
        return np.concatenate([both, _rates(kind, right, rows, len(subtypes))])

    samples, rates = np.split(resample(data.patients, statistic), (STATISTICS,), axis=1)
    found = describe(scores.values, scores.counts(), threshold, scaling, samples, patients_of(data))
    return found | {
        "subtypes": {
            str(name): _subtype(right[kind == k], rates[:, k], _owners(data, kind == k))
            for k, name in enumerate(subtypes)
        },
    }


def patients_of(data: ImageSet) -> Patients:
    """Count patients with a normal image, with pneumonia, and all."""
    is_positive = data.labels == 1
    return _owners(data, ~is_positive), _owners(data, is_positive), len(set(data.patients))


def statistics_of(values: Floats, counts: Ints, threshold: float, scaling: Scaling) -> Floats:
    """Compute what is resampled, float64 (STATISTICS,): metrics and both curves of `counts` (2, K) margins (K,)."""
    metrics = metrics_of_counts(values, counts, threshold, scaling)
    named = np.array([getattr(metrics, name) for name in KEYS], dtype=np.float64)
    return np.concatenate([named, _drawn(counts)])


def describe(
    values: Floats, counts: Ints, threshold: float, scaling: Scaling, samples: Floats, patients: Patients
) -> dict[str, Any]:
    """Compute all results but subtypes from margins and their resamples.

    Args:
        values: margins (K,), rising.
        counts: images (2, K) of both classes that have them.
        threshold: on P(pneumonia).
        scaling: how margins become probabilities.
        samples: float64 (n, STATISTICS), one row of `statistics_of` for each resample.
        patients: with a normal image, with pneumonia, and all.
    """
    metrics = metrics_of_counts(values, counts, threshold, scaling)
    raw = metrics_of_counts(values, counts, 0.5, PLAIN)
    named, drawn = np.split(samples, (len(KEYS),), axis=1)
    return {
        "n": metrics.n,
        "positives": metrics.positives,
        "patients": patients[2],
        "floor_accuracy": metrics.floor,
        "metrics": {name: getattr(metrics, name) for name in KEYS},
        "intervals": _intervals(asdict(metrics), named, patients),
        **_curves(counts, drawn),
        "confusion": _confusion(counts, scaling.decided(values, threshold)),
        "reliability": curves.reliability(values, counts, scaling),
        "uncalibrated": {
            "ece": raw.ece,
            "brier": raw.brier,
            "reliability": curves.reliability(values, counts, PLAIN),
        },
    }


def _drawn(counts: Ints) -> Floats:
    """Compute both curves as one row; NaN without both classes."""
    if not counts.sum(1).all():
        return np.full(CURVES, np.nan)
    return np.concatenate([curves.roc_grid(counts), curves.pr_grid(counts)])


def _rates(kind: Ints, right: Mask, rows: Ints, groups: int) -> Floats:
    """Share of right answers in each subtype; NaN where there is none."""
    images, hits = (np.bincount(kind[part], minlength=groups) for part in (rows, rows[right[rows]]))
    return np.where(images > 0, hits / np.maximum(images, 1), np.nan)


def _intervals(metrics: Mapping[str, Any], samples: Floats, patients: Patients) -> dict[str, Interval | None]:
    found = {name: interval95(samples[:, k]) for k, name in enumerate(KEYS)}
    found["ece"] = reflected95(metrics["ece"], samples[:, KEYS.index("ece")])
    normal, pneumonia, everybody = patients
    for name, owners in {"sensitivity": pneumonia, "specificity": normal, "accuracy": everybody}.items():
        if metrics[name] in (0, 1):
            found[name] = all_or_none(metrics[name], owners)
    return found


def _curves(counts: Ints, samples: Floats) -> dict[str, Any]:
    if not counts.sum(1).all():
        return {"roc": None, "pr": None}
    values, (low, high) = _drawn(counts), np.nanpercentile(samples, TAILS, axis=0)
    lines = np.split(np.stack([values, low, high]), 2, axis=1)
    return {
        name: {x: curves.grid().tolist(), **dict(zip((y, "low", "high"), line.tolist(), strict=True))}
        for (name, x, y), line in zip(
            (("roc", "fpr", "tpr"), ("pr", "recall", "precision")), lines, strict=True
        )
    }


def _confusion(counts: Ints, called: Mask) -> dict[str, int]:
    (tn, fp), (fn, tp) = ((int(row[~called].sum()), int(row[called].sum())) for row in counts)
    return {"tn": tn, "fp": fp, "fn": fn, "tp": tp}


def _subtype(right: Mask, samples: Floats, patients: int) -> dict[str, Any]:
    rate = float(right.mean())
    interval = all_or_none(rate, patients) if rate in (0, 1) else interval95(samples)
    return {"n": len(right), "detected": int(right.sum()), "rate": rate, "ci": interval}


def _owners(data: ImageSet, mask: Mask) -> int:
    """Count the patients of the images in `mask`."""
    return len({data.patients[row] for row in np.flatnonzero(mask)})
