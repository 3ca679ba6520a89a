"""Both ends of a packed exchange in one process, for tests that look at what travels between them."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from hooks import arrays
from nvflare.app_common.abstract.fl_model import FLModel
from torch import nn

from pneumonia_fl.fl.protocol.exchange_codec import Codec, Format
from pneumonia_fl.fl.server.global_models import PackedModels
from pneumonia_fl.fl.site.exchange import PackedExchange

WEIGHT, COUNTER, VAR = "0.weight", "1.num_batches_tracked", "1.running_var"
LARGE, SMALL = 1.0, 0.001
"""Updates of two weights with one scale: alone, the small one is always rounded to nothing in eight bits."""


class OneRow(nn.Sequential):
    """A weight of one row with two numbers, and a batch norm."""

    def __init__(self) -> None:
        super().__init__(nn.Linear(2, 1, bias=False), nn.BatchNorm1d(1))
        nn.init.zeros_(self[0].weight)


def codec(form: Format = "int8") -> Codec:
    return Codec(form, {name for name, _ in OneRow().named_parameters()})


def start() -> dict[str, Any]:
    return arrays(OneRow().state_dict())


def moved(model: Mapping[str, Any]) -> dict[str, Any]:
    """A model after one update."""
    step = np.asarray([[LARGE, SMALL]], np.float32)
    return {**model, WEIGHT: model[WEIGHT] + step, COUNTER: np.asarray(model[COUNTER] + 1)}


def arriving(message: FLModel) -> FLModel:
    """What NVFlare's client API makes of a message: tensors."""
    params = {name: torch.as_tensor(value) for name, value in message.params.items()}
    return FLModel(params=params, meta=dict(message.meta))


def returning(params: Mapping[str, torch.Tensor], meta: Mapping[str, Any]) -> FLModel:
    """What the server gets of a site's result."""
    return FLModel(params={name: value.numpy() for name, value in params.items()}, meta=dict(meta))


def two_ends(form: Format = "int8") -> tuple[PackedModels, PackedExchange]:
    return PackedModels(codec(form)), PackedExchange(codec(form), OneRow())
