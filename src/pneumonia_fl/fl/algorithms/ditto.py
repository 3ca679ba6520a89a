"""Ditto: beside the global model each site trains one of its own (Li et al. 2021, arXiv:2012.04221, algorithm 1).

The global model w is trained exactly as in FedAvg. The site's own model v learns from the same images with the term
mu/2 |v - w|^2, w as it was received (the paper's lambda is our mu), and never leaves the site.
"""

import copy
from typing import Any

from nvflare.app_common.abstract.fl_model import FLModel
from torch import nn

from pneumonia_fl.fl.algorithms.site_base import Fit, SiteAlgorithm, proximal_term
from pneumonia_fl.fl.state.site_state import SiteState
from pneumonia_fl.models.checkpoint import load_into
from pneumonia_fl.training.local import TrainResult


class Ditto(SiteAlgorithm):
    """A personal model that is pulled towards the global one."""

    def __init__(self, site: str, mu: float) -> None:
        super().__init__(site)
        self.mu = mu

    def begin(self, model: nn.Module, message: FLModel, state: SiteState) -> None:
        """Load the site's own model of the last round; a site without one begins with the received model."""
        super().begin(model, message, state)
        self._state, self._round = state, message.current_round
        self._own, self._term = copy.deepcopy(model), proximal_term(self.mu, model)
        kept = state.load(state.previous_round(self._round))
        if kept:
            load_into(self._own, kept, "this site's own model")

    def own_model(self, model: nn.Module) -> nn.Module:
        """Return the personal model."""
        return self._own

    def end(self, model: nn.Module, result: TrainResult, fit: Fit) -> dict[str, Any]:
        """Train the own model, and keep it."""
        fit(self._own, self._term)
        self._state.save(self._round, self._own.state_dict())
        return {}
