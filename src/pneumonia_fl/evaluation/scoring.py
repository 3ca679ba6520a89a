"""Score images with a model; the model comes back in the mode in which it was given."""

import contextlib
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from pneumonia_fl.config.sections import Preprocess
from pneumonia_fl.data.preprocess import normalise
from pneumonia_fl.data.store import ImageSet, Pixels
from pneumonia_fl.errors import DataError
from pneumonia_fl.metrics.binary import ScoreHistogram


def margins(
    model: nn.Module, images: Pixels, preprocess: Preprocess, batch_size: int = 64
) -> NDArray[np.float32]:
    """Return logit(PNEUMONIA) - logit(NORMAL), float32 (N,), of images, uint8 (N, S, S).

    Computed on the device where the model lies.

    Raises:
        DataError: there is no image.
    """
    if len(images) == 0:
        raise DataError(
            "no images to evaluate: this split is empty; check the data with `pneumonia-fl data check`"
        )
    device = next(model.parameters()).device
    with _evaluating(model), torch.inference_mode():
        parts = []
        for start in range(0, len(images), batch_size):
            batch = torch.from_numpy(np.array(images[start : start + batch_size])).to(device)
            logits = model(normalise(batch, preprocess)).float()
            parts.append((logits[:, 1] - logits[:, 0]).cpu().numpy())
    return np.concatenate(parts)


def evaluate(model: nn.Module, data: ImageSet, preprocess: Preprocess) -> ScoreHistogram:
    """Score a split and count the margins by class.

    Raises:
        DataError: the split is empty, or the model answers with NaN or infinity.
    """
    return ScoreHistogram.from_scores(margins(model, data.images, preprocess), data.labels)


def is_better(auroc: float | None, best: float | None) -> bool:
    """Return True when a model is the best so far; without any AUROC (one class only) the latest is."""
    return best is None or (auroc is not None and auroc > best)


@contextlib.contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)
