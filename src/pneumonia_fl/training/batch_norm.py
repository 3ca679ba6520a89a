"""Batch norm's running statistics of a model as it is, measured on images instead of followed in training.

Running statistics are a mean over some ten training steps. While the weights still change quickly, and after an
average of several models, they are those of other weights: a model that ranks images well calls all of them pneumonia.
"""

import copy
import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from pneumonia_fl.config.sections import Preprocess
from pneumonia_fl.data.preprocess import normalise
from pneumonia_fl.data.store import Pixels
from pneumonia_fl.errors import DataError

MOST_IMAGES = 128
"""Enough for a mean and a variance per channel, each over all pixels; a round of training passes many more."""
BATCH = 32


def running_statistics(model: nn.Module) -> dict[str, Tensor]:
    """Return batch norm's running means and variances by state dict key; empty without batch norm."""
    return {
        f"{name}.{kind}": getattr(layer, kind)
        for name, layer in model.named_modules()
        if isinstance(layer, _BatchNorm) and layer.track_running_stats
        for kind in ("running_mean", "running_var")
    }


def settled(model: nn.Module, images: Pixels, preprocess: Preprocess) -> dict[str, Tensor]:
    """Return what `running_statistics` should hold for `model` with its present weights; `model` does not change.

    The mean over batches of at most 32 of the statistics with which batch norm normalises them. The images are chosen
    by a fixed draw, so that the same model and images give the same statistics.

    Args:
        model: (N, 1, S, S) to two logits.
        images: uint8 (N, S, S); at most 128 of them are used.
        preprocess: how gray levels become the model's input.

    Raises:
        DataError: there is no image.
    """
    probe = copy.deepcopy(model).to(memory_format=torch.channels_last).eval()
    for layer in probe.modules():
        if isinstance(layer, _BatchNorm):  # only these: dropout would draw random numbers
            layer.train().reset_running_stats()
            layer.momentum = None  # PyTorch's word for a plain mean over the batches
    device = next(probe.parameters()).device
    with torch.no_grad():
        for rows in _batches(len(images)):
            probe(normalise(torch.from_numpy(images[rows]).to(device), preprocess))
    return {name: value.cpu() for name, value in running_statistics(probe).items()}


def _batches(count: int) -> list[NDArray[np.int64]]:
    if count == 0:
        raise DataError("no training images; check the data with `pneumonia-fl data check`")
    rows = np.random.default_rng(0).permutation(count)[:MOST_IMAGES]
    # Batch norm cannot take one image: a site that has no more sees it twice.
    rows = np.repeat(rows, 2) if count == 1 else rows
    return np.array_split(rows, math.ceil(len(rows) / BATCH))
