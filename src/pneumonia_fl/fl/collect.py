"""From the server's folder of a job to a run folder: metrics, models, records and logs, however the run ended."""

import contextlib
import hashlib
import json
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

from pneumonia_fl.calibration import calibrate
from pneumonia_fl.checkpoint import LIMITATIONS, DataSummary, ModelCard, load_state, save_model
from pneumonia_fl.config import JobConfig, SiteSettings, parse
from pneumonia_fl.data.files import inner_folder, write_atomic
from pneumonia_fl.errors import ConfigError
from pneumonia_fl.journal import JOURNAL_NAME, Event, read_journal, summarise_rounds
from pneumonia_fl.metrics import ScoreHistogram, summarise
from pneumonia_fl.runs import (
    MLFLOW_ARTIFACTS,
    MLFLOW_DB,
    MLFLOW_STATUS,
    SHARED,
    TB_EVENTS,
    RunFolder,
    events_of,
)

RECORDS = (JOURNAL_NAME, TB_EVENTS, MLFLOW_DB, MLFLOW_ARTIFACTS, MLFLOW_STATUS)
SYNTHETIC_LIMITATIONS = (
    "Trained on drawn images: it shows that the software works and knows nothing of real X-rays."
)
NO_NORMALISATION = (
    "Not a complete model: FedBN leaves the normalisation layers at the sites, where each keeps a complete model of "
    "its own; the metrics are those of the sites' models on their own images. "
)
MODELS = {"best_FL_global_model.pt": "model", "FL_global_model.pt": "model_last"}


def collect(
    run: RunFolder, job: JobConfig, data: DataSummary, server: Path, logs: Mapping[str, list[Path]]
) -> None:
    """Fill the run folder with copies of what the job's server has left.

    What the run has not produced is left out; what it has produced is kept, also when it failed.

    Args:
        run: a started run folder.
        job: the job as it ran.
        data: what it was trained on.
        server: NVFlare's folder of the job on the server, or a download of it.
        logs: for each participant its log files, oldest first.
    """
    _copy(events_of(server.parent, server.name), run.tb_events)  # of a job that broke off
    for name in RECORDS:
        _copy(server / name, run.path / name)
    _collect_logs(run, logs)
    events = read_journal(run.journal)
    metrics = summarise_rounds(events)
    write_atomic(run.metrics_file, json.dumps(metrics, indent=2).encode())
    pooled = {event["round"]: event for event in events if event["event"] == "global"}
    last = max((number for number, event in pooled.items() if not event.get("averaged")), default=None)
    partial = job.algorithm.name == "fedbn"
    for checkpoint, folder in MODELS.items():
        found = server / "app_server" / checkpoint
        number = metrics["best_round"] if folder == "model" else last
        if found.is_file() and number is not None:
            judged = pooled[number]
            histogram = ScoreHistogram.from_dict(judged["histogram"])
            card = model_card(job.site_settings(), data, number, histogram)
            note: dict[str, object] = {"averaged": judged.get("averaged", 0), "init_from": job.init_from}
            if partial:
                note["limitations"] = NO_NORMALISATION + card.limitations
            target = run.path / (folder + SHARED if partial else folder)
            save_model(target, load_state(found), card.model_copy(update=note))


def gather_models(workspace: Path) -> None:
    """Put the models, of which every simulated site has the same, where another job's server would have them."""
    best, last = MODELS
    server = workspace / "server" / "simulate_job"
    source = next((file.parent for file in sorted(workspace.glob(f"*/simulate_job/app_*/{last}"))), None)
    judged = [event for event in read_journal(server / JOURNAL_NAME) if event["event"] == "global"]
    if source is None or not judged:
        return
    (server / "app_server").mkdir(exist_ok=True)
    shutil.copyfile(source / last, server / "app_server" / last)
    chosen = last if judged[-1]["best"] else best
    shutil.copyfile(source / chosen, server / "app_server" / best)


def summary_of_sites(events: list[Event]) -> DataSummary:
    """What the sites' first answers say about their data, put together: each speaks for itself only."""
    reports: dict[str, DataSummary] = {}
    for event in events:
        if event["event"] == "data":
            with contextlib.suppress(ConfigError):
                reports[event["site"]] = parse(DataSummary, event["values"], event["site"])
    hashes = "".join(reports[site].manifest_sha256 for site in sorted(reports))
    return DataSummary(
        source=_joined(report.source for report in reports.values()),
        licence=_joined(report.licence for report in reports.values()),
        credit=_joined(report.credit for report in reports.values()),
        manifest_sha256=hashlib.sha256(hashes.encode()).hexdigest(),
        counts={site: report.counts[site] for site, report in reports.items() if site in report.counts},
    )


def _joined(texts: Iterable[str]) -> str:
    return "; ".join(sorted(set(texts))) or "unknown"


def _copy(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target, dirs_exist_ok=True)
    elif source.exists():
        shutil.copyfile(source, target)


def _collect_logs(run: RunFolder, logs: Mapping[str, list[Path]]) -> None:
    inner_folder(run.logs)
    for name, files in logs.items():
        text = "".join(file.read_text(encoding="utf-8", errors="replace") for file in files)
        (run.logs / f"{name}.txt").write_text(text, encoding="utf-8")


def model_card(settings: SiteSettings, data: DataSummary, number: int, pooled: ScoreHistogram) -> ModelCard:
    """Describe a model, calibrated on the (pooled) validation data of its round."""
    fitted = calibrate(pooled, settings.operating_point)
    return ModelCard(
        job=settings.name,
        round=number,
        seed=settings.train.seed,
        model=settings.model,
        preprocess=settings.preprocess,
        **asdict(fitted.scaling),
        threshold=fitted.threshold,
        operating_point=fitted.operating_point,
        metrics=asdict(summarise(pooled, fitted.threshold, fitted.scaling)),
        data=data,
        limitations=SYNTHETIC_LIMITATIONS if data.source == "synthetic" else LIMITATIONS,
        software={name: version(name) for name in ("nvflare", "torch", "torchvision", "pneumonia-fl")},
    )
