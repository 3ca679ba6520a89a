import json
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from pneumonia_fl.errors import ConfigError, OutputError, RunError
from pneumonia_fl.fl.session import Watcher
from pneumonia_fl.fl.sweep import Point, SweepRequest, parse_grid, points_of, ranked, run_sweep

NOBODY = "http://127.0.0.1:9"
"""A tracking server that is away: a database file would cost each test some seconds."""
SYNTHETIC = "name: tiny\nsynthetic: {sites: 2, images: 60, size: 16}\ntrain: {lr: 0.001}\n"


@pytest.fixture
def job(tmp_path: Path) -> str:
    path = tmp_path / "tiny.yml"
    path.write_text(SYNTHETIC)
    return str(path)


def request(job: str, grid: list[str], out: Path, yes: bool = False) -> SweepRequest:
    return SweepRequest(job, grid, None, out, NOBODY, yes)


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
    points = points_of(job, parse_grid(["train.lr=0.001,0.002", "rounds=3, 4"]), [])
    assert [point.words for point in points] == [
        [f"train.lr={rate}", f"rounds={rounds}"] for rate in ("0.001", "0.002") for rounds in (3, 4)
    ]
    assert [point.name for point in points] == ["point-01", "point-02", "point-03", "point-04"]
    assert [(p.job.train.lr, p.job.rounds) for p in points if p.job] == [
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
        run_sweep(request(job, ["train.rate=1,2"], tmp_path / "out"), nothing_runs)
    assert not (tmp_path / "out").exists()


def test_a_large_grid_wants_a_word(job: str, tmp_path: Path) -> None:
    grid = ["rounds=1,2,3,4,5", "train.seed=1,2,3,4,5"]
    with pytest.raises(ConfigError, match=r"25 points.*--yes"):
        run_sweep(request(job, grid, tmp_path / "out"), nothing_runs)
    with pytest.raises(AssertionError, match="point-01 was started"):
        run_sweep(request(job, grid, tmp_path / "out", yes=True), nothing_runs)


def sweep_of(job: str, out: Path, grid: list[str]) -> dict[str, Any]:
    """The summary of a sweep whose points have all ended, but for those the job cannot have."""
    with pytest.raises(AssertionError, match="was started"):
        run_sweep(request(job, grid, out), nothing_runs)
    count = len(points_of(job, parse_grid(grid), []))
    for number in range(1, count + 1):
        ended(out / f"point-{number:02d}", 0.9 + number / 100)
    return run_sweep(request(job, grid, out), nothing_runs)[1]


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
    out, grid = tmp_path / "out", ["train.lr=0.001,0.002,0.003,-1"]
    with pytest.raises(AssertionError):
        run_sweep(request(job, grid, out), nothing_runs)
    ended(out / "point-01", 0.8)
    ended(out / "point-02", 0.99, state="failed", error="the loss became nan")
    ended(out / "point-03", 0.99, state="incomplete", error="never contributed: site-2")
    _, summary = run_sweep(request(job, grid, out), nothing_runs)
    assert summary["best"] == "point-01"
    assert [row["state"] for row in summary["points"]] == ["finished", "failed", "incomplete", "failed"]
    reasons = [row["reason"] for row in summary["points"]]
    assert reasons[:3] == ["", "the loss became nan", "never contributed: site-2"]
    assert "train.lr" in reasons[3]
    assert ranked(summary)[0]["name"] == "point-01"


@pytest.mark.parametrize("state", ["running", "interrupted"])
def test_a_point_that_was_cut_short_is_run_anew(state: str, job: str, tmp_path: Path) -> None:
    out, grid = tmp_path / "out", ["train.lr=0.001,0.002"]
    sweep_of(job, out, grid)
    run = json.loads((out / "point-02/run.json").read_text())
    (out / "point-02/run.json").write_text(json.dumps(run | {"state": state}))
    with pytest.raises(AssertionError, match="point-02 was started"):
        run_sweep(request(job, grid, out), nothing_runs)


def test_a_sweep_in_which_nothing_finished_is_an_error(job: str, tmp_path: Path) -> None:
    out, grid = tmp_path / "out", ["train.lr=0.001"]
    with pytest.raises(AssertionError):
        run_sweep(request(job, grid, out), nothing_runs)
    ended(out / "point-01", 0.9, state="failed", error="out of memory")
    with pytest.raises(RunError, match="point-01: out of memory"):
        run_sweep(request(job, grid, out), nothing_runs)


def test_a_folder_with_another_sweep_or_something_else_is_left_alone(job: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    sweep_of(job, out, ["train.lr=0.001,0.002"])
    with pytest.raises(OutputError, match="another grid"):
        run_sweep(request(job, ["train.lr=0.001,0.003"], out), nothing_runs)
    Path(job).write_text(SYNTHETIC + "rounds: 2\n")
    with pytest.raises(OutputError, match="another settings"):
        run_sweep(request(job, ["train.lr=0.001,0.002"], out), nothing_runs)
    other = tmp_path / "photos"
    other.mkdir()
    (other / "a.txt").write_text("mine")
    with pytest.raises(OutputError, match="is no sweep"):
        run_sweep(request(job, ["train.lr=0.001,0.002"], other), nothing_runs)
    assert (other / "a.txt").read_text() == "mine"


def test_a_dead_tracking_server_is_named_and_stops_nothing(job: str, tmp_path: Path) -> None:
    out, grid = tmp_path / "out", ["train.lr=0.001"]
    summary = sweep_of(job, out, grid)
    assert summary["best"] == "point-01"
    assert summary["mlflow"]["uri"] == NOBODY
    assert summary["mlflow"]["error"]
