"""Cross-site evaluation on running jobs: real NVFlare processes in the simulator, one site that keeps its model."""

import json
import os
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from conftest import pneumonia_fl, read_json, scalars, texts
from pneumonia_fl.config.environment import KEEP_MODEL_VARIABLE, NO_EVALUATION_VARIABLE
from pneumonia_fl.data.store import concatenate, open_site, open_split
from pneumonia_fl.evaluation.assess import assess
from pneumonia_fl.evaluation.scoring import evaluate, margins
from pneumonia_fl.fl.protocol.messages import OPTED_OUT
from pneumonia_fl.metrics.binary import CELL, summarise
from pneumonia_fl.models.checkpoint import load_model

pytestmark = [pytest.mark.e2e, pytest.mark.slow]
SITES = ["site-1", "site-2", "site-3"]
WORDS = ("--set", "cross_site.local_models=true", "--set", "synthetic.images=150", "--rounds", 1)


def run(out: Path, keep: str, *words: object) -> "tuple[Path, int, str]":
    environment = {**os.environ, KEEP_MODEL_VARIABLE: keep}
    done = pneumonia_fl("run", "smoke", *WORDS, *words, "--out", out, env=environment)
    return out, done.returncode, done.stderr


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run in which site-3 keeps its local model."""
    out, code, stderr = run(tmp_path_factory.mktemp("runs") / "shared", "site-3")
    assert code == 0, stderr
    return out


@pytest.fixture(scope="module")
def matrix(shared: Path) -> dict[str, Any]:
    return read_json(shared / "cross_site.json")


def test_every_model_is_judged_by_every_site_and_the_one_that_refuses_is_named(
    matrix: dict[str, Any],
) -> None:
    assert matrix["models"] == ["best", "last", "site-1", "site-2"]
    assert all(sorted(row) == SITES for row in matrix["cells"].values())
    assert matrix["missing"] == {"site-3": "does not share its model"}
    assert 0 <= matrix["off_diagonal_auroc"] <= 1


def test_cells_of_local_models_are_those_of_an_evaluation_by_hand(
    shared: Path, matrix: dict[str, Any]
) -> None:
    """On the very files that the sites kept, and the sites' own validation images."""
    for owner in ("site-1", "site-2"):
        model, card = load_model(shared / "sites" / owner / "local_model")
        for site, found in matrix["cells"][owner].items():
            images = open_site(shared / "data", site).split("val")
            by_hand = asdict(summarise(evaluate(model, images, card.preprocess)))
            assert found == pytest.approx({key: by_hand[key] for key in CELL}, abs=1e-6)


def test_rows_of_global_models_are_the_sites_metrics_of_those_rounds(
    shared: Path, matrix: dict[str, Any]
) -> None:
    metrics = read_json(shared / "metrics.json")
    sites = {entry["round"]: entry["sites"] for entry in metrics["rounds"]}
    for site in SITES:
        assert matrix["cells"]["best"][site]["auroc"] == sites[metrics["best_round"]][site]["auroc"]
        assert matrix["cells"]["last"][site]["brier"] == sites[1][site]["brier"]


def test_a_site_that_opts_out_sends_no_local_model(shared: Path) -> None:
    events = [json.loads(line) for line in (shared / "journal.jsonl").read_text().splitlines()]
    owners = {
        event["model"] for event in events if event["event"].startswith("cross_site") and "model" in event
    }
    assert owners == {"site-1", "site-2"}
    assert not (shared / "sites" / "site-3").exists()
    assert not list(shared.glob("cross_site_val*"))


def test_the_matrix_stands_in_tensorboard_and_mlflow(shared: Path, matrix: dict[str, Any]) -> None:
    from mlflow import MlflowClient

    assert not [tag for tag in scalars(shared / "tb_events" / "global") if tag.startswith("cross_site")]
    (table,) = texts(shared / "tb_events" / "global")["cross_site"]
    assert f"| site-1 | {matrix['cells']['site-1']['site-1']['auroc']:.3f} |" in table
    client = MlflowClient(f"sqlite:///{shared / 'mlflow.db'}")
    run_id = read_json(shared / "run.json")["mlflow"]["run_id"]
    names = {item.path for item in client.list_artifacts(run_id)}
    assert {"cross_site.json", "cross_site.csv"} <= names
    assert "figures/cross_site.png" in {item.path for item in client.list_artifacts(run_id, "figures")}
    metrics = client.get_run(run_id).data.metrics
    assert metrics["cross_site/site-1/site-2"] == matrix["cells"]["site-1"]["site-2"]["auroc"]


def test_when_no_site_shares_its_model_the_run_is_incomplete_and_says_so(tmp_path: Path) -> None:
    out, code, stderr = run(tmp_path / "kept", "site-1,site-2", "--set", "synthetic.sites=2")
    assert code == 5
    for site in SITES[:2]:
        assert f"{site}: does not share its model" in stderr
    assert "INCOMPLETE: no site's own model was evaluated" in stderr
    state = read_json(out / "run.json")
    assert (state["state"], state["error"].split(":")[0]) == (
        "incomplete",
        "no site's own model was evaluated",
    )
    assert read_json(out / "cross_site.json")["models"] == ["best", "last"]


@pytest.fixture(scope="module")
def again(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the run that a test may change."""
    return Path(shutil.copytree(shared, tmp_path_factory.mktemp("again") / "run"))


def test_models_that_exist_are_evaluated_on_demand(again: Path, matrix: dict[str, Any]) -> None:
    done = pneumonia_fl("cross-site", again, "--models", "last,site-1", "--sites", "site-1,site-3")
    assert done.returncode == 0, done.stderr
    assert "report.html (made again with this matrix)" in done.stdout
    found = read_json(again / "cross_site.json")
    assert (found["models"], found["sites"], found["missing"]) == (
        ["last", "site-1"],
        ["site-1", "site-3"],
        {},
    )
    for model, row in found["cells"].items():
        for site, cell in row.items():
            assert cell == pytest.approx(matrix["cells"][model][site], abs=1e-6)
    assert (again / "cross_site.csv").read_text().count("\n") == 1 + 2 * 2


def test_the_sites_evaluate_a_model_on_their_test_images(again: Path) -> None:
    environment = {**os.environ, NO_EVALUATION_VARIABLE: "site-3"}
    words = ("--source", again / "data", "--federated", "--json")
    done = pneumonia_fl("evaluate", again, *words, env=environment)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["missing"] == {"site-3": OPTED_OUT}
    model, card = load_model(again / "model")
    data = concatenate([open_split(again / "data", site, "test")[1] for site in ("site-1", "site-2")])
    exact = assess(margins(model, data.images, card.preprocess), data, card.threshold, card.scaling)
    for key in ("n", "positives", "patients", "confusion"):
        assert found[key] == exact[key]
    for name in ("sensitivity", "specificity", "accuracy"):
        assert found["metrics"][name] == pytest.approx(exact["metrics"][name], abs=1e-6)
    assert read_json(again / "evaluations" / "test-01.json") == found


def test_when_no_site_takes_part_the_evaluation_is_incomplete_and_says_so(again: Path) -> None:
    environment = {**os.environ, NO_EVALUATION_VARIABLE: "site-1"}
    words = ("--source", again / "data", "--federated", "--sites", "site-1", "--split", "val")
    done = pneumonia_fl("evaluate", again, *words, env=environment)
    assert done.returncode == 5
    assert f"INCOMPLETE: no site evaluated a model: site-1: {OPTED_OUT}" in done.stderr
    assert not list((again / "evaluations").glob("val-*.json"))
