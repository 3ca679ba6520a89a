"""Optimisers at the server: the average is not the next model but says in which direction to go.

The pseudo-gradient is the sites' average minus the model that was sent. FedAvgM is Hsu et al. 2019 (arXiv:1909.06335),
FedAdam and FedYogi are algorithm 2 of Reddi et al. 2021 (arXiv:2003.00295), without bias correction as in the paper.
What is no trainable parameter (the running statistics of batch norm, counters) takes the plain average.

NumPy and not torch.optim: its Adam corrects the bias and it has no Yogi, the server holds arrays, and a job that goes
on needs the moments as arrays. (FedAvgM is what torch.optim.SGD does; a test holds the two together.)
"""

from collections.abc import Set
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pneumonia_fl.config.algorithm import Algorithm
from pneumonia_fl.fl.algorithms.server_base import Parameters, ServerAlgorithm

Floats = NDArray[np.float64]


class ServerOptimizer(ServerAlgorithm):
    """A step of `server_lr` along `direction`, in float64; the moments survive in `state`."""

    def __init__(self, settings: Algorithm, trainable: Set[str]) -> None:
        self.settings, self._trainable = settings, trainable
        self._moments: Parameters = {}

    def update(self, previous: Parameters, average: Parameters) -> Parameters:
        """Compute the next global model: a step for trainable parameters, the average for all others."""
        return {
            name: self._step(name, previous[name], value) if name in self._trainable else value
            for name, value in average.items()
        }

    def _step(self, name: str, before: Any, average: Any) -> NDArray[Any]:
        start = np.asarray(before, np.float64)
        delta = np.asarray(average, np.float64) - start
        return np.asarray(start + self.settings.server_lr * self.direction(name, delta), average.dtype)

    def direction(self, name: str, delta: Floats) -> Floats:
        """Compute the step from the pseudo-gradient `delta` of one parameter; update its moments."""
        raise NotImplementedError

    def moment(self, key: str, start: float) -> Floats:
        """Return a moment of the last round; `start` in the first."""
        return np.asarray(self._moments.get(key, start), np.float64)

    def state(self) -> Parameters:
        """Return the moments, float64."""
        return dict(self._moments)

    def restore(self, state: Parameters) -> None:
        """Restore the moments."""
        self._moments = dict(state)


class FedAvgM(ServerOptimizer):
    """Momentum: v = momentum v + delta; x = x + server_lr v."""

    def direction(self, name: str, delta: Floats) -> Floats:
        """Return the velocity."""
        velocity = self.settings.momentum * self.moment(f"v.{name}", 0.0) + delta
        self._moments[f"v.{name}"] = velocity
        return velocity


class FedAdam(ServerOptimizer):
    """x = x + server_lr m / (sqrt(v) + tau), m the mean of delta and v that of its square; v begins at tau²."""

    def direction(self, name: str, delta: Floats) -> Floats:
        """Return the mean, scaled."""
        settings = self.settings
        mean = settings.beta1 * self.moment(f"m.{name}", 0.0) + (1 - settings.beta1) * delta
        square = self.second(self.moment(f"v.{name}", settings.tau**2), delta**2)
        self._moments |= {f"m.{name}": mean, f"v.{name}": square}
        return np.asarray(mean / (np.sqrt(square) + settings.tau))

    def second(self, old: Floats, square: Floats) -> Floats:
        """Compute v = beta2 v + (1 - beta2) delta²."""
        return self.settings.beta2 * old + (1 - self.settings.beta2) * square


class FedYogi(FedAdam):
    """FedAdam with a second moment that falls no faster than it rises."""

    def second(self, old: Floats, square: Floats) -> Floats:
        """Compute v = v - (1 - beta2) delta² sign(v - delta²)."""
        return old - (1 - self.settings.beta2) * square * np.sign(old - square)


OPTIMIZERS = {"fedavgm": FedAvgM, "fedadam": FedAdam, "fedyogi": FedYogi}
