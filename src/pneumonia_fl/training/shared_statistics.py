"""Cross-site statistics for FedNova: class counts and AdamW second moments used instead of the site's own."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import Optimizer

SETTLED = 1e4
"""Steps after which AdamW has no bias to correct."""


@dataclass(frozen=True, slots=True)
class SharedStatistics:
    """Numbers of all sites in place of a site's own."""

    class_counts: Sequence[int]
    """Images of both classes at all sites, for the weights of the loss."""
    second_moments: Mapping[str, Tensor]
    """AdamW's second moments by parameter, without their bias; empty with SGD."""

    def apply_to(self, model: nn.Module, optimizer: Optimizer, one_class: bool) -> None:
        """Prepare one local training.

        AdamW divides gradients by the root of `second_moments`: by its own, a site that has little left to learn
        would move as far as the others.

        With `one_class` the statistics of batch normalisation stay as they were received: those of the site's own
        batches take away what tells its class from the other.
        """
        for name, parameter in model.named_parameters():
            if name in self.second_moments:
                state = optimizer.state[parameter]
                state.setdefault("exp_avg", torch.zeros_like(parameter))
                state["exp_avg_sq"] = torch.empty_like(parameter).copy_(self.second_moments[name])
                state["step"] = torch.tensor(SETTLED, device=parameter.device)
        for module in model.modules():
            if one_class and isinstance(module, _BatchNorm):
                module.eval()


def second_moments(model: nn.Module, optimizer: Optimizer) -> dict[str, Tensor]:
    """Return AdamW's bias-corrected second moments by parameter; {} for other optimizers."""
    states = {name: optimizer.state.get(parameter, {}) for name, parameter in model.named_parameters()}
    beta2 = optimizer.defaults.get("betas", (0.0, 0.0))[1]
    return {
        name: state["exp_avg_sq"] / (1.0 - beta2 ** state["step"].item())
        for name, state in states.items()
        if "exp_avg_sq" in state
    }
