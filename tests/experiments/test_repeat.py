import copy
import json
from pathlib import Path
from typing import Any

import pytest

from conftest import pneumonia_fl
from pneumonia_fl.config.sections import Preprocess
from pneumonia_fl.data.prepare.pipeline import prepare
from pneumonia_fl.data.sources.synthetic.source import SyntheticSource
from pneumonia_fl.errors import DataError, RunError
from pneumonia_fl.experiments.repeat import TOLERANCE_ELSEWHERE, compare, repeat_run, warnings
from pneumonia_fl.fl.simulator.simulation import Request
from pneumonia_fl.runs.folder import RunFolder
from pneumonia_fl.runs.machine import machine

MACHINE = {"device": "cpu", "cpu": "a", "cores": 2}
SITES = ("site-1", "site-2")


def metrics() -> dict[str, Any]:
    values = {"auroc": 0.9, "sensitivity": 0.8, "loss": 0.4, "n": 20}
    entries = [
        {
            "round": number,
            "global": values | {"n": 40},
            "sites": {site: values | {"seconds": 1.0, "train_loss": 0.5} for site in SITES},
        }
        for number in range(3)
    ]
    return {"rounds": copy.deepcopy(entries), "best_round": 2, "sites": list(SITES)}


def a_run(
    path: Path, values: dict[str, Any], *, weights: bytes = b"same", threads: int = 1, **state: Any
) -> RunFolder:
    """A run folder as far as a comparison looks at it."""
    run = RunFolder(path)
    run.model.mkdir(parents=True)
    (run.model / "model.safetensors").write_bytes(weights)
    run.metrics_file.write_text(json.dumps(values))
    known: dict[str, Any] = {
        "data": {"manifest_sha256": "0" * 64, "partition": "iid", "source": "folder"},
        "sites": list(SITES),
        "machine": MACHINE,
        "threads": dict.fromkeys(SITES, threads),
        "version": "0.1.0",
        "revision": None,
    }
    run.update_state(**(known | state))
    return run


def test_equal_runs_are_said_to_be_equal(tmp_path: Path) -> None:
    later = metrics()
    for site in later["rounds"][0]["sites"].values():
        site["seconds"] = 99.0
    found = compare(a_run(tmp_path / "a", metrics()), a_run(tmp_path / "b", later))
    assert (found.within, found.same_weights, found.rounds, found.difference.largest) == (True, True, 3, 0)
    assert found.text == "repeats a: all metrics of 3 rounds are equal; the best models are equal bit by bit"


def test_the_largest_difference_is_named_and_is_too_much_on_one_machine(tmp_path: Path) -> None:
    later = metrics()
    later["rounds"][1]["sites"]["site-2"]["sensitivity"] = 0.7
    later["rounds"][2]["global"]["loss"] = 0.41
    found = compare(a_run(tmp_path / "a", metrics()), a_run(tmp_path / "b", later, weights=b"other"))
    largest = found.difference
    assert (largest.round, largest.who, largest.metric) == (1, "site-2", "sensitivity")
    assert largest.largest == pytest.approx(0.1)
    assert (found.same_machine, found.tolerance, found.within, found.same_weights) == (True, 0, False, False)
    assert "BEYOND" in found.text


@pytest.mark.parametrize(("shift", "within"), [(0.5, True), (1.5, False)])
@pytest.mark.parametrize("change", [{"machine": {**MACHINE, "cpu": "b"}}, {"threads": 2}, {"machine": None}])
def test_another_machine_has_a_tolerance_for_the_best_models_auroc(
    shift: float, within: bool, change: dict[str, Any], tmp_path: Path
) -> None:
    later = metrics()
    later["rounds"][0]["global"]["loss"] = 5.0
    later["rounds"][2]["global"]["auroc"] -= shift * TOLERANCE_ELSEWHERE
    found = compare(a_run(tmp_path / "a", metrics()), a_run(tmp_path / "b", later, **change))
    assert (found.same_machine, found.within) == (False, within)
    assert "another machine" in found.text


def test_a_gpu_is_not_held_to_equal_bits(tmp_path: Path) -> None:
    gpu = {**MACHINE, "device": "NVIDIA H200"}
    later = metrics()
    later["rounds"][1]["global"]["loss"] = 0.41
    found = compare(a_run(tmp_path / "a", metrics(), machine=gpu), a_run(tmp_path / "b", later, machine=gpu))
    assert (found.same_machine, found.tolerance, found.within) == (True, TOLERANCE_ELSEWHERE, True)


@pytest.mark.parametrize("lost", ["site", "value"])
def test_what_only_one_run_has_is_a_difference(lost: str, tmp_path: Path) -> None:
    later = metrics()
    sites = later["rounds"][1]["sites"]
    if lost == "site":
        del sites["site-1"]
    else:
        sites["site-1"]["auroc"] = None
    found = compare(a_run(tmp_path / "a", metrics()), a_run(tmp_path / "b", later))
    assert (found.difference.who, found.difference.largest, found.within) == ("site-1", 1, False)


def test_a_run_that_broke_off_is_compared_as_far_as_it_came(tmp_path: Path) -> None:
    short = metrics()
    short["rounds"] = short["rounds"][:2]
    short["best_round"] = 1
    assert compare(a_run(tmp_path / "a", short), a_run(tmp_path / "b", metrics())).rounds == 2


def test_a_change_of_version_or_machine_is_warned_of(tmp_path: Path) -> None:
    old = {**machine(), "cores": 64, "torch": "1.0"}
    said = warnings(a_run(tmp_path / "a", metrics(), machine=old, version="0.0.9"))
    assert any(line.startswith("cores was 64, is ") for line in said)
    assert any(line.startswith("torch was 1.0") for line in said)
    assert any(line.startswith("version was 0.0.9") for line in said)
    assert not any(line.startswith(("cpu ", "capability", "numpy")) for line in said)
    unknown = warnings(a_run(tmp_path / "b", metrics(), machine=None))
    assert "b does not say on which machine it ran" in unknown


def test_a_run_on_real_sites_is_refused(tmp_path: Path) -> None:
    run = a_run(tmp_path / "a", metrics(), data={"manifest_sha256": "0" * 64})
    with pytest.raises(RunError, match=r"real sites.*clone"):
        warnings(run)


def test_a_run_without_a_round_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no finished round"):
        warnings(a_run(tmp_path / "a", {"rounds": [], "best_round": None, "sites": []}))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "prepared"
    prepare(SyntheticSource(60, 32, 7, 2), folder, SITES, "natural", Preprocess(size=32), seed=7, workers=1)
    return folder


@pytest.mark.parametrize(
    ("known", "message"),
    [
        ({}, "other data: its manifest is .* the run had 000000000000"),
        ({"sites": ["site-1", "clinic"]}, "sites site-1, clinic, here are site-1, site-2"),
    ],
    ids=["manifest", "sites"],
)
def test_other_data_is_refused_before_a_folder_is_made(
    known: dict[str, Any], message: str, data: Path, tmp_path: Path
) -> None:
    manifest = json.loads((data / "dataset.json").read_text())["manifest_sha256"]
    state: dict[str, Any] = {"source": "synthetic", "partition": "natural", "manifest_sha256": manifest}
    run = a_run(tmp_path / "a", metrics(), **(known and {"data": state}), **known)
    run.config.write_text("name: fedavg\n")
    request = Request("", data, tmp_path / "again")
    with pytest.raises(DataError, match=message):
        repeat_run(run, request, Nobody())
    assert not (tmp_path / "again").exists()


class Nobody:
    """Watches nothing."""

    def progress(self, *_: object) -> None: ...
    def started(self, *_: object) -> None: ...
    def on_event(self, *_: object) -> None: ...


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "name a job"),
        (("smoke", "--from", "a"), "do not go with it"),
        (("--from", "a", "--set", "train.lr=1"), "do not go with it"),
        (("--from", "a", "--rounds", "3"), "do not go with it"),
        (("--from", "a", "--env", "prod"), "do not go with it"),
        (("--from", "nowhere"), "nowhere does not exist"),
    ],
)
def test_a_repetition_takes_no_changes(words: tuple[str, ...], message: str, tmp_path: Path) -> None:
    done = pneumonia_fl("run", *words, cwd=tmp_path)
    assert done.returncode == 1
    assert message in done.stderr
