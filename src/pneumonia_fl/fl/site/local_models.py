"""A site's best local model, for cross-site evaluation: kept at the site, sent only when job and site both say so."""

from collections.abc import Callable

import torch
from nvflare.app_common.abstract.fl_model import FLModel
from torch import nn

from pneumonia_fl.config.environment import shares_model
from pneumonia_fl.config.job import SiteSettings
from pneumonia_fl.data.store import ImageSet
from pneumonia_fl.evaluation.scoring import evaluate
from pneumonia_fl.fl.protocol.messages import SITE_REPORT
from pneumonia_fl.fl.state.site_state import SiteState
from pneumonia_fl.metrics.binary import ScoreHistogram, summarise
from pneumonia_fl.metrics.series import series
from pneumonia_fl.models.architectures import build_model
from pneumonia_fl.models.checkpoint import ModelCard, load_into

LOCAL = "local_model"
"""Its folder in the site's state."""


class LocalModels:
    """A site's models for cross-site evaluation.

    Args:
        site: its name.
        settings: those of the job.
        data: its validation split.
        device: where models are evaluated.
    """

    def __init__(self, site: str, settings: SiteSettings, data: ImageSet, device: torch.device) -> None:
        self._settings, self._data, self._device = settings, data, device
        self._shares = shares_model(site)
        self._wanted = settings.cross_site.local_models and self._shares

    def note(self, model: nn.Module, card: Callable[[ScoreHistogram], ModelCard], state: SiteState) -> None:
        """Save `model`, which the site has just trained, if it is its best on its validation split."""
        if self._wanted:
            histogram = evaluate(model, self._data, self._settings.preprocess)
            state.keep_if_better(model, card(histogram), LOCAL)

    def submit(self, state: SiteState) -> FLModel:
        """Answer the task `submit_model`: the best local model, or why there is none."""
        if not self._shares:
            return problem("does not share its model")
        parameters = state.saved_model(LOCAL) if self._wanted else None
        return FLModel(params=parameters) if parameters else problem("has trained no model in this job")

    def evaluate(self, message: FLModel) -> FLModel:
        """Evaluate another site's complete model on the own validation split."""
        settings = self._settings
        model = build_model(settings.model.name, norm=settings.model.norm, size=settings.preprocess.size)
        load_into(model.to(self._device), message.params, "the other site's model")
        histogram = evaluate(model, self._data, settings.preprocess)
        report = {"histogram": histogram.to_dict()}
        return FLModel(metrics=series(summarise(histogram)), meta={SITE_REPORT: report})


def problem(reason: str) -> FLModel:
    """Answer a task with why it cannot be done."""
    # NVFlare wants parameters or metrics in every answer.
    return FLModel(metrics={"problem": 1.0}, meta={SITE_REPORT: {"problem": reason}})
