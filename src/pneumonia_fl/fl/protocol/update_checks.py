"""Check an update before it counts: no site can spoil the model by accident.

The checks are cheap, and about form only; they are no defence against a site that lies well.
"""

import math
from collections.abc import Mapping
from typing import Any, TypeGuard

import numpy as np

from pneumonia_fl.inputs.text import printable

Parameters = Mapping[str, np.ndarray[Any, Any]]
MAX_SAMPLES = 10_000_000
"""More images than any site trains on in a round."""
MAX_NUMBER = 1e12
"""Bound of every number in an array: far beyond any weight or counter, and far from the end of float32, so that what
the server makes of it (sums over sites and rounds, steps of an optimiser) stays finite."""
SHOWN = 3


def problem_of(update: object, samples: object, reference: Parameters) -> str:
    """Return why an update cannot count, or "" when it can.

    Args:
        update: the parameters that a site sent.
        samples: images that it says it trained on in this round.
        reference: the parameters that were sent to the site.
    """
    return arrays_problem(update, reference) or _samples(samples)


def arrays_problem(arrays: object, reference: Parameters) -> str:
    """Return why arrays by name are not like those of `reference`, or "" when they are; finite and bounded as well."""
    # A dict, and no other mapping: NumPy's archives are one, and unpack an array whenever it is looked at.
    if not isinstance(arrays, dict) or not all(isinstance(name, str) for name in arrays):
        return "no arrays by name"
    return printable(_keys(arrays, reference) or _arrays(arrays, reference), limit=400)


def in_kind(update: Parameters, reference: Parameters) -> dict[str, np.ndarray[Any, Any]]:
    """Return an update that counts in the kinds of number of `reference`: no site chooses those of the model."""
    return {name: np.asarray(update[name], wanted.dtype) for name, wanted in reference.items()}


def own_model_problem(model: object, reference: Parameters) -> str:
    """Return why a site's own model must not go to the others, or "" when it may.

    It holds all of the global model and, with FedBN, the site's normalisation layers beside it, whose form only the
    sites know: each checks it before it loads the model.
    """
    if not isinstance(model, dict) or not model:
        return "sent no model"
    if problem := arrays_problem({name: model[name] for name in reference if name in model}, reference):
        return problem
    extra = {name: value for name, value in model.items() if name not in reference}
    if not all(
        isinstance(value, np.ndarray | np.generic) and value.dtype.kind in "fiu" for value in extra.values()
    ):
        return "its model holds more than arrays of numbers"
    if byte_count(extra) > byte_count(reference):
        return "its model is larger than any of this job"
    return arrays_problem(extra, extra)


def byte_count(update: Mapping[str, Any] | None) -> int:
    """Return the bytes of all parameters together; 0 for a reply without any."""
    return sum(int(value.nbytes) for value in (update or {}).values())


def array_bytes(*parts: object) -> int:
    """Return the bytes of all arrays that travel in the dicts of a message, whatever else is in them."""
    values = [value for part in parts if isinstance(part, dict) for value in part.values()]
    values += [inner for value in values if isinstance(value, dict) for inner in value.values()]
    return sum(int(value.nbytes) for value in values if isinstance(value, np.ndarray | np.generic))


def _keys(update: Mapping[str, Any], reference: Parameters) -> str:
    missing, extra = sorted(reference.keys() - update.keys()), sorted(update.keys() - reference.keys())
    if missing:
        return f"{len(missing)} parameters are missing: {_some(missing)}"
    return f"{len(extra)} unknown parameters: {_some(extra)}" if extra else ""


def _arrays(update: Mapping[str, Any], reference: Parameters) -> str:
    for name, wanted in reference.items():
        array = update[name]
        if not isinstance(array, np.ndarray | np.generic):
            return f"{name} is not an array"
        if array.shape != wanted.shape:
            return f"{name} has shape {list(array.shape)}, not {list(wanted.shape)}"
        # "Safe", because NVFlare hands counters on as floats.
        if not np.can_cast(array.dtype, wanted.dtype, "safe"):
            return f"{name} is {array.dtype}, not {wanted.dtype}"
        if problem := _numbers(array):
            return f"{name} has values {problem}"
    return ""


def _numbers(array: np.ndarray[Any, Any] | np.generic) -> str:
    if not array.size:
        return ""
    low, high = float(array.min()), float(array.max())  # NaN if any is
    if not (math.isfinite(low) and math.isfinite(high)):
        return "that are no numbers"
    return "" if max(-low, high) <= MAX_NUMBER else f"beyond {MAX_NUMBER:g}"


def _samples(samples: object) -> str:
    if not _is_number(samples):
        return "the sample count is no number"
    if not 1 <= samples <= MAX_SAMPLES:
        return f"the sample count {printable(samples, 20)} is out of range (1 to {MAX_SAMPLES:,})"
    return ""


def _is_number(value: object) -> TypeGuard[float]:
    if isinstance(value, bool):
        return False
    return isinstance(value, int) or (isinstance(value, float) and math.isfinite(value))


def _some(names: list[str]) -> str:
    return ", ".join(names[:SHOWN]) + (", …" if len(names) > SHOWN else "")
