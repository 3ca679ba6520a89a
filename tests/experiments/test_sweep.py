import json
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from pneumonia_fl.cli.main import app
from pneumonia_fl.errors import ConfigError, OutputError, RunError
from pneumonia_fl.experiments.sweep import Point, parse_grid, points_of, ranked, run_sweep
from pneumonia_fl.fl.simulator.simulation import Request, Watcher

NOBODY = "http://127.0.0.1:9"
"""A tracking server that is away: a database file would cost each test some seconds."""
SYNTHETIC = "name: tiny\nsynthetic: {sites: 2, images: 60, size: 16}\ntrain: {lr: 0.001}\n"


@pytest.fixture
def job(tmp_path: Path) -> str:
    path = tmp_path / "tiny.yml"
    path.write_text(SYNTHETIC)
    return str(path)


def request(job: str, out: Path) -> Request:
    return Request(job, out=out, overrides=[f"mlflow.tracking_uri={NOBODY}"])


def nothing_runs(number: int, total: int, point: Point) -> AbstractContextManager[Watcher]:
    raise AssertionError(f"{point.name} was started")


def ended(folder: Path, auroc: float | None, state: str = "finished", **more: Any) -> None:
    """A point's run folder as far as a sweep looks at it."""
    folder.mkdir(parents=True)
    times = {"started": 100.0, "finished": 130.0}
    (folder / "run.json").write_text(json.dumps({"state": state, **times, **more}))
    values = {"auroc": auroc, "n": 20} | dict.fromkeys(
        ("sensitivity", "specificity", "brier", "ece", "loss"), 0.5
    )
    rounds = [{"round": 1, "global": values, "sites": {}}]
    (folder / "metrics.json").write_text(json.dumps({"rounds": rounds, "best_round": 1}))


def test_a_grid_is_all_combinations_with_the_first_setting_changing_slowest(job: str) -> None:
    points = points_of(request(job, Path()), parse_grid(["train.lr=0.001,0.002", "rounds=3, 4"]))
    assert [point.words for point in points] == [
        [f"train.lr={rate}", f"rounds={rounds}"] for rate in ("0.001", "0.002") for rounds in (3, 4)
    ]
    assert [point.name for point in points] == ["point-01", "point-02", "point-03", "point-04"]
    assert [(p.job.train.lr, p.job.rounds) for p in points] == [
        (0.001, 3),
        (0.001, 4),
        (0.002, 3),
        (0.002, 4),
    ]


@pytest.mark.parametrize(
    "words", [[], ["train.lr"], ["=1"], ["train.lr=1,,2"], ["train.lr=1,1"], ["rounds=1", "rounds=2"]]
)
def test_a_malformed_grid_is_refused(words: list[str]) -> None:
    with pytest.raises(ConfigError, match="--grid"):
        parse_grid(words)


def test_a_misspelt_setting_stops_the_sweep_before_a_folder_is_made(job: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"train\.rate"):
        run_sweep(request(job, tmp_path / "out"), parse_grid(["train.rate=1,2"]), nothing_runs)
    assert not (tmp_path / "out").exists()


def test_a_large_grid_wants_a_word(job: str, tmp_path: Path) -> None:
    grid = ["rounds=1,2,3,4,5", "train.seed=1,2,3,4,5"]
    with pytest.raises(ConfigError, match=r"25 points.*--yes"):
        run_sweep(request(job, tmp_path / "out"), parse_grid(grid), nothing_runs)
    with pytest.raises(AssertionError, match="point-01 was started"):
        run_sweep(request(job, tmp_path / "out"), parse_grid(grid), nothing_runs, yes=True)


def sweep_of(job: str, out: Path, grid: list[str]) -> dict[str, Any]:
    """The summary of a sweep whose points have all ended."""
    with pytest.raises(AssertionError, match="was started"):
        run_sweep(request(job, out), parse_grid(grid), nothing_runs)
    count = len(points_of(request(job, out), parse_grid(grid)))
    for number in range(1, count + 1):
        ended(out / f"point-{number:02d}", 0.9 + number / 100)
    return run_sweep(request(job, out), parse_grid(grid), nothing_runs)[1]


def test_points_that_have_ended_are_not_run_again_and_the_best_on_validation_wins(
    job: str, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    summary = sweep_of(job, out, ["train.lr=0.001,0.002,0.003"])
    assert summary["best"] == "point-03"
    assert [row["validation"]["auroc"] for row in ranked(summary)] == [0.93, 0.92, 0.91]
    assert summary["points"][0]["seconds"] == 30.0
    assert json.loads((out / "sweep.json").read_text()) == summary


def test_a_failed_or_incomplete_point_keeps_its_reason_and_does_not_win(job: str, tmp_path: Path) -> None:
    out, grid = tmp_path / "out", ["train.lr=0.001,0.002,0.003"]
    with pytest.raises(AssertionError):
        run_sweep(request(job, out), parse_grid(grid), nothing_runs)
    ended(out / "point-01", 0.8)
    ended(out / "point-02", 0.99, state="failed", error="the loss became nan")
    ended(out / "point-03", 0.99, state="incomplete", error="never contributed: site-2")
    _, summary = run_sweep(request(job, out), parse_grid(grid), nothing_runs)
    assert summary["best"] == "point-01"
    assert [row["state"] for row in summary["points"]] == ["finished", "failed", "incomplete"]
    reasons = [row["reason"] for row in summary["points"]]
    assert reasons == ["", "the loss became nan", "never contributed: site-2"]
    assert ranked(summary)[0]["name"] == "point-01"


@pytest.mark.parametrize("value", ["x", "-1", "010", "yes"])
def test_every_point_is_checked_before_the_first_runs(value: str, job: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"nothing was run: train.lr={value}: .*"):
        run_sweep(request(job, tmp_path / "out"), parse_grid([f"train.lr=0.1,{value}"]), nothing_runs)
    with pytest.raises(ConfigError, match="min_sites"):
        run_sweep(request(job, tmp_path / "out"), parse_grid(["min_sites=2,3"]), nothing_runs)
    assert not (tmp_path / "out").exists()


def test_a_point_that_did_not_finish_is_a_nonzero_exit_after_the_table(
    job: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    out = tmp_path / "out"
    sweep_of(job, out, ["train.lr=0.001,0.002", "rounds=3"])
    words = ["sweep", job, "--grid", "train.lr=0.001,0.002", "--grid", "rounds=3", "--out", str(out)]
    words += ["--tracking-uri", NOBODY]
    assert CliRunner().invoke(app, words).exit_code == 0
    run = json.loads((out / "point-02/run.json").read_text())
    (out / "point-02/run.json").write_text(
        json.dumps(run | {"state": "failed", "error": "the loss became nan"})
    )
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 1
    assert str(done.exception) == "1 of 2 points did not finish: point-02"
    table = done.output.splitlines()
    assert any("point-01" in line and "0.001" in line and "0.9100" in line for line in table)
    assert "All points: rounds=3." in done.output, "what does not vary is no column"


@pytest.mark.parametrize("content", ["", "{", "[]", '{"state": 3}', '{"state": "finished"}'])
def test_a_point_whose_folder_is_damaged_is_run_again(content: str, job: str, tmp_path: Path) -> None:
    out, grid = tmp_path / "out", ["train.lr=0.001,0.002"]
    sweep_of(job, out, grid)
    (out / "point-02/metrics.json").write_text(content)
    with pytest.raises(AssertionError, match="point-02 was started"):
        run_sweep(request(job, out), parse_grid(grid), nothing_runs)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"mlflow": 3}'])
def test_a_damaged_record_of_a_sweep_is_named(content: str, job: str, tmp_path: Path) -> None:
    out, grid = tmp_path / "out", ["train.lr=0.001,0.002"]
    sweep_of(job, out, grid)
    (out / "sweep.json").write_text(content)
    with pytest.raises(OutputError, match=r"sweep\.json is damaged"):
        run_sweep(request(job, out), parse_grid(grid), nothing_runs)


@pytest.mark.parametrize("state", ["running", "interrupted"])
def test_a_point_that_was_cut_short_is_run_anew(state: str, job: str, tmp_path: Path) -> None:
    out, grid = tmp_path / "out", ["train.lr=0.001,0.002"]
    sweep_of(job, out, grid)
    run = json.loads((out / "point-02/run.json").read_text())
    (out / "point-02/run.json").write_text(json.dumps(run | {"state": state}))
    with pytest.raises(AssertionError, match="point-02 was started"):
        run_sweep(request(job, out), parse_grid(grid), nothing_runs)


def test_a_sweep_in_which_nothing_finished_is_an_error(job: str, tmp_path: Path) -> None:
    out, grid = tmp_path / "out", ["train.lr=0.001"]
    with pytest.raises(AssertionError):
        run_sweep(request(job, out), parse_grid(grid), nothing_runs)
    ended(out / "point-01", 0.9, state="failed", error="out of memory")
    with pytest.raises(RunError, match="point-01: out of memory"):
        run_sweep(request(job, out), parse_grid(grid), nothing_runs)


def test_a_folder_with_another_sweep_or_something_else_is_left_alone(job: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    sweep_of(job, out, ["train.lr=0.001,0.002"])
    with pytest.raises(OutputError, match="another grid"):
        run_sweep(request(job, out), parse_grid(["train.lr=0.001,0.003"]), nothing_runs)
    Path(job).write_text(SYNTHETIC + "rounds: 2\n")
    with pytest.raises(OutputError, match="another settings"):
        run_sweep(request(job, out), parse_grid(["train.lr=0.001,0.002"]), nothing_runs)
    other = tmp_path / "photos"
    other.mkdir()
    (other / "a.txt").write_text("mine")
    with pytest.raises(OutputError, match="is no sweep"):
        run_sweep(request(job, other), parse_grid(["train.lr=0.001,0.002"]), nothing_runs)
    assert (other / "a.txt").read_text() == "mine"


def test_a_dead_tracking_server_is_named_and_stops_nothing(job: str, tmp_path: Path) -> None:
    out, grid = tmp_path / "out", ["train.lr=0.001"]
    summary = sweep_of(job, out, grid)
    assert summary["best"] == "point-01"
    assert summary["mlflow"]["uri"] == NOBODY
    assert summary["mlflow"]["error"]
