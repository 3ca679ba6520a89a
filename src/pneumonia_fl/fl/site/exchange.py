"""A site's side of the exchange: unpack what the server sends, pack what has been trained.

Two things are kept from message to message, in memory only: the model that was received last, to which the next
difference refers, and what rounding has lost of the own updates, which is added to the next one. A site that was
restarted has neither: it asks for the complete model, and the half step that its last update had lost stays lost.
"""

from collections.abc import Mapping
from typing import Any

import nvflare.client as flare
import torch
from torch import Tensor, nn

from pneumonia_fl.config.algorithm import Exchange
from pneumonia_fl.errors import AnswerError, SiteError
from pneumonia_fl.fl.protocol.exchange_codec import Arrays, Codec, digest
from pneumonia_fl.fl.protocol.messages import EXCHANGE, LACKS_REFERENCE

Answer = tuple[dict[str, Tensor], dict[str, Any]]
"""Parameters that travel, and entries of the meta beside them."""


class LacksReferenceError(SiteError):
    """The difference refers to a model that this site does not hold."""


class SiteExchange:
    """Models travel as they are, in float32."""

    def receive(self, message: flare.FLModel) -> flare.FLModel:
        """Return the server's message with the complete model in it.

        Raises:
            LacksReferenceError: it is the difference to a model that is not here.
            AnswerError: it cannot be unpacked.
        """
        if EXCHANGE in message.meta:
            raise AnswerError("the server sent a packed model; this job exchanges float32")
        return message

    def answer(self, trained: Mapping[str, Tensor]) -> Answer:
        """Return a trained model as it travels."""
        return {key: value.cpu() for key, value in trained.items()}, {}


class PackedExchange(SiteExchange):
    """Models travel packed, in both directions.

    Args:
        codec: packs and unpacks.
        model: the network; names and dtypes of its state are those of every message.
    """

    def __init__(self, codec: Codec, model: nn.Module) -> None:
        self._codec = codec
        self._dtypes = {name: value.cpu().numpy().dtype for name, value in model.state_dict().items()}
        self._held: Arrays = {}
        self._name = ""
        self._lost: Arrays = {}

    def receive(self, message: flare.FLModel) -> flare.FLModel:
        """Unpack the message, and compare the model with the name that the server has given it."""
        about = message.meta.get(EXCHANGE)
        if not isinstance(about, dict) or "model" not in about:
            raise AnswerError("the server sent a model that is not packed as this job says")
        arrays = {name: value.numpy() for name, value in message.params.items()}
        if "reference" in about and about["reference"] != self._name:
            raise LacksReferenceError(LACKS_REFERENCE)
        held = self._codec.unpack(arrays, self._held) if "reference" in about else self._complete(arrays)
        if digest(held) != about["model"]:
            raise AnswerError("the server's model arrived with other numbers than it was sent with")
        self._held, self._name = held, about["model"]
        message.params = {name: torch.from_numpy(value.copy()) for name, value in held.items()}
        return message

    def answer(self, trained: Mapping[str, Tensor]) -> Answer:
        """Pack the difference to the received model, with what the last update has lost."""
        arrays = {name: trained[name].detach().cpu().numpy() for name in self._held}
        wanted = {name: value + self._lost.get(name, 0) for name, value in arrays.items()}
        packed, arrived = self._codec.pack(wanted, self._held)
        self._lost = {name: wanted[name] - arrived[name] for name in self._codec.trained & arrived.keys()}
        return {name: torch.from_numpy(value) for name, value in packed.items()}, {
            EXCHANGE: {"reference": self._name}
        }

    def _complete(self, arrays: Arrays) -> Arrays:
        if unknown := sorted(arrays.keys() - self._dtypes.keys()):
            raise AnswerError(f"the server's model has {unknown[0]}, which this network has not")
        return {name: value.astype(self._dtypes[name]) for name, value in arrays.items()}


def site_exchange(exchange: Exchange, model: nn.Module) -> SiteExchange:
    """Return how the models of a job travel."""
    if exchange == "float32":
        return SiteExchange()
    return PackedExchange(Codec(exchange, {name for name, _ in model.named_parameters()}), model)
