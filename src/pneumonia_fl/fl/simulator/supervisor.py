"""Runs a job in NVFlare's simulator, and watches its processes from outside.

A worker that is killed makes the stock simulator wait without limit, and killing its parent leaves orphans. Here the
server's process watches the sites', this one watches the server's, and all of them end with the run and with this.
"""

import contextlib
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import wait
from pathlib import Path

from pneumonia_fl.config.environment import (
    DATA_VARIABLE,
    SHARED_CORES,
    SITE_STATE_VARIABLE,
    THREADS_VARIABLE,
    child_environment,
)
from pneumonia_fl.errors import RunError
from pneumonia_fl.files import inner_folder
from pneumonia_fl.fl.simulator.failures import full_disk, lost_site, server_error, site_error, start_error
from pneumonia_fl.fl.simulator.preload import begin_loading
from pneumonia_fl.runs.folder import RunFolder
from pneumonia_fl.runs.journal import JOURNAL_NAME, Event, JournalReader
from pneumonia_fl.runs.processes.process_group import MARK_WORD, RUN_MARK, kill_marked
from pneumonia_fl.runs.processes.warm import WarmProcess

POLL_SECONDS = 0.1

OnEvent = Callable[[Event], None]


@dataclass(frozen=True)
class Simulation:
    """What the server's process is to run; paths are absolute."""

    run: Path
    sites: tuple[str, ...]
    mark: str
    temporary: Path
    """For temporary files; removed with the run."""
    log_config: str | None


def simulate(
    run: RunFolder, job: str, threads: dict[str, int], data: Path, on_event: OnEvent, log_config: str | None
) -> None:
    """Run the job in `run.config` to its end; the NVFlare workspace stays in `run.workspace`.

    Args:
        run: a started run folder.
        job: name of the job, which is also NVFlare's folder in the workspace.
        threads: the sites to simulate, and how many threads each may use.
        data: prepared data set with a folder per site.
        on_event: called with each event of the run's journal as it happens.
        log_config: NVFlare's log configuration: concise, full, verbose, msg_only or a file.

    Raises:
        SiteError: one site failed or its process is gone; all others are ended.
        RunError: the simulator failed.
    """
    begin_loading()
    # A command line that was killed may have left processes that still write into this folder.
    mark = f"run:{run.path.resolve()}"
    kill_marked(mark)
    inner_folder(run.workspace)
    inner_folder(run.logs)
    watch = _Watch()
    with contextlib.ExitStack() as stack:
        temporary = stack.enter_context(tempfile.TemporaryDirectory(prefix="pneumonia-fl-"))
        output = stack.enter_context((run.logs / "simulator.txt").open("w", encoding="utf-8"))
        stack.callback(kill_marked, mark)
        process = WarmProcess(
            "pneumonia_fl.fl.simulator.worker:main",
            (_simulation(run, tuple(threads), mark, temporary, log_config),),
            environment=_environment(run, data, threads, mark),
            streams={1: output.fileno(), 2: output.fileno()},
            words=("pneumonia-fl", "simulator", "--run", run.path.name, MARK_WORD, mark),
        )
        stack.callback(process.kill)
        _follow(process, watch, JournalReader(run.server_of(job) / JOURNAL_NAME), on_event)
    if not watch.completed:
        raise _reason(run, watch)


def _reason(run: RunFolder, watch: "_Watch") -> RunError:
    """Return the most specific reason why a run did not complete."""
    output = run.logs / "simulator.txt"
    return (
        full_disk(run.path)
        or start_error(output)
        or site_error(run.workspace)
        or lost_site(output)
        or watch.stopped
        or server_error(run.workspace)
        or RunError(f"the simulator failed; see {output}")
    )


def _simulation(
    run: RunFolder, sites: tuple[str, ...], mark: str, temporary: str, log_config: str | None
) -> Simulation:
    return Simulation(run.path.absolute(), sites, mark, Path(temporary), log_config)


def _environment(run: RunFolder, data: Path, threads: dict[str, int], mark: str) -> dict[str, str]:
    """Return the processes' environment: data, the sites' own models, each site's share of the cores."""
    return child_environment(
        **{
            DATA_VARIABLE: str(data.absolute()),
            SITE_STATE_VARIABLE: str(run.sites / "{site}"),
            THREADS_VARIABLE: ",".join(f"{site}={count}" for site, count in threads.items()),
            RUN_MARK: mark,
            **SHARED_CORES,
        }
    )


def _follow(process: WarmProcess, watch: "_Watch", journal: JournalReader, on_event: OnEvent) -> None:
    """Forward events until the job is over or cannot continue.

    NVFlare takes some seconds to stop its processes after the records are closed; they are not waited for.
    """
    running = True
    while running:
        running = not wait([process.sentinel], POLL_SECONDS)
        for event in journal.new_events():
            on_event(event)
            watch.note(event)
        running = running and not watch.over


class _Watch:
    """Knows whether the job is over: finished with all records closed, or stopped by the server."""

    def __init__(self) -> None:
        self._events: set[str] = set()
        self.stopped: RunError | None = None

    @property
    def completed(self) -> bool:
        """Return True when all rounds were done and all records closed."""
        return {"finished", "closed"} <= self._events

    @property
    def over(self) -> bool:
        """Return True when there is nothing to wait for."""
        return self.completed or self.stopped is not None

    def note(self, event: Event) -> None:
        """Record which kinds of events occurred, and why the server ended the job."""
        self._events.add(event["event"])
        if event["event"] == "stopped":
            self.stopped = RunError(event["reason"])
