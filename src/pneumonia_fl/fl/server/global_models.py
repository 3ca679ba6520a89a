"""Global models on their way to the sites: as they are, or packed as the difference to the model before.

A packed model is rounded. So the server takes as the global model what the sites have received, bit by bit: that is
what they judge, what is selected, saved and trained from, and the start of the next step of FedOpt. What rounding has
lost of the trained parameters is added to the next model (error feedback: Seide et al. 2014,
doi:10.21437/Interspeech.2014-274; for both directions Tang et al. 2019, arXiv:1905.05957).

The sites of one message may hold different models: one was restarted, one has missed a round. All get the difference;
who does not hold the model to which it refers says so and is sent the complete one, whose bits are the same.
"""

from collections.abc import Mapping, Set
from typing import Any

import numpy as np
from nvflare.app_common.abstract.fl_model import FLModel, ParamsType

from pneumonia_fl.config.algorithm import Exchange
from pneumonia_fl.errors import AnswerError
from pneumonia_fl.fl.protocol.exchange_codec import Arrays, Codec, digest
from pneumonia_fl.fl.protocol.messages import EXCHANGE

Parameters = dict[str, Any]
Messages = tuple[FLModel, FLModel | None]
"""What all sites are sent, and what a site is sent that cannot read it; None: every site can."""


class GlobalModels:
    """Models travel as they are, in float32."""

    def as_received(self, model: Parameters) -> Parameters:
        """Return a new global model as the sites will have it; what it returned last it returns as it is."""
        return model

    def messages(self, model: Parameters, number: int, meta: Mapping[str, Any]) -> Messages:
        """Build the messages of the model that `as_received` returned last.

        Args:
            model: the model.
            number: rounds that made it.
            meta: what travels beside it.
        """
        return _message(model, number, meta), None

    def unpack(self, result: FLModel, sent: Parameters) -> Any:
        """Return the parameters of a site's result, which are yet to be checked; `sent` is what it was sent.

        Raises:
            AnswerError: they cannot be unpacked.
        """
        return result.params


class PackedModels(GlobalModels):
    """Models travel packed, in both directions."""

    def __init__(self, codec: Codec) -> None:
        self._codec = codec
        self._held: Parameters = {}
        self._lost: Arrays = {}
        self._packed: Arrays = {}
        self._name = self._reference = ""

    def as_received(self, model: Parameters) -> Parameters:
        """Pack a model, and return what the sites will unpack; the first one travels complete."""
        if model is self._held:
            return model
        received = self._pack(model) if self._held else model
        self._held, self._reference, self._name = received, self._name, digest(received)
        return received

    def messages(self, model: Parameters, number: int, meta: Mapping[str, Any]) -> Messages:
        """Build the message of the difference and that of the complete model."""
        name = {"model": self._name}
        complete = _message(self._held, number, {**meta, EXCHANGE: name})
        if not self._packed:
            return complete, None
        reference = {**name, "reference": self._reference}
        return _message(self._packed, number, {**meta, EXCHANGE: reference}), complete

    def unpack(self, result: FLModel, sent: Parameters) -> Any:
        """Add the difference that a site has sent to the model that it was sent."""
        about = result.meta.get(EXCHANGE)
        reference = about.get("reference") if isinstance(about, dict) else None
        if not isinstance(reference, str) or reference != self._name:
            raise AnswerError("its packed model does not refer to the model that it was sent")
        return self._codec.unpack(result.params, sent)

    def _pack(self, model: Parameters) -> Parameters:
        wanted = {name: value + self._lost.get(name, 0) for name, value in model.items()}
        self._packed, received = self._codec.pack(wanted, self._held)
        self._lost = {
            name: np.asarray(wanted[name] - received[name]) for name in self._codec.trained & received.keys()
        }
        return received


def global_models(exchange: Exchange, trainable: Set[str]) -> GlobalModels:
    """Return how a job's models travel; `trainable` are the names of the parameters, all others are buffers."""
    return GlobalModels() if exchange == "float32" else PackedModels(Codec(exchange, trainable))


def _message(model: Parameters, number: int, meta: Mapping[str, Any]) -> FLModel:
    return FLModel(params=model, params_type=ParamsType.FULL, current_round=number, meta=dict(meta))
