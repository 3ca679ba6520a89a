"""Severity of a warning, and its wording."""

from collections.abc import Iterable
from typing import Any

from pneumonia_fl.report.view.rendering import sentence

SERIOUS, CAUTION, NOTE = "serious", "caution", "note"

Warning_ = tuple[str, str]
"""A level and a sentence."""
Found = tuple[str, str, dict[str, Any]]
"""A level, which sentence of `templates/warnings.txt.j2`, and its values."""


def in_words(found: Iterable[Found]) -> dict[str, list[Warning_]]:
    """Return warnings in words, each once: the serious ones, which a page shows above its numbers, and the others."""
    said = dict.fromkeys(
        (level, sentence("warnings.txt.j2", name, **values)) for level, name, values in found
    )
    ordered = sorted(said, key=lambda item: (SERIOUS, CAUTION, NOTE).index(item[0]))
    return {
        "serious": [item for item in ordered if item[0] == SERIOUS],
        "others": [item for item in ordered if item[0] != SERIOUS],
    }
