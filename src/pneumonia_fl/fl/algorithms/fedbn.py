"""FedBN: normalisation stays at the site (Li et al. 2021, arXiv:2102.07623, algorithm 1).

Weights, biases and running statistics of every normalisation layer are the site's own. They do not travel in either
direction, not even once: the server's model is built without these layers (`build_model` with norm `none`).
"""

import logging
from collections.abc import Mapping
from typing import Any

from nvflare.app_common.abstract.fl_model import FLModel
from torch import Tensor, nn

from pneumonia_fl.fl.algorithms.site_base import Fit, SiteAlgorithm
from pneumonia_fl.fl.state.site_state import SiteState
from pneumonia_fl.models.architectures import normalisation_keys
from pneumonia_fl.models.checkpoint import load_into
from pneumonia_fl.training.local import TrainResult

log = logging.getLogger("pneumonia_fl.site")


class FedBN(SiteAlgorithm):
    """The received weights around the site's own normalisation."""

    def begin(self, model: nn.Module, message: FLModel, state: SiteState) -> None:
        """Complete the received weights with the site's normalisation; a site without one begins with the model's."""
        self._state, self._round = state, message.current_round
        own = state.load(state.previous_round(self._round))
        if not own and self._round:
            log.warning("this site has no normalisation of its own yet; it begins with an untrained one")
        load_into(model, {**(own or _part(model, own=True)), **message.params})

    def own_model(self, model: nn.Module) -> nn.Module:
        """Return the model as it is evaluated here: it is complete at this site only."""
        return model

    def end(self, model: nn.Module, result: TrainResult, fit: Fit) -> dict[str, Any]:
        """Save the trained normalisation at the site."""
        self._state.save(self._round, _part(model, own=True))
        return {}

    def shared(self, model: nn.Module) -> Mapping[str, Tensor]:
        """Return all parameters but those of normalisation."""
        return _part(model, own=False)


def _part(model: nn.Module, own: bool) -> dict[str, Tensor]:
    keys = normalisation_keys(model)
    return {key: value for key, value in model.state_dict().items() if (key in keys) == own}
