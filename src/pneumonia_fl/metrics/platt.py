"""From a network's margin to a probability and an answer: Platt scaling and a threshold.

A margin is z = logit(PNEUMONIA) - logit(NORMAL). A saved model's `Scaling` was fitted on validation data
(`calibration`). It changes neither the order of images nor, since the threshold is on P and moves along, what any cut
in z decides.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pneumonia_fl.errors import DataError

WIDTH = 1 / 32
"""Of a bin of `metrics.ScoreHistogram`: thresholds that were chosen on one lie on multiples of it in z."""
# Larger than the rounding of a threshold between 1e-6 and 1 - 1e-6, far smaller than a bin.
EDGE_TOLERANCE = 1e-6


@dataclass(frozen=True, slots=True)
class Scaling:
    """P(pneumonia) = sigmoid((z - offset) / temperature): Platt (1999) with Guo et al.'s (2017) temperature.

    Raises:
        DataError: the temperature is not above 0, or one of both is not finite.
    """

    temperature: float = 1.0
    offset: float = 0.0

    def __post_init__(self) -> None:
        if not (0 < self.temperature < np.inf and np.isfinite(self.offset)):
            raise DataError(
                "a temperature lies above 0 and an offset is a number: "
                f"got temperature {self.temperature} and offset {self.offset}"
            )

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Self:
        """Read what a model card, an evaluation or a comparison says; what an older one lacks changes nothing."""
        return cls(float(values.get("temperature", 1.0)), float(values.get("offset", 0.0)))

    def logit(self, margins: ArrayLike) -> NDArray[np.float64]:
        """Return the calibrated margin: the logarithm of P / (1 - P)."""
        return np.asarray((np.asarray(margins, np.float64) - self.offset) / self.temperature)

    def probability(self, margins: ArrayLike) -> NDArray[np.float64]:
        """Return P(pneumonia) of margins z."""
        # The tanh form does not overflow for large |z|.
        return 0.5 + 0.5 * np.tanh(self.logit(margins) / 2)

    def decided(self, margins: ArrayLike, threshold: float) -> NDArray[np.bool_]:
        """Return True for each margin that is classified as pneumonia: P >= threshold.

        Raises:
            DataError: the threshold lies outside (0, 1).
        """
        if not 0 < threshold < 1:
            raise DataError(f"a threshold lies between 0 and 1: got {threshold}")
        cut = self.offset + self.temperature * float(np.log(threshold) - np.log1p(-threshold))
        edge = round(cut / WIDTH) * WIDTH
        # A threshold that was chosen on a histogram is a bin edge, and must not move past an image by rounding.
        return np.asarray(margins, np.float64) >= (edge if abs(cut - edge) < EDGE_TOLERANCE else cut)


PLAIN = Scaling()
"""The network's own probabilities, as they are."""
