"""Site's part of an algorithm: before, while and after it trains the global model."""

import copy
from collections.abc import Callable, Mapping
from typing import Any

from nvflare.app_common.abstract.fl_model import FLModel
from nvflare.app_opt.pt.fedproxloss import PTFedProxLoss
from torch import Tensor, nn

from pneumonia_fl.fl.state.site_state import SiteState
from pneumonia_fl.models.checkpoint import load_into
from pneumonia_fl.training.local import Penalty, TrainResult
from pneumonia_fl.training.shared_statistics import SharedStatistics

Fit = Callable[[nn.Module, Penalty], object]
"""Trains one more model with a penalty, as the global one is trained but in a random stream of its own."""


class SiteAlgorithm:
    """FedAvg: train the received model and send it back. Others override what they change.

    Args:
        site: the site's name.
    """

    def __init__(self, site: str) -> None:
        self.site = site

    def begin(self, model: nn.Module, message: FLModel, state: SiteState) -> None:
        """Load the server's message into the model, which is then evaluated and perhaps trained.

        Args:
            model: the site's copy of the global model.
            message: its parameters, round and meta.
            state: what the site keeps for itself.
        """
        load_into(model, message.params)

    def own_model(self, model: nn.Module) -> nn.Module | None:
        """Return the complete model that is this site's own; None: there is only the global one."""
        return None

    def penalty(self, model: nn.Module) -> Penalty | None:
        """Return a term for the loss of every step; `model` is as it was received."""
        return None

    def after_step(self, model: nn.Module) -> Callable[[float], None] | None:
        """Return a function to call after every step with its learning rate; `model` is as it was received."""
        return None

    def shared_statistics(self) -> SharedStatistics | None:
        """Return the cross-site statistics that the training uses beside the model."""
        return None

    def end(self, model: nn.Module, result: TrainResult, fit: Fit) -> dict[str, Any]:
        """Return what travels back in the result's meta; called after training."""
        return {}

    def shared(self, model: nn.Module) -> Mapping[str, Tensor]:
        """Return the parameters that travel back."""
        return model.state_dict()


class FedProx(SiteAlgorithm):
    """The proximal term mu/2 |w - w_global|^2 (Li et al. 2020, arXiv:1812.06127, equation 2)."""

    def __init__(self, site: str, mu: float) -> None:
        super().__init__(site)
        self.mu = mu

    def penalty(self, model: nn.Module) -> Penalty:
        """Return NVFlare's own proximal loss, against a copy of the received model."""
        return proximal_term(self.mu, model)


def proximal_term(mu: float, anchor: nn.Module) -> Penalty:
    """Compute mu/2 times the squared distance of all parameters, without buffers, to those of `anchor`."""
    loss, reference = PTFedProxLoss(mu), copy.deepcopy(anchor).requires_grad_(False)
    return lambda current: loss(current, reference)
