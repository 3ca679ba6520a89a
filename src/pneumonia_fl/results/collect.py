"""From the server's folder of a job to a run folder: metrics, models, records and logs, however the run ended."""

import contextlib
import hashlib
import json
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

from pneumonia_fl.config.job import JobConfig
from pneumonia_fl.config.strict import parse
from pneumonia_fl.errors import ConfigError
from pneumonia_fl.files import inner_folder, write_atomic
from pneumonia_fl.metrics.binary import ScoreHistogram
from pneumonia_fl.models.card import model_card
from pneumonia_fl.models.checkpoint import DataSummary, load_state, save_model
from pneumonia_fl.runs.folder import SERVER_RECORDS, RunFolder, events_of, shared_part
from pneumonia_fl.runs.record import RunRecord

NO_NORMALISATION = (
    "Not a complete model: FedBN leaves the normalisation layers at the sites, where each keeps a complete model of "
    "its own; the metrics are those of the sites' models on their own images. "
)
BEST, LAST = "best_FL_global_model.pt", "FL_global_model.pt"
APP = "app_server"


def collect(run: RunFolder, server: Path, logs: Mapping[str, list[Path]]) -> RunRecord:
    """Copy into the run folder what the job's server has left; returns what the journal says.

    What the run has not produced is left out; what it has produced is kept, also when it failed.

    Args:
        run: the run folder.
        server: NVFlare's folder of the job on the server, or a download of it.
        logs: for each participant its log files, oldest first.

    Raises:
        RunError: the journal is broken.
    """
    _copy(events_of(server.parent, server.name), run.tb_events)  # of a job that broke off
    for name in SERVER_RECORDS:
        _copy(server / name, run.path / name)
    _collect_logs(run, logs)
    record = RunRecord.of_events(run.events())
    write_atomic(run.metrics_file, json.dumps(record.metrics, indent=2).encode())
    return record


def save_models(run: RunFolder, job: JobConfig, data: DataSummary, server: Path, record: RunRecord) -> None:
    """Save the best and the last model, each with a card of its own round, whether or not that was evaluated.

    Args:
        run: the run folder.
        job: the job as it ran.
        data: what it was trained on.
        server: NVFlare's folder of the job on the server, or a download of it.
        record: what the journal says.
    """
    saved = [event["round"] for event in record.of_kind("saved")]
    rounds = {run.model: record.metrics["best_round"], run.model_last: saved[-1] if saved else None}
    partial = job.algorithm.name == "fedbn"
    for checkpoint, target in {BEST: run.model, LAST: run.model_last}.items():
        found, number = server / APP / checkpoint, rounds[target]
        if found.is_file() and number is not None:
            scores = record.histogram_of(number)
            pooled = ScoreHistogram.from_dict(scores) if scores else None
            card = model_card(job.site_settings(), data, number, pooled)
            averaged = record.judged.get(number, {}).get("averaged", 0)
            note: dict[str, object] = {"averaged": averaged, "init_from": job.init_from}
            if partial:
                note["limitations"] = NO_NORMALISATION + card.limitations
            folder = shared_part(target) if partial else target
            save_model(folder, load_state(found), card.model_copy(update=note))


def gather_models(workspace: Path, server: Path, record: RunRecord) -> None:
    """Copy the simulated sites' common models to the place where other jobs' servers have them."""
    source = next((file.parent for file in sorted(workspace.glob(f"*/{server.name}/app_*/{LAST}"))), None)
    judged = record.of_kind("global")
    if source is None or not judged:
        return
    (server / APP).mkdir(exist_ok=True)
    shutil.copyfile(source / LAST, server / APP / LAST)
    chosen = LAST if judged[-1]["best"] else BEST
    shutil.copyfile(source / chosen, server / APP / BEST)


def summary_of_sites(record: RunRecord) -> DataSummary:
    """Merge the data summaries that the sites reported."""
    reports: dict[str, DataSummary] = {}
    for site, values in record.site_data().items():
        with contextlib.suppress(ConfigError):
            reports[site] = parse(DataSummary, values, site)
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
