"""Runs a job in NVFlare's simulator, and repairs what the stock simulator leaves open.

A worker that is killed makes the stock simulator wait without limit, killing its parent leaves orphans, and a space in
a path breaks its command lines. Here the processes are watched from outside, all of them end with
the run, and NVFlare only ever sees paths without spaces.
"""

import contextlib
import functools
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from pneumonia_fl.config.environment import (
    DATA_VARIABLE,
    SHARED_CORES,
    SITE_STATE_VARIABLE,
    THREADS_VARIABLE,
    child_environment,
)
from pneumonia_fl.errors import RunError, SiteError
from pneumonia_fl.files import inner_folder
from pneumonia_fl.fl.simulator.failures import full_disk, server_error, site_error, start_error
from pneumonia_fl.inputs.paths import LINKS, without_spaces
from pneumonia_fl.runs.folder import RunFolder
from pneumonia_fl.runs.journal import JOURNAL_NAME, Event, JournalReader
from pneumonia_fl.runs.process_group import RUN_MARK, end_marked, workers

POLL_SECONDS = 0.2
WORKER_CHECK_SECONDS = 1.0
LOST_WORKER_GRACE = 5.0
"""Seconds that NVFlare gets to end a run by itself after a worker is gone."""

OnEvent = Callable[[Event], None]


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
    # A command line that was killed may have left processes that still write into this folder.
    mark = f"run:{run.path.resolve()}"
    end_marked(mark)
    inner_folder(run.workspace)
    inner_folder(run.logs)
    with contextlib.ExitStack() as stack:
        links = functools.cache(lambda: Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=LINKS))))
        workspace = without_spaces(run.workspace, "workspace", links)
        environment = without_spaces(Path(sys.prefix), "environment", links)
        output = stack.enter_context((run.logs / "simulator.txt").open("w", encoding="utf-8"))
        stack.callback(end_marked, mark)
        process = subprocess.Popen(
            _command(run, environment, workspace, list(threads), mark, log_config),
            env=_environment(run, data, threads, mark),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        watch = _Watch(mark)
        _follow(process, watch, _journal_reader(run, job), on_event)
    if not watch.completed:
        raise _reason(run, watch)


def _reason(run: RunFolder, watch: "_Watch") -> RunError:
    """Return the most specific reason why a run did not complete."""
    output = run.logs / "simulator.txt"
    return (
        full_disk(run.path)
        or start_error(output)
        or site_error(run.workspace)
        or watch.lost
        or watch.stopped
        or server_error(run.workspace)
        or RunError(f"the simulator failed; see {output}")
    )


def _journal_reader(run: RunFolder, job: str) -> JournalReader:
    return JournalReader(run.server_of(job) / JOURNAL_NAME)


def _command(
    run: RunFolder, environment: Path, workspace: Path, sites: list[str], mark: str, log_config: str | None
) -> list[str]:
    python = Path(sys.executable).absolute()
    if python.is_relative_to(
        sys.prefix
    ):  # else it is a system's Python, which no link in place of a prefix finds
        python = environment / python.relative_to(sys.prefix)
    command = [str(python), "-m", "pneumonia_fl.fl.simulator.worker"]
    command += ["--run", str(run.path), "--workspace", str(workspace)]
    command += ["--sites", ",".join(sites), "--mark", mark, "--parent", str(os.getpid())]
    return command + (["--log-config", log_config] if log_config else [])


def _environment(run: RunFolder, data: Path, threads: dict[str, int], mark: str) -> dict[str, str]:
    """Return the processes' environment: data, the sites' own models, each site's share of the cores."""
    environment = child_environment(
        **{
            DATA_VARIABLE: str(data.absolute()),
            SITE_STATE_VARIABLE: str(run.sites / "{site}"),
            THREADS_VARIABLE: ",".join(f"{site}={count}" for site, count in threads.items()),
            RUN_MARK: mark,
            **SHARED_CORES,
        }
    )
    # NVFlare would put it before the workspace that it is given.
    environment.pop("NVFLARE_SIMULATOR_WORKSPACE_ROOT", None)
    return environment


def _follow(
    process: "subprocess.Popen[bytes]", watch: "_Watch", journal: JournalReader, on_event: OnEvent
) -> None:
    """Forward events until the job is over or cannot continue.

    NVFlare takes some five seconds to stop its processes after the records are closed; they are not waited for.
    """
    running = True
    while running:
        running = process.poll() is None and not watch.over()
        for event in journal.new_events():
            on_event(event)
            watch.note(event)
        time.sleep(POLL_SECONDS if running else 0)


class _Watch:
    """Knows whether the job is over: finished with all records closed, or without one of its workers."""

    def __init__(self, mark: str) -> None:
        self._mark = mark
        self._events: set[str] = set()
        self._seen: dict[str, int] = {}
        self._gone_since: dict[str, float] = {}
        self._next = 0.0
        self.lost: SiteError | None = None
        self.stopped: RunError | None = None

    @property
    def completed(self) -> bool:
        """Return True when all rounds were done and all records closed."""
        return {"finished", "closed"} <= self._events

    def note(self, event: Event) -> None:
        """Record which kinds of events occurred, and why the server ended the job."""
        self._events.add(event["event"])
        if event["event"] == "stopped":
            self.stopped = RunError(event["reason"])

    def over(self) -> bool:
        """Return True when the job is over; set `lost` when a worker vanished unnoticed by NVFlare."""
        now = time.monotonic()
        if "finished" not in self._events and now >= self._next:
            self._next = now + WORKER_CHECK_SECONDS
            self.lost = self._lost_worker(now)
        return self.completed or self.lost is not None or self.stopped is not None

    def _lost_worker(self, now: float) -> SiteError | None:
        """Return the error of a site whose worker has been gone for `LOST_WORKER_GRACE` seconds, else None."""
        alive = workers(self._mark)
        self._seen.update(alive)
        for site in self._seen.keys() - alive.keys():
            if now - self._gone_since.setdefault(site, now) >= LOST_WORKER_GRACE:
                return SiteError(
                    f"site {site}: its process {self._seen[site]} ended unexpectedly (killed, or out of memory); "
                    "the run was stopped"
                )
        return None
