"""A saved model on single images: the calibrated probability and the answer at the saved threshold."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import nn

from pneumonia_fl.data.preprocess import decode
from pneumonia_fl.errors import DataError
from pneumonia_fl.evaluation.scoring import margins
from pneumonia_fl.models.checkpoint import ModelCard
from pneumonia_fl.progress import Progress, silent


@dataclass(frozen=True, slots=True)
class Prediction:
    """The model's answer to one image, or in `error` why there is none.

    `probability` is P(pneumonia) calibrated by the card's scaling; `answer` is one of the card's classes.
    """

    image: Path
    probability: float | None = None
    answer: str | None = None
    error: str | None = None


def predict(
    model: nn.Module, card: ModelCard, images: Sequence[Path], progress: Progress = silent
) -> Iterator[Prediction]:
    """Answer each image in turn; one that cannot be read does not stop the others.

    Raises:
        DataError: the model answers with NaN or infinity.
    """
    for done, image in enumerate(images):
        yield _predict(model, card, image)
        progress("predict", done + 1, len(images))


def _predict(model: nn.Module, card: ModelCard, image: Path) -> Prediction:
    try:
        pixels = decode(image.read_bytes(), card.preprocess).pixels
    except OSError as error:
        return Prediction(image, error=error.strerror or str(error))
    except DataError as error:
        return Prediction(image, error=str(error))
    margin = float(margins(model, pixels[np.newaxis], card.preprocess)[0])
    if not np.isfinite(margin):
        raise DataError("the model's answer is not a number: its weights are broken")
    is_positive = bool(card.scaling.decided(margin, card.threshold))
    return Prediction(image, float(card.scaling.probability(margin)), card.classes[is_positive])
