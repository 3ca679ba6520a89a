"""Progress in the terminal: one bar per stage, on stderr, so that stdout stays clean for results."""

from collections.abc import Iterator
from contextlib import contextmanager

from pneumonia_fl.progress import Progress, silent

BYTES_STAGE = "download"
"""The stage whose units are bytes."""


@contextmanager
def progress_bars(quiet: bool = False) -> Iterator[Progress]:
    """Yield a `Progress` that draws a bar for each stage it is told of; silent when `quiet`."""
    if quiet:
        yield silent
        return
    from rich.progress import BarColumn, TaskID, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    from pneumonia_fl.cli.views.terminal import terminal, text_column

    bars = Bars(
        text_column("{task.description:<10}"),
        BarColumn(),
        text_column("{task.fields[amount]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=terminal(stderr=True),
    )
    tasks: dict[str, TaskID] = {}

    def report(stage: str, done: int, total: int | None) -> None:
        if stage not in tasks:
            bars.start()
            tasks[stage] = bars.add_task(stage, total=total, amount="")
        bars.update(tasks[stage], completed=done, total=total, amount=amount(stage, done, total))

    try:
        yield report
    finally:
        # Bars that never started would leave an empty line above an error.
        if tasks:
            bars.stop()


def amount(stage: str, done: int, total: int | None) -> str:
    """Return how much is done, in words: `1,203/5,216`, or megabytes of a download."""
    if stage != BYTES_STAGE:
        return f"{done:,}" if total is None else f"{done:,}/{total:,}"
    return f"{done / 1e6:,.1f} MB" if total is None else f"{done / 1e6:,.1f}/{total / 1e6:,.1f} MB"
