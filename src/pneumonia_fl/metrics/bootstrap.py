"""Confidence intervals by resampling patients: images of one patient are alike, so they are drawn together.

The percentile bootstrap (Efron and Tibshirani 1993) over clusters. What it cannot do: say anything where a rate
is 0 or 1 in every resample (`all_or_none` does), or cover well with fewer than some 20 patients of a class.
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from pneumonia_fl.errors import DataError
from pneumonia_fl.metrics.binary import Floats, Ints

Interval = tuple[float, float]
TAILS = (2.5, 97.5)
"""Percentiles that a 95 % interval lies between."""


def resample(
    patients: Sequence[str | int],
    statistic: Callable[[Ints], Sequence[float | None] | Floats],
    n: int = 1000,
    seed: int = 7,
) -> Floats:
    """Compute a statistic of K numbers on `n` samples of patients, drawn with replacement.

    One call for several models gives paired samples: their difference is a difference of columns.

    Args:
        patients: whose each of the N images is.
        statistic: takes rows, int64 (M,) indices of images, which repeat; returns K numbers, None or NaN where it
            is undefined.
        n: number of samples.
        seed: of the draws.

    Returns:
        float64 (n, K), NaN where undefined.

    Raises:
        DataError: there are no images.
    """
    if len(patients) == 0:
        raise DataError("no images to score")
    _, owner = np.unique(np.asarray(patients), return_inverse=True)
    order, sizes = np.argsort(owner, kind="stable"), np.bincount(owner)
    starts = np.cumsum(sizes) - sizes
    rng = np.random.default_rng(seed)
    samples = (_rows(rng.integers(len(sizes), size=len(sizes)), starts, sizes, order) for _ in range(n))
    return np.array([statistic(rows) for rows in samples], dtype=np.float64)


def interval95(values: Floats) -> Interval | None:
    """Compute the 95 % percentile interval of resampled values (n,), NaN left out; None when all are NaN."""
    defined = values[~np.isnan(values)]
    if not len(defined):
        return None
    low, high = np.percentile(defined, TAILS)
    return float(low), float(high)


def reflected95(estimate: float, values: Floats) -> Interval | None:
    """Compute the 95 % basic bootstrap interval, for a value >= 0 that noise only raises, as ECE.

    Resampling adds to such a number what sampling has already added once, so that its percentiles lie too high;
    reflected at the estimate they take the same amount away (Davison and Hinkley 1997). Where nearly all of the
    number is noise, every resample lies above the estimate; the interval then ends at it.
    """
    interval = interval95(values)
    return interval and (max(2 * estimate - interval[1], 0.0), max(2 * estimate - interval[0], estimate))


def all_or_none(rate: float, patients: int) -> Interval:
    """Compute the 95 % interval of a rate of exactly 0 or 1 over `patients` (Clopper and Pearson 1934).

    Every resample has the same rate then, but seeing no failure in 20 patients does not make one impossible.
    """
    bound = (TAILS[0] / 100) ** (
        1 / patients
    )  # of a rate of 1; at the ends the exact interval has a closed form
    return (bound, 1.0) if rate == 1 else (0.0, 1 - bound)


def _rows(drawn: Ints, starts: Ints, sizes: Ints, order: NDArray[np.int64]) -> Ints:
    """Return all images of the drawn patients, whose images are adjacent in `order`."""
    lengths = sizes[drawn]
    ends = np.cumsum(lengths)
    rows: Ints = order[np.repeat(starts[drawn] - ends + lengths, lengths) + np.arange(ends[-1])]
    return rows
