"""`pneumonia-fl report`, its gallery of mistakes, its place in MLflow, and what happens when it cannot be drawn."""

import base64
import io
import json
import logging
import re
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from mlflow import MlflowClient
from PIL import Image
from run_folders import write_run
from typer.testing import CliRunner
from xrays import SPEC, kaggle_files, prepare_small, write_zip

from conftest import read_json
from pneumonia_fl.cli.main import app
from pneumonia_fl.config.sections import ModelConfig
from pneumonia_fl.models.architectures import build_model
from pneumonia_fl.models.checkpoint import ModelCard, save_model
from pneumonia_fl.results.finalize import draw
from pneumonia_fl.runs.folder import RunFolder
from pneumonia_fl.runs.record import RunRecord
from pneumonia_fl.tracking.mlflow_queue import MLflowSink


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run with an untrained model that answers pneumonia about half of the time."""
    folder = write_run(tmp_path / "my run", rounds=1, images=20)
    card = ModelCard(job="fedavg", round=1, seed=7, model=ModelConfig(), preprocess=SPEC, threshold=0.49)
    save_model(folder / "model", build_model(size=16, seed=5).state_dict(), card)
    return folder


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("source")
    prepare_small(write_zip(root / "x-rays.zip", kaggle_files(patients=24)), root / "prepared")
    return root / "prepared"


def report(*words: object) -> tuple[int, str, str]:
    done = CliRunner(env={"COLUMNS": "300"}).invoke(app, ["report", *map(str, words)])
    return done.exit_code, done.stdout, done.stderr


def test_the_command_says_where_the_page_is(run: Path) -> None:
    code, out, _ = report(run)
    assert code == 0
    assert f"report: {run / 'report.html'}" in out
    assert "Not a medical device" in out
    assert (run / "model_card.md").is_file()


def test_json_for_scripts_and_another_place(run: Path, tmp_path: Path) -> None:
    code, out, _ = report(run, "--out", tmp_path / "page.html", "--json")
    assert (code, json.loads(out)["report"]) == (0, str(tmp_path / "page.html"))
    assert not (run / "report.html").exists()


def test_a_folder_that_is_no_run_is_an_error(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["report", str(tmp_path)])
    assert "neither a run nor a comparison folder" in str(result.exception)


def test_the_gallery_is_a_page_apart_that_says_in_red_what_it_holds(run: Path, prepared: Path) -> None:
    code, out, _ = report(run, "--gallery", prepared, "--split", "test")
    assert code == 0
    assert "must not leave this site" in out
    text = (run / "report-with-images.html").read_text()
    assert '<p class="images" role="alert">This report holds images of patients.' in text
    assert not (run / "report.html").exists()
    pictures = re.findall(r"data:image/png;base64,([\w+/=]+)", text)
    assert 1 <= len(pictures) <= 24
    assert Image.open(io.BytesIO(base64.b64decode(pictures[0]))).size == (16, 16)
    assert not re.findall(r"person\d|IM-\d|\.jpeg", text)
    assert str(prepared) not in text


def test_the_gallery_of_no_data_is_an_error(run: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["report", str(run), "--gallery", str(tmp_path / "nothing")])
    assert result.exit_code == 1
    assert not list(run.glob("*.html"))


def test_a_new_report_goes_to_the_runs_own_mlflow_and_images_never(run: Path, prepared: Path) -> None:
    uri, artifacts = f"sqlite:///{run / 'mlflow.db'}", (run / "mlflow_artifacts").as_uri()
    sink = MLflowSink(uri, "test", artifacts, "fedavg", [], run / "mlflow.json")
    sink.start()
    sink.put("global", "global/validation_auc", 0.9, 1)
    sink.close()
    assert report(run, "--gallery", prepared)[0] == 0
    code, out, _ = report(run, "--json")
    assert (code, json.loads(out)["mlflow"]) == (0, True)
    client, run_id = MlflowClient(uri), read_json(run / "mlflow.json")["runs"]["global"]
    assert sorted(file.path for file in client.list_artifacts(run_id)) == ["model_card.md", "report.html"]


def test_an_evaluation_makes_the_report_again(run: Path, prepared: Path) -> None:
    words = ["evaluate", str(run), "--source", str(prepared), "--split", "test"]
    first = CliRunner(env={"COLUMNS": "300"}).invoke(app, words)
    assert f"pneumonia-fl report '{run}'" in first.stdout
    assert not (run / "report.html").exists()
    shutil.rmtree(run / "evaluations")
    report(run)
    assert "Never measured on a test split" in (run / "report.html").read_text()
    second = CliRunner(env={"COLUMNS": "300"}).invoke(app, words)
    assert f"report: {run / 'report.html'} (made again" in second.stdout
    assert "Never measured on a test split" not in (run / "report.html").read_text()
    assert json.loads(CliRunner().invoke(app, [*words, "--json"]).stdout)["split"] == "test"


def test_a_report_needs_no_mlflow_and_writes_into_no_other_folder(run: Path) -> None:
    with closing(sqlite3.connect(run / "mlflow.db")) as database, database:
        database.execute("CREATE TABLE experiments (artifact_location)")
        database.execute("CREATE TABLE runs (run_uuid, artifact_uri)")
        database.execute("INSERT INTO runs VALUES ('a', ?)", ((run.parent / "elsewhere").as_uri(),))
    (run / "mlflow.json").write_text(json.dumps({"runs": {"global": "a"}}))
    code, out, _ = report(run, "--json")
    assert (code, json.loads(out)["mlflow"]) == (0, False)
    assert not (run.parent / "elsewhere").exists()


@pytest.mark.parametrize("status", ["", "[]", '{"runs": 1}', '{"runs": {"global": "a"}, "uri": "http://x"}'])
@pytest.mark.parametrize("database", [b"", b"junk"])
def test_damaged_mlflow_records_never_stop_a_report(run: Path, status: str, database: bytes) -> None:
    (run / "mlflow.json").write_text(status)
    (run / "mlflow.db").write_bytes(database)
    code, out, _ = report(run, "--json")
    assert (code, json.loads(out)["mlflow"]) == (0, False)
    assert (run / "mlflow.db").read_bytes() == database


def test_a_report_that_cannot_be_drawn_fails_no_run(run: Path, caplog: pytest.LogCaptureFixture) -> None:
    (run / "report.html").mkdir()
    with caplog.at_level(logging.WARNING):
        draw(RunFolder(run), RunRecord.read(RunFolder(run)))
    assert "the report could not be made" in caplog.text
    assert read_json(run / "run.json")["report_error"]
    (run / "report.html").rmdir()
    draw(RunFolder(run), RunRecord.read(RunFolder(run)))
    assert (run / "report.html").is_file()
    assert not read_json(run / "run.json").get("report_error")
