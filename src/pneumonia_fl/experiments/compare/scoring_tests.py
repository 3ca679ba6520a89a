"""Scores of the test images by what one training has left: one model for all, or each site's own for its images."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pneumonia_fl.config.algorithm import OperatingPoint
from pneumonia_fl.data.manifest import TEST
from pneumonia_fl.data.store import ImageSet, SiteData, open_site
from pneumonia_fl.errors import DataError, RunError
from pneumonia_fl.evaluation.scoring import margins
from pneumonia_fl.experiments.compare.compare_plan import ComparePlan
from pneumonia_fl.metrics.binary import ScoreHistogram, summarise
from pneumonia_fl.metrics.calibration import calibrate
from pneumonia_fl.metrics.platt import Scaling
from pneumonia_fl.models.checkpoint import CARD, load_model
from pneumonia_fl.runs.folder import RunFolder


@dataclass(frozen=True)
class Scored:
    """Margins of all test images in their order, how they decide, and what validation said."""

    margins: list[float]
    threshold: float
    temperature: float
    offset: float
    best_round: int
    validation_auroc: float | None


class TestImages:
    """The official test split, and the site to which each image is assigned."""

    __test__ = False  # no test, whatever pytest thinks of the name

    def __init__(self, plan: ComparePlan) -> None:
        data = SiteData.open(plan.data / TEST)
        self.images = data.split(TEST)
        self._places = [row.site for row in data.rows]
        self._plan = plan

    def of(self, site: str) -> tuple[list[int], ImageSet]:
        """Return the indices and images of one site's share."""
        rows = [index for index, place in enumerate(self._places) if place == site]
        data = self.images
        patients = [data.patients[index] for index in rows]
        subtypes = [data.subtypes[index] for index in rows]
        return rows, ImageSet(data.images[rows], data.labels[rows], patients, subtypes)

    def score(self, folder: Path, point: OperatingPoint) -> Scored:
        """Score all images with the training in `folder`.

        Raises:
            RunError: it has left no model, or not every site's own.
            DataError: sites have their own models, but the test images have no assigned sites.
        """
        run = RunFolder(folder)
        own = {site: run.site_model(site) for site in self._plan.info.sites}
        there = [site for site, place in own.items() if (place / CARD).is_file()]
        if there:
            if missing := sorted(set(own) - set(there)):
                raise RunError(f"{folder} lacks the own models of {', '.join(missing)}; train it again")
            return self._score_by_site(own, point)
        model, card = load_model(run.model)
        scores = margins(model, self.images.images, card.preprocess)
        area = card.metrics.get("auroc")
        return _scored(scores, card.threshold, card.scaling, card.round, area)

    def _score_by_site(self, own: Mapping[str, Path], point: OperatingPoint) -> Scored:
        """Score each site's images by its own model, on one scale: each model's own scaling is undone."""
        if "" in self._places:
            raise DataError(
                "the test images have no site; prepare the data again to compare sites' own models"
            )
        scores, pooled, rounds = np.zeros(len(self._places)), ScoreHistogram.empty(), []
        for site, place in own.items():
            model, card = load_model(place)
            rows, images = self.of(site)
            if rows:
                scores[rows] = card.scaling.logit(margins(model, images.images, card.preprocess))
            validation = open_site(self._plan.data, site).split("val")
            judged = card.scaling.logit(margins(model, validation.images, card.preprocess))
            pooled += ScoreHistogram.from_scores(judged, validation.labels)
            rounds.append(card.round)
        fitted = calibrate(pooled, point)
        area = summarise(pooled).auroc
        return _scored(scores, fitted.threshold, fitted.scaling, max(rounds), area)


def _scored(
    scores: NDArray[np.floating], threshold: float, scaling: Scaling, best_round: int, area: float | None
) -> Scored:
    return Scored(
        [float(score) for score in scores],
        threshold,
        **asdict(scaling),
        best_round=best_round,
        validation_auroc=area,
    )
