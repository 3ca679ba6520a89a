"""Weighted sums of arrays that take no rounding on the way, so that no order of arrival can show in them.

Every product of a value and a weight is split until it is exact, and every addition keeps what it rounds off (TwoSum,
Knuth 1997, section 4.2.2): the sum is the float64 of `_sum` plus the few remainders that do not fit into it, by
position. Only `take` rounds, and it knows nothing but the exact sum.

Memory: 8 bytes per number, and 10 more for each number whose sum needs more than 53 bits. Those are few: in 100 models
of float32 with random numbers and weights of 12 bits, one in thirty. Finite values of float32 have no more than 277
bits, so that a number takes 48 bytes at the very most, however many arrays are added.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from itertools import count
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Parameters = Mapping[str, NDArray[Any]]
Prepare = Callable[[str, slice, Floats], Floats]
"""Given a name, positions in the flat array and the values there: what is added in their place."""
Finish = Callable[[slice, Floats], NDArray[Any]]
"""Given positions in the flat array and the rounded sums there: the result."""

BLOCK = 8192
"""Numbers that are worked on at a time: some ten arrays of 64 KB stay in the core's own cache."""
SPLITTER = 2.0**27 + 1
"""Splits the 53 bits of a float64 into two halves of 26 (Veltkamp 1968): products of halves are exact."""
NARROW = (np.float16, np.float32)
"""Kinds of number that fit into one half."""


class ExactSum:
    """Exact weighted sum of arrays by name; the first arrays that are added say names, shapes and kinds of number."""

    def __init__(self) -> None:
        self.weight = 0.0
        """Sum of the weights; exact for whole numbers."""
        self._arrays: dict[str, _ExactArray] = {}

    def add(self, arrays: Parameters, weight: float, prepare: Prepare | None = None) -> None:
        """Add `arrays`, or what `prepare` makes of them, times `weight`; all must be finite."""
        if not self._arrays:
            self._arrays = {name: _ExactArray(value) for name, value in arrays.items()}
        for name, total in self._arrays.items():
            total.add(arrays[name], weight, prepare and _named(prepare, name))
        self.weight += weight

    def mean(self) -> dict[str, NDArray[Any]]:
        """Return sum / weight, rounded to the kinds of number that were added; the sum is used up."""
        weight = self.weight
        return {name: array.take(lambda at, sums: sums / weight) for name, array in self._emptied()}

    def added_to(self, origin: Parameters, factor: float = 1.0) -> dict[str, NDArray[Any]]:
        """Return origin + factor * sum, in the kinds of number of `origin`; the sum is used up."""
        return {
            name: array.take(_mover(origin[name], factor), np.asarray(origin[name]).dtype)
            for name, array in self._emptied()
        }

    def _emptied(self) -> Iterator[tuple[str, "_ExactArray"]]:
        while self._arrays:
            name = next(iter(self._arrays))
            yield name, self._arrays.pop(name)


class _ExactArray:
    """The exact sum of one array.

    `_rests` has for each block, by its start, levels of (positions, values): what the level above rounded off.
    """

    def __init__(self, like: NDArray[Any]) -> None:
        self._shape, self._dtype = np.shape(like), np.asarray(like).dtype
        self._sum = np.zeros(np.size(like))
        self._rests: dict[int, list[tuple[NDArray[np.uint16], Floats]]] = {}

    def add(
        self, values: NDArray[Any], weight: float, prepare: Callable[[slice, Floats], Floats] | None
    ) -> None:
        flat, one_half = np.reshape(values, -1), np.asarray(values).dtype.type in NARROW and prepare is None
        for at in self._blocks():
            block = flat[at].astype(np.float64)
            for product in _products(prepare(at, block) if prepare else block, weight, one_half):
                self._add(at, product)

    def take(self, finish: Finish, dtype: np.dtype[Any] | None = None) -> NDArray[Any]:
        """Return what `finish` makes of the sums, each rounded to float64 once; the memory of the sum becomes its."""
        dtype = dtype or self._dtype
        size, flat = self._sum.size, self._sum
        result = flat.view(
            dtype
        )  # of at most 8 bytes, so that a block is written where none is still to be read
        for at in self._blocks():
            values = finish(at, self._rounded(at))
            result[at] = np.rint(values) if dtype.kind in "iu" else values
        del result, self._sum
        flat.resize(-(-size * dtype.itemsize // flat.itemsize), refcheck=False)
        return flat.view(dtype)[:size].reshape(self._shape)

    def _blocks(self) -> Iterator[slice]:
        size = self._sum.size
        return (slice(start, min(start + BLOCK, size)) for start in range(0, size, BLOCK))

    def _add(self, at: slice, values: Floats) -> None:
        self._sum[at], rest = _two_sum(self._sum[at], values)
        for level in count():
            if not rest.any():
                return
            levels = self._rests.setdefault(at.start, [])
            if level == len(levels):
                levels.append(_sparse(np.zeros_like(rest)))
            total, rest = _two_sum(_dense(levels[level], rest.size), rest)
            levels[level] = _sparse(total)

    def _rounded(self, at: slice) -> Floats:
        """Return the sums at `at`, of which one rest or none is added in one rounding, and more by `fsum`."""
        sums = self._sum[at].copy()
        rests = [_dense(level, sums.size) for level in self._rests.pop(at.start, [])]
        several = np.flatnonzero(np.any(rests[1:], axis=0)) if len(rests) > 1 else ()
        exact = [math.fsum([sums[i], *(rest[i] for rest in rests)]) for i in several]
        if rests:
            sums += rests[0]
        sums[list(several)] = exact
        return sums


def _products(values: Floats, weight: float, one_half: bool) -> Iterator[Floats]:
    """Yield exact arrays whose sum is `values` times `weight`."""
    for half in _halves(values) if not one_half else (values,):
        for factor in _halves(np.float64(weight)):
            if factor.any():
                yield half * factor


def _halves(values: Any) -> tuple[Any, Any]:
    scaled = SPLITTER * values
    high = scaled - (scaled - values)
    return high, values - high


def _two_sum(first: Floats, second: Floats) -> tuple[Floats, Floats]:
    """Return the rounded sum, and exactly what it lacks."""
    total = first + second
    added = total - first
    return total, (first - (total - added)) + (second - added)


def _sparse(values: Floats) -> tuple[NDArray[np.uint16], Floats]:
    (where,) = np.nonzero(values)
    return where.astype(np.uint16), values[where]


def _dense(level: tuple[NDArray[np.uint16], Floats], size: int) -> Floats:
    values = np.zeros(size)
    values[level[0]] = level[1]
    return values


def _named(prepare: Prepare, name: str) -> Callable[[slice, Floats], Floats]:
    return lambda at, values: prepare(name, at, values)


def _mover(origin: NDArray[Any], factor: float) -> Finish:
    flat = np.reshape(origin, -1)
    return lambda at, sums: flat[at].astype(np.float64) + factor * sums
