"""`pneumonia-fl compare` on synthetic X-rays: real trainings, killed and taken up again."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from speed import scaled

from conftest import CLI, pneumonia_fl, read_json
from pneumonia_fl.data.manifest import read_info, write_info
from pneumonia_fl.experiments.compare.compare_plan import plan_comparison
from pneumonia_fl.runs.processes.process_group import RUN_MARK, marked_processes

pytestmark = pytest.mark.e2e
# The third site of this partition has pneumonia only.
SOURCE = "synthetic:images=160,sites=3"
WORDS = ("--seeds", "1", "--rounds", "2", "--set", "tracking=[tensorboard]")
DEADLINE = 120.0

Killed = tuple[Path, dict[str, Any]]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("compare") / "data"
    done = pneumonia_fl(
        "data", "prepare", "--source", SOURCE, "--out", out, "--sites", 3, "--size", 28,
        "--partition", "dirichlet:0.1", "--seed", 4,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return out


@pytest.fixture(scope="module")
def killed(data: Path) -> Killed:
    """A comparison that was killed hard after its first training: folder and raw record."""
    out = data.parent / "comparison"
    process = subprocess.Popen(
        [str(CLI), "compare", "--data", str(data), "--out", str(out), *WORDS],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    end = time.monotonic() + scaled(DEADLINE)
    while not (out / "comparison.json").is_file() or not read_json(out / "comparison.json")["results"]:
        assert process.poll() is None
        assert time.monotonic() < end
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    return out, read_json(out / "comparison.json")


@pytest.fixture(scope="module")
def finished(data: Path, killed: Killed) -> dict[str, Any]:
    """The same command again."""
    done = pneumonia_fl("compare", "--data", data, "--out", killed[0], *WORDS, "--json")
    assert done.returncode == 0, done.stderr
    values: dict[str, Any] = json.loads(done.stdout)
    return values


def test_a_killed_comparison_goes_on_where_it_stopped(killed: Killed, finished: dict[str, Any]) -> None:
    out, before = killed
    assert 1 <= len(before["results"]) < 4
    after = read_json(out / "comparison.json")["results"]
    assert after[: len(before["results"])] == before["results"]
    assert finished["state"] == "finished"
    assert {result["arm"] for result in after} == {"central", "site-1 alone", "site-2 alone", "fedavg"}


def test_every_model_took_the_same_number_of_optimiser_steps(finished: dict[str, Any]) -> None:
    steps = {tuple(arm["steps"]) for arm in finished["arms"] if not arm["skipped"]}
    assert len(steps) == 1


def test_the_summary_says_how_the_federation_compares(finished: dict[str, Any]) -> None:
    arms = {arm["name"]: arm for arm in finished["arms"]}
    assert arms["site-3 alone"]["skipped"] == "no NORMAL images to learn from"
    assert set(arms["fedavg"]["differences"]) == {"central", "best_alone"}
    assert arms["fedavg"]["bytes"][0] > 0
    assert finished["best_alone"] in ("site-1 alone", "site-2 alone")
    assert len(finished["findings"]) == 2
    assert sum(site["n"] for site in finished["test"]["sites"].values()) == finished["test"]["n"]


def test_the_cross_site_matrix_has_every_model_on_every_sites_test_images(finished: dict[str, Any]) -> None:
    matrix = finished["cross_site"]
    assert set(matrix["models"]) == {"central", "site-1", "site-2", "fedavg", "fedavg, last round"}
    assert matrix["split"] == "test"
    assert all(set(row) == set(finished["test"]["sites"]) for row in matrix["cells"].values())


def test_table_and_figures_come_from_the_raw_numbers_alone(
    data: Path, killed: Killed, finished: dict[str, Any], tmp_path: Path
) -> None:
    raw = (killed[0] / "comparison.json").read_bytes()
    (tmp_path / "comparison.json").write_bytes(raw)
    done = pneumonia_fl("compare", "--data", data, "--out", tmp_path, "--table-only", "--json")
    assert json.loads(done.stdout) == {**finished, "comparison": str(tmp_path)}
    for name in ("comparison.png", "cross_site.png"):
        assert (tmp_path / "figures" / name).stat().st_size > 10_000
    shown = pneumonia_fl("compare", "--data", data, "--out", tmp_path, "--table-only")
    assert "fedavg: AUROC" in shown.stdout
    assert "Not a medical device" in shown.stdout


def test_the_record_names_no_patient_and_no_path(
    data: Path, killed: Killed, finished: dict[str, Any]
) -> None:
    text = (killed[0] / "comparison.json").read_text() + (killed[0] / "summary.json").read_text()
    rows = (data / "test" / "manifest.csv").read_text().splitlines()[1:]
    assert not [row.split(",")[2] for row in rows if f'"{row.split(",")[2]}"' in text]
    assert str(data) not in text
    assert ".png" not in text


def test_other_settings_do_not_go_on_with_it(data: Path, killed: Killed, finished: dict[str, Any]) -> None:
    done = pneumonia_fl("compare", "--data", data, "--out", killed[0], "--seeds", 1, "--rounds", 3)
    assert done.returncode == 1
    assert "other data or settings; choose another --out" in done.stderr


def test_a_comparison_of_another_version_is_not_gone_on_with(data: Path, tmp_path: Path) -> None:
    """Its models were calibrated otherwise."""
    (tmp_path / "comparison.json").write_text('{"version": 1}')
    done = pneumonia_fl("compare", "--data", data, "--out", tmp_path, "--seeds", 1)
    assert done.returncode == 1
    assert "of another version; choose another --out" in done.stderr


def test_no_training_outlives_a_comparison_that_is_stopped(data: Path, tmp_path: Path) -> None:
    process = subprocess.Popen(
        [str(CLI), "compare", "--data", str(data), "--out", str(tmp_path / "c"), "--rounds", "50"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    end = time.monotonic() + scaled(DEADLINE)
    while not list((tmp_path / "c").glob("arms/*/*/journal.jsonl")):
        assert process.poll() is None
        assert time.monotonic() < end
        time.sleep(0.05)
    marks = {child.environ()[RUN_MARK] for child in psutil.Process(process.pid).children()}
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=scaled(60))
    assert process.returncode == 130
    assert b"run the same command again to train what is missing" in said
    assert not list(marked_processes(*marks))


def test_private_images_are_not_brought_together(data: Path, tmp_path: Path) -> None:
    private = tmp_path / "private"
    private.mkdir()
    write_info(private, read_info(data).model_copy(update={"poolable": False}))
    done = pneumonia_fl("compare", "--data", private, "--out", tmp_path / "c")
    assert done.returncode == 4
    assert "may be private" in done.stderr
    assert "--poolable" in done.stderr
    assert not (tmp_path / "c").exists()


def test_one_private_site_is_enough_to_refuse(data: Path, tmp_path: Path) -> None:
    mixed = tmp_path / "mixed"
    (mixed / "site-2").mkdir(parents=True)
    write_info(mixed, read_info(data))
    write_info(mixed / "site-2", read_info(data / "site-2").model_copy(update={"poolable": False}))
    assert pneumonia_fl("compare", "--data", mixed, "--out", tmp_path / "c").returncode == 4


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--jobs", "fedavg,fedavg"], "each once"),
        (["--jobs", "nothing"], "nothing"),
        (["--jobs", ""], "at least one job"),
        (["--seeds", "21"], "from 1 to 20"),
        (["--set", "train.lrr=1"], "unknown key"),
        (["--out", "."], "holds other files"),
    ],
)
def test_mistakes_are_told_before_anything_is_trained(
    data: Path, tmp_path: Path, words: list[str], said: str
) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    done = pneumonia_fl("compare", "--data", data, "--out", "c", *words, cwd=tmp_path)
    assert done.returncode == 1
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_baselines_get_the_first_jobs_settings(data: Path) -> None:
    planned = plan_comparison(data, ["smoke", "fedavg"], 2, ["rounds=2"])
    assert planned.base.train.local_epochs == 6
    assert planned.seeds == (7, 8)
    assert [arm.name for arm in planned.arms if arm.kind == "federated"] == ["smoke", "fedavg"]
