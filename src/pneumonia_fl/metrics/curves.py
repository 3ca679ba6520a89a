"""ROC, precision-recall and reliability curves, from counts (2, K) of both classes in order of rising score."""

from typing import Any

import numpy as np

from pneumonia_fl.metrics.binary import ECE_BINS, Floats, Ints, calibration_bin
from pneumonia_fl.metrics.platt import Scaling

GRID = 101
"""Points of a curve that is drawn, from 0 to 1."""


def roc_points(counts: Ints) -> tuple[Floats, Floats]:
    """Return false and true positive rates (K + 1,), from (0, 0) over every score that occurs to (1, 1)."""
    false, true = _called(counts) / counts.sum(1, keepdims=True)
    return np.append(0.0, false), np.append(0.0, true)


def pr_points(counts: Ints) -> tuple[Floats, Floats]:
    """Recall and precision (K,) at every score that occurs, the highest first; there is pneumonia."""
    false, true = _called(counts)
    return true / counts[1].sum(), true / np.maximum(true + false, 1)


def roc_grid(counts: Ints) -> Floats:
    """Return true positive rates at 101 false positive rates from 0 to 1."""
    false, true = roc_points(counts)
    # Where the curve rises straight up, `interp` takes its upper end.
    return np.interp(grid(), false, true)


def pr_grid(counts: Ints) -> Floats:
    """Return the precision at 101 recalls from 0 to 1: at the highest threshold that reaches the recall."""
    recall, precision = pr_points(counts)
    reached = np.searchsorted(recall, np.minimum(grid(), recall[-1]))
    return np.asarray(precision[reached])


def grid() -> Floats:
    """Return the 101 points from 0 to 1."""
    return np.linspace(0, 1, GRID)


def reliability(values: Floats, counts: Ints, scaling: Scaling) -> list[dict[str, Any]]:
    """Return mean predicted and observed share of pneumonia in each of the ECE's 15 bins with images."""
    p, images = scaling.probability(values), counts.sum(0)
    place = calibration_bin(p)
    total, positives, expected = (
        np.bincount(place, weights=weights, minlength=ECE_BINS) for weights in (images, counts[1], images * p)
    )
    return [
        {
            "predicted": float(expected[k] / total[k]),
            "observed": float(positives[k] / total[k]),
            "n": int(total[k]),
        }
        for k in np.flatnonzero(total)
    ]


def _called(counts: Ints) -> Ints:
    """Count (2, K) of each class at least each score that occurs, the highest score first."""
    return np.cumsum(counts[:, counts.sum(0) > 0][:, ::-1], axis=1)
