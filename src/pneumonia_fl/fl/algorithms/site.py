"""What an algorithm does at a site: before, while and after it trains the global model."""

import copy
from typing import Any

from nvflare.app_common.abstract.fl_model import FLModel
from nvflare.app_opt.pt.fedproxloss import PTFedProxLoss
from torch import nn

from pneumonia_fl.learning import Algorithm
from pneumonia_fl.train import Penalty


class SiteAlgorithm:
    """FedAvg: train the received model and send it back. Others override what they change."""

    def begin(self, model: nn.Module, message: FLModel) -> None:
        """The model holds what the server sent; called before it is evaluated."""

    def penalty(self, model: nn.Module) -> Penalty | None:
        """A term for the loss of every step; `model` is as it was received."""
        return None

    def end(self, model: nn.Module) -> dict[str, Any]:
        """Called after training; returns what travels back in the answer's meta."""
        return {}


class FedProx(SiteAlgorithm):
    """The proximal term mu/2 |w - w_global|^2 (Li et al. 2020, arXiv:1812.06127, equation 2)."""

    def __init__(self, mu: float) -> None:
        self.mu = mu

    def penalty(self, model: nn.Module) -> Penalty:
        """NVFlare's own loss, against a copy of the received model."""
        loss, reference = PTFedProxLoss(self.mu), copy.deepcopy(model).requires_grad_(False)
        return lambda current: loss(current, reference)


def site_algorithm(settings: Algorithm) -> SiteAlgorithm:
    """A site's part of an algorithm."""
    return FedProx(settings.mu) if settings.name == "fedprox" else SiteAlgorithm()
