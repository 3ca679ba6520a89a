"""Report progress of work to the caller: one small callable, so that no layer knows the terminal."""

from typing import Protocol


class Progress(Protocol):
    """Called with the stage's name and how much of it is done."""

    def __call__(self, stage: str, done: int, total: int | None) -> None:
        """Report that `done` of `total` units (None: unknown) of `stage` are finished."""


def silent(stage: str, done: int, total: int | None) -> None:
    """Ignore progress: the default of every `Progress` argument."""
