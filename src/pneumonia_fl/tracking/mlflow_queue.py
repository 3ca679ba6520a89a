"""Delivers metric points to MLflow from a thread of its own, so that a slow or dead tracking server costs nothing."""

import json
import logging
import queue
import re
import threading
import time
from collections import Counter
from pathlib import Path

from pneumonia_fl.files import write_atomic
from pneumonia_fl.inputs.text import printable
from pneumonia_fl.runs.folder import GLOBAL
from pneumonia_fl.runs.mlflow_files import file_of
from pneumonia_fl.tracking.mlflow_client import ClientRecords, connect
from pneumonia_fl.tracking.mlflow_file import FileRecords
from pneumonia_fl.tracking.records import Point, Records

FLUSH_SECONDS = 1.0
RETRY_SECONDS = 5.0
CLOSE_SECONDS = 15.0
"""How long the end of a job waits for the last points to be delivered."""
BATCH_LIMIT = 1000
"""MLflow's own limit of metrics in one `log_batch`."""
QUEUE_LIMIT = 20_000
"""Points of one origin that may wait: those of 500 rounds."""


REMEDIES = (
    (
        r"experiment .*must be in the 'active' state",
        "somebody has deleted the experiment: restore it with `mlflow experiments restore`, or give the job another "
        "name, --set mlflow.experiment=NAME",
    ),
    (
        r"run .*must be in (?:the )?'active' state|Run .*not found",
        "somebody has deleted the run: restore it in MLflow, `mlflow runs restore`",
    ),
    (
        r"\b40[13]\b|unauthori[sz]ed|forbidden|credentials",
        "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD where the server is started",
    ),
    (r"out-of-date database schema|Can't locate revision", "upgrade it with `mlflow db upgrade`"),
    (
        r"unable to open database|readonly database|disk is full",
        "look at the rights and the space of its folder",
    ),
    (
        r"max retries|connection|timed out|resolve|refused|\b50\d\b",
        "see that MLflow runs there and that this machine reaches it",
    ),
)
"""What to do about what MLflow and its transport say."""

log = logging.getLogger(__name__)


class MLflowSink:
    """A parent run for the job and a child run per site, fed from a queue; `runs` are those of a resumed job.

    Points stay in memory until they are delivered; a failed delivery is tried again after `RETRY_SECONDS`. What
    MLflow calls invalid, and what comes while `QUEUE_LIMIT` points of its origin wait, is dropped and counted.
    """

    def __init__(
        self,
        uri: str,
        experiment: str,
        artifacts: str | None,
        run_name: str,
        sites: list[str],
        status_file: Path,
        runs: dict[str, str] | None = None,
    ) -> None:
        self._uri, self._experiment, self._artifacts = uri, experiment, artifacts
        self._status_file = status_file
        self._run_name, self._sites = run_name, sites
        self._queue: queue.SimpleQueue[Point] = queue.SimpleQueue()
        self._waiting: list[Point] = []
        self._delivered = 0
        self._pending: Counter[str] = Counter()
        self._dropped: Counter[str] = Counter()
        self._counting = threading.Lock()
        self._error: str | None = None
        self._told: str | None = None
        self._runs = dict(runs or {})
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._deliver, name="mlflow-sink", daemon=True)

    def start(self) -> None:
        """Begin delivering."""
        self._thread.start()

    def put(self, origin: str, tag: str, value: float, step: int) -> None:
        """Queue one point; never blocks."""
        with self._counting:
            full = self._pending[origin] >= QUEUE_LIMIT
            (self._dropped if full else self._pending)[origin] += 1
        if full:
            return
        self._queue.put(Point(origin, tag, value, step, int(time.time() * 1000)))

    def close(self) -> None:
        """Deliver the rest within `CLOSE_SECONDS` and write down how it went."""
        self._closing.set()
        self._thread.join(CLOSE_SECONDS)
        self._write_status()

    def _write_status(self) -> None:
        undelivered = len(self._waiting) + self._queue.qsize()
        status = {
            "uri": None if self._artifacts else self._uri,
            "runs": self._runs,
            "delivered": self._delivered,
            "undelivered": undelivered,
            "dropped": dict(+self._dropped),
            "error": self._error if undelivered or not self._runs else None,
        }
        # In one step: the state of a job that resumes takes a copy at any time.
        write_atomic(self._status_file, json.dumps(status, indent=2).encode())

    def _deliver(self) -> None:
        while True:
            closing = self._closing.wait(RETRY_SECONDS if self._error else FLUSH_SECONDS)
            self._collect()
            try:
                self._send()
                self._error = None
            except Exception as error:  # whatever MLflow or its transport raises: the job must continue
                self._note(explained(error))
            if closing and (not self._waiting or self._error):
                return

    def _note(self, problem: str) -> None:
        """Log a problem once; each later try would log the same."""
        if self._told is None:
            log.warning("MLflow accepts no metrics now; the job continues, and they are kept: %s", problem)
        self._error = self._told = problem

    def _collect(self) -> None:
        while not self._queue.empty():
            self._waiting.append(self._queue.get())

    def _send(self) -> None:
        # Also of sites that joined late.
        missing = {*self._sites, *(point.origin for point in self._waiting)} - self._runs.keys()
        if not missing and not self._waiting:
            return
        records = open_records(self._uri, bool(self._artifacts), timeout_seconds=5)
        if missing:
            self._create_runs(records, sorted(missing))
            self._write_status()
        while self._waiting:
            origin = self._waiting[0].origin
            batch = [point for point in self._waiting if point.origin == origin][:BATCH_LIMIT]
            delivered = records.log_points(self._runs[origin], batch)
            sent = set(map(id, batch))
            self._waiting = [point for point in self._waiting if id(point) not in sent]
            self._delivered += delivered
            with self._counting:
                self._pending[origin] -= len(batch)
                self._dropped[origin] += len(batch) - delivered

    def _create_runs(self, records: Records, names: list[str]) -> None:
        """Add a child run for each name; the parent, `global`, is made first."""
        experiment = records.experiment(self._experiment, self._artifacts)
        if GLOBAL not in self._runs:
            self._runs[GLOBAL] = records.create_run(experiment, self._run_name, {})
        for name in names:
            if name != GLOBAL:
                tags = {"mlflow.parentRunId": self._runs[GLOBAL], "site": name}
                self._runs[name] = records.create_run(experiment, name, tags)


def open_records(uri: str, own: bool, timeout_seconds: int) -> Records:
    """Return what writes to MLflow at `uri`; `own`: to the database file of a run or a sweep, which only it writes."""
    file = file_of(uri) if own else None
    return ClientRecords(connect(uri, timeout_seconds)) if file is None else FileRecords(file)


def explained(error: Exception) -> str:
    """Return an error in one line, with what to do about it where that is known."""
    said = one_line(error)
    remedy = next((words for pattern, words in REMEDIES if re.search(pattern, str(error), re.IGNORECASE)), "")
    return f"{said}; {remedy}" if remedy else said


def one_line(error: Exception) -> str:
    """Return an error's type and the first line of its text, which MLflow's transport may leave empty."""
    return f"{type(error).__name__}: {printable(next(iter(str(error).splitlines()), ''))}"
