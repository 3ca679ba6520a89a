"""Runs a job in NVFlare's simulator, and repairs what the stock simulator leaves open.

A worker that is killed makes the stock simulator wait for ever, killing its parent leaves orphans, and a space in
a path breaks its command lines (NVFLARE-2.9 §9). Here the processes are watched from outside, all of them end with
the run, and NVFlare only ever sees paths without spaces.
"""

import contextlib
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

from pneumonia_fl.config import DATA_VARIABLE, THREADS_VARIABLE, child_environment
from pneumonia_fl.errors import RunError, SiteError
from pneumonia_fl.fl.failures import server_error, site_error
from pneumonia_fl.fl.processes import RUN_MARK, end_marked, workers
from pneumonia_fl.journal import JOURNAL_NAME, Event, JournalReader
from pneumonia_fl.runs import RunFolder

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
    mark = uuid.uuid4().hex
    run.workspace.mkdir(exist_ok=True)
    run.logs.mkdir(exist_ok=True)
    with contextlib.ExitStack() as stack:
        workspace = stack.enter_context(without_spaces(run.workspace))
        environment = stack.enter_context(without_spaces(Path(sys.prefix)))
        output = stack.enter_context((run.logs / "simulator.txt").open("w", encoding="utf-8"))
        stack.callback(end_marked, mark)
        process = subprocess.Popen(
            _command(run, environment, workspace, list(threads), mark, log_config),
            env=_environment(data, threads, mark),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        lost = _follow(process, mark, _journal_reader(run, job), on_event)
    if lost or process.returncode != 0:
        unknown = RunError(f"the simulator failed; see {run.logs / 'simulator.txt'}")
        raise site_error(run.workspace) or lost or server_error(run.workspace) or unknown


@contextlib.contextmanager
def without_spaces(folder: Path) -> Iterator[Path]:
    """Yield a path to `folder` that holds no space: itself, or a link in the temporary folder."""
    if not any(character.isspace() for character in str(folder)):
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="pneumonia-fl-") as temporary:
        link = Path(temporary) / "link"
        link.symlink_to(folder, target_is_directory=True)
        yield link


def _journal_reader(run: RunFolder, job: str) -> JournalReader:
    return JournalReader(run.workspace / job / "server" / "simulate_job" / JOURNAL_NAME)


def _command(
    run: RunFolder, environment: Path, workspace: Path, sites: list[str], mark: str, log_config: str | None
) -> list[str]:
    python = environment / Path(sys.executable).absolute().relative_to(sys.prefix)
    command = [str(python), "-m", "pneumonia_fl.fl.simulator_process"]
    command += ["--run", str(run.path), "--workspace", str(workspace)]
    command += ["--sites", ",".join(sites), "--mark", mark]
    return command + (["--log-config", log_config] if log_config else [])


def _environment(data: Path, threads: dict[str, int], mark: str) -> dict[str, str]:
    """The processes' environment: where the data is, and each site's share of the cores."""
    environment = child_environment(
        **{
            DATA_VARIABLE: str(data.absolute()),
            THREADS_VARIABLE: ",".join(f"{site}={count}" for site, count in threads.items()),
            RUN_MARK: mark,
            "OMP_NUM_THREADS": "1",  # for whoever does not set its own number
        }
    )
    # NVFlare would put it before the workspace that it is given.
    environment.pop("NVFLARE_SIMULATOR_WORKSPACE_ROOT", None)
    return environment


def _follow(
    process: "subprocess.Popen[bytes]", mark: str, journal: JournalReader, on_event: OnEvent
) -> SiteError | None:
    """Hand on events until the simulator ends, or until a worker vanished and NVFlare does not notice."""
    watch = _WorkerWatch(mark)
    lost = None
    while lost is None and process.poll() is None:
        for event in journal.new_events():
            on_event(event)
            watch.finished |= event["event"] == "finished"
        lost = watch.lost_worker()
        time.sleep(POLL_SECONDS)
    for event in journal.new_events():
        on_event(event)
    return lost


class _WorkerWatch:
    """Notices a site whose process is gone before the job has finished."""

    def __init__(self, mark: str) -> None:
        self._mark = mark
        self._seen: dict[str, int] = {}
        self._gone_since: dict[str, float] = {}
        self._next = 0.0
        self.finished = False

    def lost_worker(self) -> SiteError | None:
        """The error of a site whose worker has been gone for `LOST_WORKER_GRACE` seconds, else None."""
        now = time.monotonic()
        if self.finished or now < self._next:
            return None
        self._next = now + WORKER_CHECK_SECONDS
        alive = workers(self._mark)
        self._seen.update(alive)
        for site in self._seen.keys() - alive.keys():
            if now - self._gone_since.setdefault(site, now) >= LOST_WORKER_GRACE:
                return SiteError(
                    f"site {site}: its process {self._seen[site]} ended unexpectedly (killed, or out of memory); "
                    "the run was stopped"
                )
        return None
