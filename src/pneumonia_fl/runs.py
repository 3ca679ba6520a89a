"""One run, one folder: its layout, its state, and what it leaves in MLflow.

config.yml        the job as it ran            metrics.json   rounds, sites, pooled global metrics
run.json          state, times, versions       journal.jsonl  every event as it happened
job/              the exported NVFlare job     tb_events/     TensorBoard, one folder per site and `global`
model/            best global model            mlflow.db      MLflow (when no server is configured)
model_last/       last global model            figures/       curves
initial.safetensors   the weights of `init_from`, when the run began with a saved model
logs/             full logs of server and sites   evaluations/  what `evaluate` found, one file for each time
cross_site.json   global and sites' own models by sites; also as .csv and in figures/
sites/            what each site keeps for itself: its own model, where the algorithm makes one
"""

import contextlib
import json
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from pneumonia_fl import __version__
from pneumonia_fl.config import JobConfig
from pneumonia_fl.data.files import PRIVATE_FOLDER, output_errors, private_folder, write_atomic
from pneumonia_fl.errors import OutputError, RunError
from pneumonia_fl.json_files import MAX_BYTES, MAX_RECORD_BYTES, read_json
from pneumonia_fl.text import printable_values

GLOBAL = "global"
MLFLOW_DB = "mlflow.db"
TB_EVENTS = "tb_events"
MLFLOW_ARTIFACTS = "mlflow_artifacts"
MLFLOW_STATUS = "mlflow.json"
INITIAL_WEIGHTS = "initial.safetensors"
SHARED = "_shared"
"""After the name of a model's folder: weights that are complete at the sites only (FedBN)."""
STATES = ("running", "finished", "incomplete", "failed", "interrupted")


class RunFolder:
    """The folder of one run; knows every path in it."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self.config = self.path / "config.yml"
        self.state_file = self.path / "run.json"
        self.metrics_file = self.path / "metrics.json"
        self.journal = self.path / "journal.jsonl"
        self.cross_site = self.path / "cross_site.json"
        self.job = self.path / "job"
        self.initial = self.path / INITIAL_WEIGHTS
        self.model = self.path / "model"
        self.model_last = self.path / "model_last"
        self.tb_events = self.path / TB_EVENTS
        self.mlflow_db = self.path / MLFLOW_DB
        self.mlflow_artifacts = self.path / MLFLOW_ARTIFACTS
        self.mlflow_status = self.path / MLFLOW_STATUS
        self.figures = self.path / "figures"
        self.evaluations = self.path / "evaluations"
        self.logs = self.path / "logs"
        self.sites = self.path / "sites"
        self.workspace = self.path / "nvflare"
        self.weights = self.path / "weights"  # of models that a job only evaluates

    @classmethod
    def create(cls, path: Path, force: bool = False) -> "RunFolder":
        """Make a new run folder; an earlier run in its place is refused, or removed with `force`.

        Raises:
            OutputError: the folder holds something, or cannot be written.
        """
        with output_errors(path):
            if path.exists() and any(path.iterdir()):
                if not force:
                    raise OutputError(
                        f"{path} exists already; choose another --out, or replace it with --force"
                    )
                _remove_run(path)
            private_folder(path)
        return cls(path)

    @classmethod
    def open(cls, path: Path) -> "RunFolder":
        """An existing run; `RunError` when the folder is none."""
        run = cls(path)
        if not run.state_file.is_file():
            raise RunError(f"{path} is not a run folder; `pneumonia-fl runs` lists the runs")
        return run

    def state(self) -> dict[str, Any]:
        """What `run.json` says; `RunError` when it is damaged."""
        return _read(self.state_file)

    def update_state(self, **values: object) -> None:
        """Merge `values` into `run.json`."""
        old = self.state() if self.state_file.exists() else {}
        write_atomic(self.state_file, json.dumps({**old, **values}, indent=2).encode())

    def metrics(self) -> dict[str, Any]:
        """What `metrics.json` says; `RunError` when the run has none yet, or a damaged one."""
        if not self.metrics_file.is_file():
            raise RunError(f"{self.path} has no metrics yet")
        return _read(self.metrics_file, MAX_RECORD_BYTES)


def events_of(root: Path, job_id: str) -> Path:
    """Where a server with this root keeps a job's TensorBoard events."""
    return root / "tensorboard" / job_id


def start_run(run: RunFolder, job: JobConfig, sites: tuple[str, ...], data: Mapping[str, object]) -> None:
    """Write what is known before the first round: the job as it runs, and where it comes from."""
    text = yaml.safe_dump(job.model_dump(mode="json", exclude_none=True), sort_keys=False)
    write_atomic(run.config, text.encode())
    run.update_state(
        state="running",
        job=job.name,
        rounds=job.rounds,
        sites=list(sites),
        data=dict(data),
        started=round(time.time(), 3),
        version=__version__,
        revision=git_revision(),
    )


def list_runs(root: Path) -> list[RunFolder]:
    """All runs below `root`, oldest first."""
    found = [RunFolder(path.parent) for path in sorted(root.glob("*/run.json"))]
    return sorted(found, key=_started)


def new_run_path(root: Path, job: str) -> Path:
    """A free folder name below `root`: job and time, with a number when two runs start in one second."""
    stem = f"{job}-{time.strftime('%Y%m%d-%H%M%S')}"
    private_folder(root)
    names = [stem, *(f"{stem}-{number}" for number in range(2, 100))]
    for name in names:
        path = root / name
        try:
            path.mkdir(PRIVATE_FOLDER)
        except FileExistsError:
            continue
        except OSError as error:
            raise OutputError(f"cannot write to {root}: {error.strerror}") from None
        return path
    raise OutputError(f"too many runs named {stem} in {root}")


def git_revision() -> str | None:
    """The commit of the source tree this package runs from; None for an installed wheel."""
    try:
        answer = subprocess.run(
            ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"],
            capture_output=True,
            text=True,
            timeout=5,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.strip() or None


def ui_command(run: RunFolder, kind: str, port: int, host: str = "127.0.0.1") -> list[str]:
    """The command that opens TensorBoard or MLflow on a run.

    Raises:
        RunError: the run has no such records.
    """
    if kind == "tensorboard":
        folder = run.tb_events if run.tb_events.is_dir() else run.workspace
        if not folder.is_dir():
            raise RunError(f"{run.path} has no TensorBoard records")
        return tensorboard_command(folder, port, host)
    if not run.mlflow_db.is_file():
        raise RunError(f"{run.path} has no MLflow database; did the run log to a server, or without mlflow?")
    uri = f"sqlite:///{run.mlflow_db}"
    return [_script("mlflow"), "ui", "--backend-store-uri", uri, "--host", host, "--port", str(port)]


def tensorboard_command(folder: Path, port: int, host: str) -> list[str]:
    """The command that opens TensorBoard on a folder of events."""
    return [_script("tensorboard"), "--logdir", str(folder), "--host", host, "--port", str(port)]


def relocate_artifacts(run: RunFolder) -> None:
    """Point the artifact URIs of the run's own database at where the run folder is now.

    MLflow pins an experiment's artifact folder when it makes it, which was inside NVFlare's workspace; without
    this the URIs dangle as soon as the folder moves (NVFLARE-2.9 §3).
    """
    here = run.mlflow_artifacts.as_uri()
    with contextlib.closing(sqlite3.connect(run.mlflow_db)) as database, database:
        old = database.execute(
            "SELECT DISTINCT artifact_location FROM experiments WHERE artifact_location LIKE '%/mlflow_artifacts'"
        ).fetchall()
        for (location,) in old:
            database.execute(
                "UPDATE experiments SET artifact_location = ? WHERE artifact_location = ?", (here, location)
            )
            database.execute(
                "UPDATE runs SET artifact_uri = ? || substr(artifact_uri, ?) WHERE artifact_uri LIKE ? || '/%'",
                (here, len(location) + 1, location),
            )


def _started(run: RunFolder) -> float:
    with _undamaged(run):
        seconds = float(run.state().get("started", 0))
        time.localtime(seconds)  # a time that there is
        return seconds


@contextlib.contextmanager
def _undamaged(run: RunFolder) -> Iterator[None]:
    """Say in one line that the files of a run, which may be somebody else's, hold something else than a run's."""
    try:
        yield
    except (KeyError, TypeError, ValueError, OverflowError, AttributeError):
        raise RunError(
            f"{run.path} is damaged (run.json or metrics.json); get the run folder again, or move it elsewhere"
        ) from None


def describe(run: RunFolder) -> dict[str, Any]:
    """A run in one line: for lists and scripts."""
    with _undamaged(run):
        return _described(run)


def _described(run: RunFolder) -> dict[str, Any]:
    state = run.state()
    metrics = run.metrics() if run.metrics_file.is_file() else {"rounds": [], "best_round": None}
    best = [entry["global"] for entry in metrics["rounds"] if entry["round"] == metrics["best_round"]]
    return {
        "name": run.path.name,
        "path": str(run.path),
        "job": state["job"],
        "state": state["state"],
        "started": float(state["started"]),
        "rounds": state["rounds"],
        "sites": len(state["sites"]),
        "best_round": metrics["best_round"],
        "best_auroc": float(best[0]["auroc"]) if best and best[0] and best[0]["auroc"] is not None else None,
    }


def _read(file: Path, limit: int = MAX_BYTES) -> dict[str, Any]:
    try:
        values = printable_values(read_json(file, limit))
        if not isinstance(values, dict):
            raise ValueError("not a JSON object")
    except OSError as error:
        raise RunError(f"cannot read {file}: {error.strerror}") from None
    except ValueError as error:
        raise RunError(
            f"{file} is damaged ({error}); get the run folder again, or move it elsewhere"
        ) from None
    return values


def _script(name: str) -> str:
    """A console script beside the running Python, so that no activated environment is needed."""
    beside = Path(sys.executable).with_name(name)
    return str(beside) if beside.exists() else name


def _remove_run(path: Path) -> None:
    import shutil

    if not (path / "run.json").is_file():
        raise OutputError(f"{path} is not a run folder, so --force does not remove it; choose another --out")
    shutil.rmtree(path)
