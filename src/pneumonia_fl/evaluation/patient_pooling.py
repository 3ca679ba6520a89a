"""Intervals by patient for images that lie at several sites, without moving a score, a patient or an id.

Each site draws samples of its own patients, and tells for each how many of its images fall into a few cells: stretches
of the score histogram of a class. A pooled sample is the sum over the sites, which is the bootstrap stratified by site.
Inside a cell the images of a sample are drawn from the site's histogram, as many together as a patient has on average.
So what cells carry is how patients' images belong together; where single images lie is exact whatever the cells.

What a site reveals beside its histogram: how the numbers of images in two cells vary together, over its own samples,
whose seed it keeps to itself. A cell holds images of at least five patients, so that no image has one of its own.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pneumonia_fl.data.store import ImageSet
from pneumonia_fl.errors import DataError
from pneumonia_fl.evaluation.assess import Patients, describe, patients_of, statistics_of
from pneumonia_fl.metrics.binary import BINS, Floats, Ints, ScoreHistogram, bin_centres, bins_of
from pneumonia_fl.metrics.bootstrap import resample
from pneumonia_fl.metrics.platt import Scaling

REPLICATES = 1000
MOST_CELLS = 48
"""For each class."""
GROWTH = 0.3
"""A cell's share of the patients that lie between it and the nearer end."""
FEWEST_PATIENTS = 5
"""In a cell, unless the whole class has fewer."""
FAR = 8
"""Standard errors; the mean of a site's samples lies nearer to what it observed."""

Counts = NDArray[np.int32]
Starts = tuple[tuple[int, ...], tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class Sampled:
    """Score statistics that a site sends.

    Attributes:
        histogram: of all its images.
        patients: with a normal image, with pneumonia, and all.
        starts: first bin of each cell of both classes; the first cell begins at 0.
        replicates: int32 (REPLICATES, cells of both classes), images in each cell in samples of the patients.
    """

    histogram: ScoreHistogram
    patients: Patients
    starts: Starts
    replicates: Counts

    @classmethod
    def draw(cls, margins: ArrayLike, data: ImageSet, secret: bytes) -> "Sampled":
        """Sample the patients of a site.

        Args:
            margins: (N,).
            data: the images, labels and patients.
            secret: seed of the samples, which only the site knows.
        """
        bins, patients = bins_of(margins), np.unique(np.asarray(data.patients), return_inverse=True)[1]
        starts = tuple(_cells(bins[data.labels == k], patients[data.labels == k]) for k in (0, 1))
        cell = np.select(
            [data.labels == 0, data.labels == 1],
            [_cell_of(starts[0], bins), len(starts[0]) + _cell_of(starts[1], bins)],
        )
        size = len(starts[0]) + len(starts[1])

        def count(rows: Ints) -> Floats:
            return np.bincount(cell[rows], minlength=size).astype(np.float64)

        drawn = resample(data.patients, count, REPLICATES, int.from_bytes(hashlib.sha256(secret).digest()))
        histogram = ScoreHistogram.from_scores(margins, data.labels)
        return cls(histogram, patients_of(data), (starts[0], starts[1]), drawn.astype(np.int32))

    def check(self) -> None:
        """Refuse samples that cannot be of this histogram.

        Raises:
            DataError: they are of another form, or too far from the histogram.
        """
        for row in self.starts:
            if row[:1] != (0,) or list(row) != sorted(set(row)) or row[-1] >= BINS or len(row) > MOST_CELLS:
                raise DataError("its cells are not stretches of a histogram")
        normal, pneumonia, everybody = self.patients
        images = self.histogram.counts.sum(1)
        fits = all(
            own <= n and (own > 0) == (n > 0) for own, n in zip((normal, pneumonia), images, strict=True)
        )
        if not fits or not max(normal, pneumonia) <= everybody <= normal + pneumonia:
            raise DataError("its numbers of patients contradict its images")
        observed, found = self._observed(), self.replicates
        if found.dtype != np.int32 or found.shape != (REPLICATES, len(observed)):
            raise DataError(f"its samples are {found.dtype} {list(found.shape)}")
        error = FAR * found.std(0) / REPLICATES**0.5
        if (
            found.min() < 0
            or not found.any(1).all()
            or (found > observed * everybody).any()
            or (abs(found.mean(0) - observed) > error).any()
        ):
            raise DataError("its samples are not those of its histogram")

    def spread(self, rng: np.random.Generator) -> Ints:
        """Draw histograms, int64 (REPLICATES, 2, BINS), that have as many images in each cell as the samples."""
        found = np.zeros((REPLICATES, 2, BINS), np.int64)
        columns = iter(self.replicates.T)
        for label, starts in enumerate(self.starts):
            together = round(self.histogram.counts[label].sum() / max(self.patients[label], 1)) or 1
            for start, end in zip(starts, (*starts[1:], BINS), strict=True):
                images, drawn = self.histogram.counts[label, start:end], next(columns)
                if images.any():
                    share = images / images.sum()
                    groups, rest = (
                        rng.multinomial(drawn // together, share),
                        rng.multinomial(drawn % together, share),
                    )
                    found[:, label, start:end] = together * groups + rest
        return found

    def _observed(self) -> Ints:
        rows = zip(self.histogram.counts, self.starts, strict=True)
        return np.concatenate([np.add.reduceat(counts, starts) for counts, starts in rows])


def assess_pooled(sites: Mapping[str, Sampled], threshold: float, scaling: Scaling) -> dict[str, Any]:
    """Compute all results from the sites' scores together, under the names of `evaluation.Evaluation`.

    No patient has images at two sites. Subtypes stay at the sites.

    Raises:
        DataError: there are no images, or the threshold is outside (0, 1).
    """
    counts = sum((site.histogram.counts for site in sites.values()), np.zeros((2, BINS), np.int64))
    rng = np.random.default_rng(7)
    spread = np.zeros((REPLICATES, 2, BINS), np.int64)
    for name in sorted(sites):
        spread += sites[name].spread(rng)
    there = np.flatnonzero(counts.sum(0))  # most bins are empty
    values, counts = bin_centres()[there], counts[:, there]
    samples = np.array([statistics_of(values, one, threshold, scaling) for one in spread[:, :, there]])
    patients = [sum(column) for column in zip(*(site.patients for site in sites.values()), strict=True)]
    return describe(values, counts, threshold, scaling, samples, (patients[0], patients[1], patients[2])) | {
        "subtypes": {}
    }


def _cells(bins: Ints, patients: Ints) -> tuple[int, ...]:
    """Return the first bin of each cell of a class: cells are small at both ends, where thresholds lie."""
    everybody, passed = len(set(patients.tolist())), 0
    starts, inside = [0], set[int]()
    for place in np.unique(bins):
        if len(inside) >= max(FEWEST_PATIENTS, GROWTH * min(passed, everybody - passed)) and (
            len(starts) < MOST_CELLS
        ):
            starts.append(int(place))
            passed, inside = passed + len(inside), set()
        inside |= set(patients[bins == place].tolist())
    few = len(inside) < FEWEST_PATIENTS and len(starts) > 1
    return tuple(starts[:-1] if few else starts)


def _cell_of(starts: Sequence[int], bins: Ints) -> Ints:
    return np.searchsorted(starts, bins, side="right") - 1
