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
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pneumonia_fl import __version__
from pneumonia_fl.errors import OutputError, RunError
from pneumonia_fl.files import PRIVATE_FOLDER, output_errors, private_folder, write_atomic
from pneumonia_fl.inputs.folder_locks import refuse_in_use
from pneumonia_fl.inputs.json_files import MAX_BYTES, MAX_RECORD_BYTES, read_json
from pneumonia_fl.inputs.paths import missing
from pneumonia_fl.inputs.text import printable_values
from pneumonia_fl.runs.journal import JOURNAL_NAME, Event, read_journal
from pneumonia_fl.runs.mlflow_files import point_artifacts, read_status, sqlite_uri
from pneumonia_fl.runs.provenance import git_revision

if TYPE_CHECKING:
    from pneumonia_fl.config.job import JobConfig

GLOBAL = "global"
MLFLOW_DB = "mlflow.db"
TB_EVENTS = "tb_events"
MLFLOW_ARTIFACTS = "mlflow_artifacts"
MLFLOW_STATUS = "mlflow.json"
SERVER_RECORDS = (JOURNAL_NAME, TB_EVENTS, MLFLOW_DB, MLFLOW_ARTIFACTS, MLFLOW_STATUS)
"""What a job's server writes under the names that a run folder has."""
INITIAL_WEIGHTS = "initial.safetensors"
REPORT, MODEL_CARD = "report.html", "model_card.md"
STATE_FILE = "run.json"
SHARED = "_shared"
"""After the name of a model's folder: weights that are complete at the sites only (FedBN)."""
STATES = ("running", "finished", "incomplete", "failed", "interrupted")


class RunFolder:
    """The folder of one run: the only place that knows the paths in it."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self.config = self.path / "config.yml"
        self.state_file = self.path / STATE_FILE
        self.metrics_file = self.path / "metrics.json"
        self.journal = self.path / JOURNAL_NAME
        self.cross_site = self.path / "cross_site.json"
        self.report = self.path / REPORT
        self.report_files = (self.report, self.path / MODEL_CARD)  # neither holds an image
        self.job = self.path / "job"
        self.initial = self.path / INITIAL_WEIGHTS
        self.model = self.path / "model"
        self.model_last = self.path / "model_last"
        self.tb_events = self.path / TB_EVENTS
        self.mlflow_db = self.path / MLFLOW_DB
        self.mlflow_artifacts = self.path / MLFLOW_ARTIFACTS
        self.mlflow_status = self.path / MLFLOW_STATUS
        self.figures = self.path / "figures"
        self.curves = self.figures / "curves.png"
        self.evaluations = self.path / "evaluations"
        self.logs = self.path / "logs"
        self.sites = self.path / "sites"
        self.workspace = self.path / "nvflare"
        self.weights = self.path / "weights"  # of models that a job only evaluates

    @classmethod
    def create(cls, path: Path, force: bool = False) -> "RunFolder":
        """Make a new run folder; an earlier run in its place is refused, or removed with `force`.

        Raises:
            OutputError: the folder holds something, is in use, or cannot be written.
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
        """Open an existing run; `RunError` when the folder is none."""
        run = cls(path)
        if not path.exists():
            raise RunError(missing(path, "`pneumonia-fl runs` lists the runs"))
        if not run.is_run:
            raise RunError(f"{path} is not a run folder; `pneumonia-fl runs` lists the runs")
        return run

    @property
    def is_run(self) -> bool:
        """Return True when there is a run, in any state."""
        return self.state_file.is_file()

    @property
    def best_card(self) -> Path:
        """Return the card of the best model; of its shared part where each site keeps the rest."""
        shared, whole = (folder / "model_card.json" for folder in (shared_part(self.model), self.model))
        return shared if shared.is_file() else whole

    def site_model(self, site: str) -> Path:
        """Return the folder of a site's own model."""
        return self.sites / site / self.model.name

    def server_of(self, job: str) -> Path:
        """Return the server's folder of a run in the simulator, which exists while the run lasts."""
        return self.workspace / job / "server" / "simulate_job"

    def state(self) -> dict[str, Any]:
        """Read `run.json`; `RunError` when it is damaged."""
        return _read(self.state_file)

    def update_state(self, **values: object) -> None:
        """Merge `values` into `run.json`."""
        old = self.state() if self.state_file.exists() else {}
        write_atomic(self.state_file, json.dumps({**old, **values}, indent=2).encode())

    def metrics(self) -> dict[str, Any]:
        """Read `metrics.json`; `RunError` when the run has none yet, or a damaged one."""
        if not self.metrics_file.is_file():
            raise RunError(f"{self.path} has no metrics yet")
        return _read(self.metrics_file, MAX_RECORD_BYTES)

    def relocate_artifacts(self) -> None:
        """Set the artifact URIs of the run's own database to its present folder; `RunError` when it has none."""
        point_artifacts(self.mlflow_db, self.mlflow_artifacts)

    def events(self) -> list[Event]:
        """Read all complete events of the journal; `RunError` when a line is broken."""
        return read_journal(self.journal)


def shared_part(model: Path) -> Path:
    """Return the folder for the shared weights of a `model` that is complete at the sites only."""
    return model.with_name(model.name + SHARED)


def events_of(root: Path, job_id: str) -> Path:
    """Return the folder of a job's TensorBoard events on a server with this root."""
    return root / "tensorboard" / job_id


def start_run(run: RunFolder, job: "JobConfig", sites: tuple[str, ...], data: Mapping[str, object]) -> None:
    """Write what is known before the first round: the job as it runs, and where it comes from."""
    import yaml  # of whoever starts a run, not of those who list them

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


def new_run_path(root: Path, job: str) -> Path:
    """Return a free folder name below `root`: job and time, numbered when two runs start in one second."""
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


def ui_command(run: RunFolder, kind: str, port: int, host: str = "127.0.0.1") -> list[str]:
    """Return the command that opens TensorBoard or MLflow on a run.

    Raises:
        RunError: the run has no such records.
    """
    if kind == "tensorboard":
        folder = run.tb_events if run.tb_events.is_dir() else run.workspace
        if not folder.is_dir():
            raise RunError(f"{run.path} has no TensorBoard records")
        return tensorboard_command(folder, port, host)
    if not run.mlflow_db.is_file():
        raise RunError(records_elsewhere(run))
    command = [_script("mlflow"), "ui", "--backend-store-uri", sqlite_uri(run.mlflow_db), "--workers", "1"]
    return [*command, "--host", host, "--port", str(port)]


def tensorboard_command(folder: Path, port: int, host: str) -> list[str]:
    """Return the command that opens TensorBoard on a folder of events."""
    return [_script("tensorboard"), "--logdir", str(folder), "--host", host, "--port", str(port)]


def records_elsewhere(run: RunFolder) -> str:
    """Explain why a run has no database of its own, and where its records are."""
    with contextlib.suppress(RunError):
        if uri := read_status(run.mlflow_status).uri:
            return f"the MLflow records of {run.path} are on a server: {uri} (from that server's network)"
    return f"{run.path} has no MLflow database; the job ran without mlflow in `tracking`"


def _read(file: Path, limit: int = MAX_BYTES) -> dict[str, Any]:
    try:
        values = printable_values(read_json(file, limit))
        if not isinstance(values, dict):
            raise ValueError("not a JSON object")
    except OSError as error:
        raise RunError(f"cannot read {file}: {error.strerror}") from None
    except ValueError as error:
        raise damaged(file, error) from None
    return values


def damaged(file: Path, what: object) -> RunError:
    """Return the error for a file of a run that cannot be used."""
    return RunError(f"{file} is damaged ({what}); get the run folder again, or move it elsewhere")


def _script(name: str) -> str:
    """Return a console script beside the running Python, so that no activated environment is needed."""
    beside = Path(sys.executable).with_name(name)
    return str(beside) if beside.exists() else name


def _remove_run(path: Path) -> None:
    import shutil

    if not RunFolder(path).is_run:
        raise OutputError(f"{path} is not a run folder, so --force does not remove it; choose another --out")
    refuse_in_use(path)
    shutil.rmtree(path)


def lacking(missing: Sequence[str], why: Mapping[str, str], reason: str) -> str:
    """Describe the sites that a completed job lacks, each with its reason; "" when none."""
    named = ", ".join(f"{site} ({why[site]})" if why.get(site) else site for site in missing)
    return "; ".join(filter(None, (named and f"never contributed: {named}", reason)))
