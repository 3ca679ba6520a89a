"""What an update must look like before it may count: no site can spoil the model by accident.

The checks are cheap, and about form only; they are no defence against a site that lies well.
"""

import math
from collections.abc import Mapping
from typing import Any, TypeGuard

import numpy as np

Parameters = Mapping[str, np.ndarray[Any, Any]]
MAX_SAMPLES = 10_000_000
"""More images than any site trains on in a round."""
SHOWN = 3


def problem_of(update: Mapping[str, Any], samples: object, reference: Parameters) -> str:
    """Return why an update cannot count, or "" when it can.

    Args:
        update: the parameters that a site sent.
        samples: images that it says it trained on in this round.
        reference: the parameters that were sent to the site.
    """
    return _keys(update, reference) or _arrays(update, reference) or _samples(samples)


def byte_count(update: Mapping[str, Any] | None) -> int:
    """Bytes of all parameters together; 0 for an answer without any."""
    return sum(int(value.nbytes) for value in (update or {}).values())


def checked_numbers(values: Mapping[str, Any]) -> dict[str, float | None]:
    """A site's own numbers by name as the journal can take them; `ValueError` for anything else."""
    values = dict(values)
    wrong = [name for name, value in values.items() if value is not None and not _is_number(value)]
    if wrong:
        raise ValueError(f"{_some(wrong)} is no number")
    return {str(name): value for name, value in values.items()}


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
        if not np.isfinite(array).all():
            return f"{name} has values that are no numbers"
    return ""


def _samples(samples: object) -> str:
    if not _is_number(samples):
        return f"the sample count {samples!r} is no number"
    if not 1 <= samples <= MAX_SAMPLES:
        return f"the sample count {samples} is absurd"
    return ""


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _some(names: list[str]) -> str:
    return ", ".join(names[:SHOWN]) + (", …" if len(names) > SHOWN else "")
