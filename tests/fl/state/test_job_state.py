"""What the server keeps of a job: enough to go on from, for nobody but the submitter."""

import json
import stat
from pathlib import Path

import numpy as np
import pytest

from pneumonia_fl.errors import RunError
from pneumonia_fl.fl.state.job_state import JobState

MODEL = {"weight": np.arange(6, dtype=np.float32).reshape(2, 3), "counter": np.float64(7)}
VALUES = {"round": 3, "submitter": "lead@example.org", "steps": {"asia": 12}}


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "journal.jsonl").write_text('{"event": "started"}\n')
    return folder


@pytest.fixture
def state(tmp_path: Path) -> JobState:
    return JobState(tmp_path / "server", "3f2a-job")


def test_what_is_saved_is_loaded(state: JobState, run_dir: Path, tmp_path: Path) -> None:
    state.save(MODEL, None, VALUES, run_dir, {})
    model, best, values = state.load("lead@example.org")
    assert {name: value.tolist() for name, value in model.items()} == {
        "weight": [[0, 1, 2], [3, 4, 5]],
        "counter": 7,
    }
    assert (best, values) == (None, VALUES)
    state.save(MODEL, MODEL, VALUES, run_dir, {})
    assert state.load("lead@example.org")[1] is not None


def test_the_journal_goes_along(state: JobState, run_dir: Path, tmp_path: Path) -> None:
    state.save(MODEL, None, VALUES, run_dir, {})
    later = tmp_path / "later"
    later.mkdir()
    state.copy_records(later)
    assert (later / "journal.jsonl").read_text() == '{"event": "started"}\n'
    assert not (later / "mlflow.json").exists()


def test_nobody_else_goes_on_from_it(state: JobState, run_dir: Path) -> None:
    state.save(MODEL, None, VALUES, run_dir, {})
    with pytest.raises(RunError, match="submitted by somebody else"):
        state.load("other@example.org")


def test_without_a_round_there_is_nothing_to_go_on_from(state: JobState) -> None:
    with pytest.raises(RunError, match="has no state to resume from"):
        state.load("lead@example.org")


@pytest.mark.parametrize("job_id", ["", "..", "../other", "a/b", "/etc", "x" * 81])
def test_a_job_id_is_no_path(tmp_path: Path, job_id: str) -> None:
    with pytest.raises(RunError, match="is not a job id"):
        JobState(tmp_path, job_id)


def test_a_finished_job_leaves_its_result_only(state: JobState, run_dir: Path) -> None:
    state.save(MODEL, MODEL, VALUES, run_dir, {})
    assert state.result() is None
    state.finish({"state": "finished"}, keep=False)
    assert [path.name for path in state.folder.iterdir()] == ["result.json"]
    assert state.result() == {"state": "finished"}
    state.remove()
    assert not state.folder.exists()


def test_a_stopped_job_can_go_on(state: JobState, run_dir: Path) -> None:
    state.save(MODEL, None, VALUES, run_dir, {})
    state.finish({"state": "stopped"}, keep=True)
    assert state.load("lead@example.org")[2] == VALUES


def test_the_state_is_for_the_server_alone(state: JobState, run_dir: Path) -> None:
    state.save(MODEL, None, VALUES, run_dir, {})
    assert stat.S_IMODE(state.folder.stat().st_mode) == 0o700
    assert json.loads((state.folder / "state.json").read_text()) == VALUES


def test_the_last_models_are_kept_and_go_along(state: JobState, tmp_path: Path) -> None:
    for number in range(1, 5):
        state.keep({"weight": np.float32(number)}, number, last=2)
    later = JobState(tmp_path, "later")
    later.save(MODEL, None, VALUES, tmp_path, {})
    later.take_kept(state)
    assert [float(model["weight"]) for model in later.kept()] == [3, 4]
    assert state.kept_count() == 0


def test_none_are_kept_when_no_mean_is_wanted(state: JobState) -> None:
    state.keep(MODEL, 1, last=0)
    assert state.kept_count() == 0


def test_who_may_go_on_is_known_without_loading(state: JobState, run_dir: Path) -> None:
    assert not state.belongs_to("lead@example.org")
    state.save(MODEL, None, VALUES, run_dir, {})
    assert state.belongs_to("lead@example.org")
    assert not state.belongs_to("other@example.org")
