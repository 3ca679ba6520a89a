"""Read JSON that somebody else may have written; what exceeds a limit is a `ValueError`, as broken JSON is."""

import json
from pathlib import Path
from typing import Any

from pneumonia_fl.inputs.text import no_utf8

MAX_BYTES = 1_000_000
"""Of a model card, a run's state, a kit's settings."""
MAX_RECORD_BYTES = 200_000_000
"""Of a file that grows with rounds and sites: `metrics.json`, a journal."""
MAX_DEPTH = 20
"""Levels of brackets; Python's own reader ends in a RecursionError at some hundred."""


def read_json(path: Path, limit: int = MAX_BYTES) -> Any:
    """Return the value in a JSON file.

    Raises:
        OSError: it cannot be read.
        ValueError: it is broken, larger than `limit` bytes, or too deep.
    """
    return parse_json(read_limited(path, limit), limit)


def read_limited(path: Path, limit: int = MAX_BYTES) -> bytes:
    """Return the content of a file; `ValueError` when it has more than `limit` bytes."""
    with path.open("rb") as file:
        content = file.read(limit + 1)
    _check_size(content, limit)
    return content


def parse_json(content: bytes | str, limit: int = MAX_BYTES) -> Any:
    """Return the value of a JSON text.

    Raises:
        ValueError: it is broken, larger than `limit` bytes, or too deep.
    """
    _check_size(content, limit)
    try:
        value = json.loads(content)
    except RecursionError:
        raise _too_deep() from None
    except UnicodeDecodeError as error:
        raise ValueError(no_utf8(error)) from None
    level, depth = [value], 0
    while level := [item for parent in level for item in _items(parent)]:
        depth += 1
        if depth > MAX_DEPTH:
            raise _too_deep()
    return value


def _items(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else []


def _check_size(content: bytes | str, limit: int) -> None:
    if len(content) > limit:
        raise ValueError(f"larger than {limit // 1000} kB")


def _too_deep() -> ValueError:
    return ValueError(f"nested deeper than {MAX_DEPTH} levels")
