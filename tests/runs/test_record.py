"""One record of a run: read once, whoever asks."""

import json
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from run_folders import SITES, add_cross_site, add_evaluation, write_run
from speed import scaled

from pneumonia_fl.config.job import JobConfig
from pneumonia_fl.config.sections import Preprocess
from pneumonia_fl.data.manifest import DatasetInfo
from pneumonia_fl.metrics.binary import ScoreHistogram
from pneumonia_fl.models.architectures import build_model
from pneumonia_fl.results.finalize import finalize_prod_run, finish
from pneumonia_fl.runs.folder import RunFolder, start_run
from pneumonia_fl.runs.journal import JournalReader, summarise_rounds
from pneumonia_fl.runs.lenient import LenientReader
from pneumonia_fl.runs.mlflow_files import artifacts_of_run, sqlite_uri
from pneumonia_fl.runs.record import RunRecord, best_metrics
from pneumonia_fl.tracking.mlflow_queue import MLflowSink


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = write_run(tmp_path_factory.mktemp("record") / "run", rounds=2, images=40)
    add_evaluation(run, images=40)
    add_cross_site(run)
    return run


def judged(number: int, best: bool, **note: Any) -> dict[str, Any]:
    return {"event": "global", "round": number, "best": best, "values": {"auroc": number / 10}, **note}


def test_a_record_holds_the_whole_folder(folder: Path) -> None:
    run = RunFolder(folder)
    record = RunRecord.read(run)
    assert record.problems == []
    assert (record.state, record.metrics, record.events) == (run.state(), run.metrics(), run.events())
    assert record.config["name"] == "fedavg"
    assert record.card["round"] == record.best_round
    assert [values["split"] for values in record.evaluations] == ["test"]
    assert record.cross_site["sites"] == list(SITES)


def test_what_is_known_is_not_read_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = RunRecord.of_events(RunFolder(folder).events())
    monkeypatch.setattr(LenientReader, "journal", None)
    record = RunRecord.read(RunFolder(folder), known)
    assert record.metrics == known.metrics
    assert record.events is known.events


def test_the_journal_says_which_model_was_judged_last() -> None:
    record = RunRecord.of_events([judged(0, False), judged(1, True), judged(2, False)])
    assert record.last_judged_round == 2
    assert record.metrics["best_round"] == 1


def test_a_mean_of_models_is_no_round() -> None:
    record = RunRecord.of_events([judged(1, True), judged(2, True, averaged=2, histogram={"counts": []})])
    assert record.last_judged_round == 1
    assert record.histogram_of(2) == {"counts": []}


def test_a_run_that_nobody_judged_has_no_last_round() -> None:
    record = RunRecord.of_events([])
    assert record.last_judged_round is None
    assert record.histogram_of(None) is None
    assert best_metrics(record.metrics) is None


def test_the_best_rounds_metrics_are_those_of_the_saved_model() -> None:
    site = [{"event": "site", "round": number, "site": "a", "values": {}} for number in (0, 1, 2)]
    metrics = summarise_rounds([*site, judged(0, False), judged(1, True), judged(2, False)])
    assert best_metrics(metrics) == {"auroc": 0.1}


@pytest.mark.parametrize("number", ["1", None, [1], {"a": 1}])
def test_a_round_of_another_kind_is_passed_over(number: object) -> None:
    assert RunRecord(events=[{"event": "global", "round": number}]).judged == {}


def test_a_job_that_is_finished_has_its_journal_read_once(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[Path] = []
    new_events = JournalReader.new_events

    def counted(reader: JournalReader) -> Any:
        read.append(reader._path)
        return new_events(reader)

    monkeypatch.setattr(JournalReader, "new_events", counted)
    monkeypatch.setattr(LenientReader, "journal", None)
    server = tmp_path / "job"
    (server / "app_server").mkdir(parents=True)
    (server / "journal.jsonl").write_bytes((folder / "journal.jsonl").read_bytes())
    weights = {"model": build_model(size=64).state_dict()}
    torch.save(weights, server / "app_server" / "best_FL_global_model.pt")
    job = JobConfig(name="fedavg", rounds=2, preprocess=Preprocess(size=64))
    about = {"config": job.model_dump(mode="json"), "sites": list(SITES), "version": "1"}
    run = RunFolder.create(tmp_path / "run")
    finalize_prod_run(run, about, server, {})
    assert read == [run.journal]
    assert run.state()["state"] == "finished"
    assert run.state()["report_error"] is None
    for file in (run.report, run.cross_site, run.curves, run.best_card):
        assert file.is_file()
    assert json.loads(run.best_card.read_text())["round"] == run.metrics()["best_round"]


def test_a_histogram_in_the_record_is_one_of_pooled_scores(folder: Path) -> None:
    record = RunRecord.read(RunFolder(folder))
    values = record.histogram_of_best()
    assert values is not None
    assert ScoreHistogram.from_dict(values).n == 40 * len(SITES)


@pytest.mark.parametrize("algorithm", ["fedavg", "swarm"])
def test_a_run_of_the_simulator_leaves_models_figures_report_and_its_records_in_mlflow(
    folder: Path, tmp_path: Path, algorithm: str
) -> None:
    job = JobConfig.model_validate(
        {"name": "job", "rounds": 2, "preprocess": {"size": 64}, "algorithm": {"name": algorithm}}
    )
    run = RunFolder.create(tmp_path / "run")
    start_run(run, job, SITES, {"source": "zip", "manifest_sha256": "0" * 64})
    server = run.server_of("job")
    (server / "app_server").mkdir(parents=True)
    models = server / "app_server" if algorithm == "fedavg" else run.workspace / "job/a/simulate_job/app_a"
    models.mkdir(parents=True, exist_ok=True)
    for name in ("best_FL_global_model.pt", "FL_global_model.pt"):
        torch.save({"model": build_model(size=64).state_dict()}, models / name)
    saved = json.dumps({"event": "saved", "time": 1.0, "round": 2})
    (server / "journal.jsonl").write_text((folder / "journal.jsonl").read_text() + saved + "\n")
    sink = MLflowSink(
        sqlite_uri(server / "mlflow.db"), "e", (server / "mlflow_artifacts").as_uri(), "job", list(SITES),
        server / "mlflow.json",
    )  # fmt: skip
    sink.start()
    sink.put("global", "validation_auc", 0.5, 0)
    deadline = time.monotonic() + scaled(60)
    while not (server / "mlflow.json").is_file() and time.monotonic() < deadline:
        time.sleep(0.2)
    sink.close()
    info = DatasetInfo.model_construct(
        source="zip", licence="", credit="", manifest_sha256="0" * 64, counts={}
    )
    finish(run, job, info, "finished")
    state = run.state()
    assert (state["state"], state["report_error"], state["mlflow"]["error"]) == ("finished", None, None)
    assert all((path / "model_card.json").is_file() for path in (run.model, run.model_last))
    assert run.report.is_file()
    assert not run.workspace.exists()
    place = artifacts_of_run(run.mlflow_db, state["mlflow"]["run_id"])
    assert {"report.html", "model_card.md", "metrics.json", "config.yml"} <= {f.name for f in place.iterdir()}
