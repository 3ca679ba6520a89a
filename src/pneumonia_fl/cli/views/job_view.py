"""Display of a job on a real server: a live table, or a line per change without a terminal."""

import sys
import time
from collections import Counter
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from rich import box
from rich.console import Group, RenderableType
from rich.live import Live
from rich.table import Table

from pneumonia_fl.cli.views.fitting import FittingTable
from pneumonia_fl.cli.views.progress_bars import amount
from pneumonia_fl.cli.views.site_bars import FEW_SITES
from pneumonia_fl.cli.views.terminal import terminal
from pneumonia_fl.fl.admin.job_record import JobRecord, age
from pneumonia_fl.fl.admin.job_status import Snapshot, changes, position, quality, site_cells, time_left

if TYPE_CHECKING:
    from pneumonia_fl.fl.admin.submit import Submitted

COLUMNS = ("Site", "State", "Last round", "Contributions", "AUROC", "Heard")
AWAY_AFTER = 3.0
"""Seconds without an answer of the server that are worth a word."""


class JobView:
    """Follows a job; `quiet` prints nothing."""

    def __init__(self, quiet: bool = False) -> None:
        # This very stream: while NVFlare works, sys.stderr is another one.
        self._console = terminal(file=sys.stderr, quiet=quiet)
        self._drawing = self._console.is_terminal and not quiet
        self._status = self._work = ""
        self._snapshot: Snapshot | None = None
        self._away = False
        self._live = Live(console=self._console, refresh_per_second=4, get_renderable=self._render)

    def __enter__(self) -> Self:
        if self._drawing:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._work = ""
        if self._drawing:
            self._live.stop()

    def progress(self, stage: str, done: int, total: int | None) -> None:
        """Show work before and after the rounds."""
        text = f"{stage} … {amount(stage, done, total) if done else ''}".rstrip()
        if not self._drawing and not self._work.startswith(stage):
            self._print(text)
        self._work = text

    def on_submitted(self, submitted: "Submitted") -> None:
        """Print the job's id and the expected sites."""
        count = len(submitted.sites)
        word = "site" if count == 1 else "sites"
        sites = f" to {count} {word} ({', '.join(submitted.sites)})" if count else ""
        self._work = ""
        self._print(f"job {submitted.id} ({submitted.name}) submitted{sites}")

    def on_job(self, job: JobRecord, note: str) -> None:
        """Show the status."""
        self._status = f"{job.name} {job.id[:8]}: {job.status}{f' ({note})' if note else ''}"
        if not self._drawing:
            self._print(self._status)

    def on_snapshot(self, snapshot: Snapshot) -> None:
        """Show the job's progress."""
        self._away = False
        if not self._drawing:
            for line in changes(self._snapshot, snapshot):
                self._print(line)
        self._snapshot = snapshot

    def on_away(self, seconds: float) -> None:
        """Print once that the server does not answer."""
        if seconds >= AWAY_AFTER and not self._away:
            self._away = True
            self._print("the server does not answer; trying again …")

    def _print(self, text: str) -> None:
        self._console.print(text, soft_wrap=True)

    def _render(self) -> RenderableType:
        lines: list[RenderableType] = [text for text in (self._status, self._work) if text]
        if self._snapshot is not None:
            lines.append(_table(self._snapshot))
        return Group(*lines)


def jobs_table(jobs: list[JobRecord]) -> Table:
    """Build the table of jobs, one row each, with the AUROC of the best global model."""
    titles = ("Id", "Job", "Submitter", "Status", "Rounds", "Submitted", "Took", "AUROC")
    drop = ("Took", "Submitted", "Rounds", "AUROC", "Job")
    table = FittingTable(*titles, drop=drop, box=box.SIMPLE, padding=(0, 1, 0, 0), show_edge=False)
    for job in jobs:
        table.add_row(
            job.id[:8],
            job.name,
            job.submitter,
            job.status,
            "–" if job.rounds is None else str(job.rounds),
            time.strftime("%m-%d %H:%M", time.localtime(job.submitted)),
            "–" if job.duration is None else age(job.duration),
            "–" if job.best_auroc is None else f"{job.best_auroc:.4f}",
        )
    return table


def _table(snapshot: Snapshot) -> Table:
    title = ", ".join(filter(None, (position(snapshot), quality(snapshot), time_left(snapshot))))
    drop = ("Contributions", "Heard", "Last round", "AUROC")
    table = FittingTable(*COLUMNS, drop=drop, title=title, title_justify="left")
    for name, site in _shown(snapshot["sites"]):
        table.add_row(name, *site_cells(site, snapshot))
    if len(snapshot["sites"]) > FEW_SITES:
        states = Counter(str(site["state"]) for site in snapshot["sites"].values())
        counted = ", ".join(f"{count:,} {state}" for state, count in sorted(states.items()))
        table.caption = (
            f"{len(snapshot['sites']):,} sites: {counted}. Shown: problems, then who is longest awaited."
        )
    return table


def _shown(sites: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, Mapping[str, Any]]]:
    """Return all sites by name; of many those with problems, then those not heard of for the longest time."""
    if len(sites) <= FEW_SITES:
        return sorted(sites.items())

    def urgency(item: tuple[str, Mapping[str, Any]]) -> tuple[bool, bool, float, str]:
        name, site = item
        return not site.get("problem"), site["state"] == "answered", site.get("heard") or 0.0, name

    return sorted(sites.items(), key=urgency)[:FEW_SITES]
