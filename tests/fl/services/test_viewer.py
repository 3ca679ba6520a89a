"""`ui`: what it refuses before anything starts, and that looking at a run makes nothing in it."""

import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from run_folders import write_json
from typer.testing import CliRunner

from pneumonia_fl.cli.main import app
from pneumonia_fl.errors import PneumoniaFLError
from pneumonia_fl.fl.services.viewer import PORTS, _port


@pytest.fixture
def run(tmp_path: Path) -> Path:
    write_json(tmp_path / "run" / "run.json", {"state": "finished"})
    return tmp_path / "run"


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield server.getsockname()[1]


def refused(*words: object) -> str:
    done = CliRunner().invoke(app, ["ui", *map(str, words)])
    assert done.exit_code
    assert isinstance(done.exception, PneumoniaFLError), done.exception
    return str(done.exception)


def test_a_run_whose_records_are_on_a_server_names_it(run: Path) -> None:
    write_json(run / "mlflow.json", {"uri": "http://127.0.0.1:5000", "runs": {"global": "a"}})
    before = sorted(run.iterdir())
    assert "are on a server: http://127.0.0.1:5000" in refused("mlflow", run)
    assert sorted(run.iterdir()) == before


@pytest.mark.parametrize("status", [None, "", "[]", json.dumps({"uri": None})])
def test_a_run_without_mlflow_says_so(run: Path, status: str | None) -> None:
    if status is not None:
        (run / "mlflow.json").write_text(status)
    assert "has no MLflow database" in refused("mlflow", run)
    assert not (run / "mlflow.db").exists()


def test_a_database_that_is_none_is_named_and_an_empty_one_is_no_database(run: Path) -> None:
    (run / "mlflow.db").write_text("no database")
    assert "mlflow.db is not an MLflow database" in refused("mlflow", run)
    (run / "mlflow.db").write_text("")
    assert "has no MLflow database" in refused("mlflow", run)
    write_json(run / "mlflow.json", {"uri": "http://127.0.0.1:5000"})
    assert "are on a server: http://127.0.0.1:5000" in refused("mlflow", run)
    assert (run / "mlflow.db").stat().st_size == 0


def test_a_port_that_is_no_number_of_a_port_is_a_wrong_option(run: Path) -> None:
    assert CliRunner().invoke(app, ["ui", "mlflow", str(run), "--port", "99999"]).exit_code == 2


@pytest.mark.parametrize("tool", ["tensorboard", "mlflow"])
def test_a_folder_that_is_no_run_and_a_kit_without_records_are_refused(tmp_path: Path, tool: str) -> None:
    assert "is not a run folder" in refused(tool, tmp_path)
    (tmp_path / "startup").mkdir()
    assert refused(tool, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["startup"]


@pytest.mark.parametrize("tool", ["tensorboard", "mlflow"])
def test_a_port_that_is_taken_is_said_before_anything_starts(run: Path, taken: int, tool: str) -> None:
    assert f"port {taken} of 127.0.0.1 is taken" in refused(tool, run, "--port", taken)


def test_without_a_port_the_usual_one_or_a_free_one_is_taken(
    taken: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(PORTS, "mlflow", taken)
    assert _port("mlflow", None, "127.0.0.1") not in (0, taken)
    assert _port("mlflow", 0, "127.0.0.1") not in (0, taken)


def test_a_host_that_is_none_is_refused(run: Path) -> None:
    assert "is no address of this machine" in refused("tensorboard", run, "--host", "no.such.host.invalid")
