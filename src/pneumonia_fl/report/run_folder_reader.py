"""Lenient reading of a comparison folder, and removal of paths that a report must not show."""

import re
from dataclasses import dataclass
from pathlib import Path

from pneumonia_fl.errors import RunError
from pneumonia_fl.evaluation.comparison import SUMMARY
from pneumonia_fl.runs.lenient import LenientReader, Values

_PATH = re.compile(r"(?<![\w.])(?:[A-Za-z]:)?[/\\](?:[^\s/\\:;,'\"]+[/\\])+(?=[^\s/\\])")


@dataclass(frozen=True)
class ComparisonFiles:
    """A comparison folder: its `summary.json`, and what is missing."""

    summary: Values
    problems: list[str]


def read_comparison(folder: Path) -> ComparisonFiles:
    """Read a comparison folder.

    Raises:
        RunError: its `summary.json` is damaged.
    """
    files = LenientReader()
    summary = files.json(folder / SUMMARY, "")
    if not summary:
        raise RunError(
            f"{folder / SUMMARY} is damaged; run `pneumonia-fl compare` again, it resumes from its parts"
        )
    arms = [arm for arm in summary.get("arms", []) if isinstance(arm, dict)]
    return ComparisonFiles({**summary, "arms": arms}, files.problems)


def without_paths(text: object) -> str:
    """Cut every absolute path in `text` to its last part: a report may leave the machine."""
    return _PATH.sub("", str(text))
