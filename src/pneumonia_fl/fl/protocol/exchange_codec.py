"""A model in few bytes: as the difference to a model that both sides hold, in eight or sixteen bits.

What travels are one-dimensional arrays without names and shapes, in the order of the sorted names; the receiver takes
names, shapes and dtypes from the model that it holds, so that no sender chooses them. By what an array is:

trained, two axes or more   `int8`: round(difference / scale), a scale for each row of the first axis
other trained, and `float16` float16 of difference / scale, one scale
running statistics          float16 of the value / scale: a variance that was positive remains so
counters, anything else     as it is

Rows of the first axis are the output channels of a convolution or a linear layer. NVFlare's own `ModelQuantizer`
knows neither counters (it raises at int64) nor a reference nor what its rounding has lost, needs bitsandbytes and a GPU
for eight bits, and changes the sender's model in place.
"""

import hashlib
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from pneumonia_fl.errors import AnswerError
from pneumonia_fl.fl.protocol.update_checks import MAX_NUMBER

Format = Literal["int8", "float16"]
Array = np.ndarray[Any, Any]
Arrays = dict[str, Array]

SCALES = "scales"
"""Name of the array of scales, float32, in a packed model."""
INT8_MAX = 127
FLOAT16_EXPONENT = 15
"""A scale of two to the power of e - 15 brings numbers below 2^e to the upper end of float16, which is 65,504."""
SMALLEST = 1e-30
"""Numbers below travel as zero: near float32's own smallest, a scale would not be a normal number."""
ROW = 64
"""Fewest numbers in a row that has a scale of its own; a scale of four bytes for nine would be no saving."""


@dataclass(frozen=True)
class _Entry:
    """One array of the model: how it travels, in how many rows with a scale each; `difference`: to the reference."""

    name: str
    reference: Array
    kind: str
    rows: int
    difference: bool

    @property
    def scaled(self) -> bool:
        return self.kind in ("int8", "float16")


@dataclass(frozen=True)
class Codec:
    """Packs and unpacks a model.

    Args:
        form: how many bits a trained parameter has.
        trained: names of the parameters; everything else in a model is a buffer.
    """

    form: Format
    trained: Set[str]

    def pack(self, model: Mapping[str, Array], reference: Mapping[str, Array]) -> tuple[Arrays, Arrays]:
        """Return what travels, and the model that the receiver will make of it.

        Args:
            model: arrays like those of `reference`, whose dtypes they get.
            reference: the model that the receiver holds.

        Raises:
            AnswerError: the model has numbers that are not finite, or are beyond all weights.
        """
        parts: dict[str, list[Array]] = {}
        for entry in self._entries(reference):
            value = np.asarray(model[entry.name], entry.reference.dtype)
            if entry.difference:
                value = value - entry.reference
            if not entry.scaled:
                parts.setdefault(entry.kind, []).append(value.ravel())
                continue
            scales, numbers = _scaled(value, entry)
            parts.setdefault(SCALES, []).append(scales)
            parts.setdefault(entry.kind, []).append(numbers)
        packed = {key: np.concatenate(parts[key]) for key in sorted(parts)}
        return packed, self.unpack(packed, reference)

    def unpack(self, packed: object, reference: Mapping[str, Array]) -> Arrays:
        """Return the model that `pack` has been given, as far as it travels.

        Raises:
            AnswerError: `packed` is no model like `reference`.
        """
        entries = list(self._entries(reference))
        rest = _checked(packed, _sizes(entries))
        model: Arrays = {}
        for entry in entries:
            numbers, rest[entry.kind] = np.split(rest[entry.kind], [entry.reference.size])
            value = numbers
            if entry.scaled:
                scales, rest[SCALES] = np.split(rest[SCALES], [entry.rows])
                value = numbers.astype(np.float32).reshape(entry.rows, -1) * scales[:, None]
            value = value.reshape(entry.reference.shape)
            model[entry.name] = value + entry.reference if entry.difference else value
        return {name: np.asarray(model[name], reference[name].dtype) for name in reference}

    def _entries(self, reference: Mapping[str, Array]) -> Iterator[_Entry]:
        for name in sorted(reference):
            array = np.asarray(reference[name])
            trained = name in self.trained
            if array.dtype != np.float32 or not array.size:
                yield _Entry(name, array, array.dtype.name, 0, difference=False)
            elif trained and self.form == "int8" and array.ndim > 1:
                rows = len(array) if array.size >= ROW * len(array) else 1
                yield _Entry(name, array, "int8", rows, difference=True)
            else:
                yield _Entry(name, array, "float16", 1, difference=trained)


def digest(model: Mapping[str, Array]) -> str:
    """Return the name of a model by its numbers: both sides know by it that they hold the same bits."""
    content = hashlib.blake2b(digest_size=16)
    for name in sorted(model):
        array = np.ascontiguousarray(model[name])
        content.update(f"{name} {array.dtype} {array.shape}\n".encode())
        content.update(array.data.cast("B") if array.size else b"")
    return content.hexdigest()


def _scaled(value: Array, entry: _Entry) -> tuple[Array, Array]:
    """Return the scales of the rows, float32, and all numbers in units of them."""
    rows = value.reshape(entry.rows, -1)
    largest = np.abs(rows).max(axis=1)
    if not (largest <= MAX_NUMBER).all():  # NaN is not
        raise AnswerError(f"{entry.name} has values that are no numbers, or beyond {MAX_NUMBER:g}")
    largest = np.where(largest < SMALLEST, np.float32(0), largest)
    if entry.kind == "int8":
        scales = largest / np.float32(INT8_MAX)
    else:
        scales = np.ldexp(np.float32(1), np.frexp(largest)[1] - FLOAT16_EXPONENT) * (largest > 0)
    scales = scales.astype(np.float32)
    numbers = np.divide(rows, scales[:, None], out=np.zeros_like(rows), where=scales[:, None] > 0)
    if entry.kind == "int8":
        numbers = np.rint(numbers).clip(-INT8_MAX, INT8_MAX)
    return scales, numbers.astype(entry.kind).ravel()


def _sizes(entries: list[_Entry]) -> dict[str, int]:
    """Return how many numbers of each kind there must be."""
    sizes: dict[str, int] = {}
    for entry in entries:
        sizes[entry.kind] = sizes.get(entry.kind, 0) + entry.reference.size
        if entry.scaled:
            sizes[SCALES] = sizes.get(SCALES, 0) + entry.rows
    return sizes


def _checked(packed: object, sizes: Mapping[str, int]) -> Arrays:
    """Return the arrays of a packed model; each has the length and dtype that it must have."""
    if not isinstance(packed, dict) or packed.keys() != sizes.keys():
        raise AnswerError("its packed model does not have the parts that this job's model has")
    for kind, size in sizes.items():
        array, dtype = packed[kind], np.dtype("float32" if kind == SCALES else kind)
        if not isinstance(array, np.ndarray) or array.shape != (size,) or array.dtype != dtype:
            raise AnswerError(f"its packed model: {kind} are not {size} numbers of {dtype}")
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise AnswerError(f"its packed model: {kind} are no numbers")
    if SCALES in sizes and not ((packed[SCALES] >= 0) & (packed[SCALES] <= MAX_NUMBER)).all():
        raise AnswerError(f"its packed model: scales are not from 0 to {MAX_NUMBER:g}")
    return dict(packed)
