"""From the server's folder of a job to a run folder: metrics, models, records and logs, however the run ended."""

import contextlib
import hashlib
import json
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pneumonia_fl.config.job import JobConfig, SiteSettings, parse
from pneumonia_fl.errors import ConfigError
from pneumonia_fl.files import inner_folder, write_atomic
from pneumonia_fl.metrics.binary import ScoreHistogram, summarise
from pneumonia_fl.metrics.calibration import calibrate
from pneumonia_fl.models.checkpoint import LIMITATIONS, DataSummary, ModelCard, load_state, save_model
from pneumonia_fl.runs.folder import (
    MLFLOW_ARTIFACTS,
    MLFLOW_DB,
    MLFLOW_STATUS,
    SHARED,
    TB_EVENTS,
    RunFolder,
    events_of,
)
from pneumonia_fl.runs.journal import JOURNAL_NAME, Event, read_journal, summarise_rounds

RECORDS = (JOURNAL_NAME, TB_EVENTS, MLFLOW_DB, MLFLOW_ARTIFACTS, MLFLOW_STATUS)
SYNTHETIC_LIMITATIONS = (
    "Trained on drawn images: it shows that the software works and knows nothing of real X-rays."
)
NO_NORMALISATION = (
    "Not a complete model: FedBN leaves the normalisation layers at the sites, where each keeps a complete model of "
    "its own; the metrics are those of the sites' models on their own images. "
)
NOT_EVALUATED = (
    "Not evaluated: the job ended before its sites had judged this model, so nothing is known of its quality."
)
NOT_CHOSEN = "not evaluated: threshold and temperature were not chosen"
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
    _save_models(run, job, data, server / "app_server", events)


def _save_models(
    run: RunFolder, job: JobConfig, data: DataSummary, folder: Path, events: list[Event]
) -> None:
    """Save the best and the last model, each with a card of its own round, whether or not that was evaluated."""
    judged = {event["round"]: event for event in events if event["event"] == "global"}
    saved = [event["round"] for event in events if event["event"] == "saved"]
    rounds = {"model": summarise_rounds(events)["best_round"], "model_last": saved[-1] if saved else None}
    partial = job.algorithm.name == "fedbn"
    for checkpoint, name in MODELS.items():
        found, number = folder / checkpoint, rounds[name]
        if found.is_file() and number is not None:
            pooled = ScoreHistogram.from_dict(judged[number]["histogram"]) if number in judged else None
            card = model_card(job.site_settings(), data, number, pooled)
            averaged = judged.get(number, {}).get("averaged", 0)
            note: dict[str, object] = {"averaged": averaged, "init_from": job.init_from}
            if partial:
                note["limitations"] = NO_NORMALISATION + card.limitations
            target = run.path / (name + SHARED if partial else name)
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
        partial = target.with_name(f".{target.name}.partial")
        shutil.copyfile(source, partial)
        partial.replace(target)


def _collect_logs(run: RunFolder, logs: Mapping[str, list[Path]]) -> None:
    inner_folder(run.logs)
    for name, files in logs.items():
        text = "".join(file.read_text(encoding="utf-8", errors="replace") for file in files)
        (run.logs / f"{name}.txt").write_text(text, encoding="utf-8")


def model_card(
    settings: SiteSettings, data: DataSummary, number: int, pooled: ScoreHistogram | None
) -> ModelCard:
    """Describe a model, calibrated on the (pooled) validation data of its round; None: it was not evaluated."""
    limitations = SYNTHETIC_LIMITATIONS if data.source == "synthetic" else LIMITATIONS
    return ModelCard(
        job=settings.name,
        round=number,
        seed=settings.train.seed,
        model=settings.model,
        preprocess=settings.preprocess,
        **(_measured(pooled, settings) if pooled else {"operating_point": NOT_CHOSEN}),
        data=data,
        limitations=limitations if pooled else f"{NOT_EVALUATED} {limitations}",
        software={name: version(name) for name in ("nvflare", "torch", "torchvision", "pneumonia-fl")},
    )


def _measured(pooled: ScoreHistogram, settings: SiteSettings) -> dict[str, Any]:
    """What a card says by the validation data."""
    fitted = calibrate(pooled, settings.operating_point)
    return {
        **asdict(fitted.scaling),
        "threshold": fitted.threshold,
        "operating_point": fitted.operating_point,
        "metrics": asdict(summarise(pooled, fitted.threshold, fitted.scaling)),
    }
