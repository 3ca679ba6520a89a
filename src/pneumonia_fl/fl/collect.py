"""From NVFlare's workspace to the run folder: metrics, models, records and logs, however the run ended."""

import json
import shutil
from dataclasses import asdict
from importlib.metadata import version

from pneumonia_fl.checkpoint import LIMITATIONS, DataSummary, ModelCard, load_state, save_model
from pneumonia_fl.config import JobConfig
from pneumonia_fl.data.files import write_atomic
from pneumonia_fl.data.manifest import DatasetInfo
from pneumonia_fl.journal import JOURNAL_NAME, read_journal, summarise_rounds
from pneumonia_fl.metrics import ScoreHistogram, choose_threshold, summarise
from pneumonia_fl.runs import MLFLOW_ARTIFACTS, MLFLOW_DB, MLFLOW_STATUS, RunFolder

RECORDS = (JOURNAL_NAME, "tb_events", MLFLOW_DB, MLFLOW_ARTIFACTS, MLFLOW_STATUS)
SYNTHETIC_LIMITATIONS = (
    "Trained on drawn images: it shows that the software works and knows nothing of real X-rays."
)
MODELS = {"best_FL_global_model.pt": "model", "FL_global_model.pt": "model_last"}


def collect(run: RunFolder, job: JobConfig, info: DatasetInfo) -> None:
    """Fill the run folder from its NVFlare workspace, then remove the workspace.

    What the run has not produced is left out; what it has produced is kept, also when it failed.
    """
    server = run.workspace / job.name / "server" / "simulate_job"
    for name in RECORDS:
        if (server / name).exists():
            shutil.move(server / name, run.path / name)
    _collect_logs(run, job.name)
    events = read_journal(run.journal)
    metrics = summarise_rounds(events)
    write_atomic(run.metrics_file, json.dumps(metrics, indent=2).encode())
    pooled = {event["round"]: event for event in events if event["event"] == "global"}
    for checkpoint, folder in MODELS.items():
        found = server / "app_server" / checkpoint
        number = metrics["best_round"] if folder == "model" else max(pooled, default=None)
        if found.is_file() and number is not None:
            card = _card(job, info, number, ScoreHistogram.from_dict(pooled[number]["histogram"]))
            save_model(run.path / folder, load_state(found), card)
    shutil.rmtree(run.workspace, ignore_errors=True)


def _collect_logs(run: RunFolder, job: str) -> None:
    run.logs.mkdir(exist_ok=True)
    for folder in sorted((run.workspace / job).glob("*/")):
        logs = [path for path in sorted(folder.rglob("log.txt"))]
        if logs:
            text = "".join(path.read_text(encoding="utf-8", errors="replace") for path in logs)
            (run.logs / f"{folder.name}.txt").write_text(text, encoding="utf-8")


def _card(job: JobConfig, info: DatasetInfo, number: int, pooled: ScoreHistogram) -> ModelCard:
    """Describe a global model; its threshold is chosen on the pooled validation data."""
    threshold = choose_threshold(pooled)
    return ModelCard(
        job=job.name,
        round=number,
        seed=job.train.seed,
        model=job.model,
        preprocess=job.site_settings().preprocess,
        threshold=threshold,
        metrics=asdict(summarise(pooled, threshold)),
        data=DataSummary(
            source=info.source,
            licence=info.licence,
            credit=info.credit,
            manifest_sha256=info.manifest_sha256,
            counts=info.counts,
        ),
        limitations=SYNTHETIC_LIMITATIONS if info.source == "synthetic" else LIMITATIONS,
        software={name: version(name) for name in ("nvflare", "torch", "torchvision", "pneumonia-fl")},
    )
