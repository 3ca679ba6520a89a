"""Every algorithm in NVFlare's simulator: a tiny job must end well, with a model that can be used."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tiny_runs import ROUNDS

from conftest import pneumonia_fl, read_json, scalars
from pneumonia_fl.fl.server.cyclic_controller import order_of
from pneumonia_fl.models.architectures import normalisation_keys
from pneumonia_fl.models.checkpoint import load_model, load_state
from pneumonia_fl.runs.journal import read_journal

pytestmark = [pytest.mark.e2e, pytest.mark.slow]


@pytest.fixture
def run(request: pytest.FixtureRequest, tiny_run: Callable[[str], Path]) -> Path:
    """A finished run of the job that the test asks for."""
    return tiny_run(request.param)


def of(*jobs: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("run", jobs, indirect=True, ids=str)


@of("fedavgm", "scaffold", "fednova", "ditto", "cyclic", "swarm")
def test_it_ends_with_a_best_model_that_can_be_used(run: Path) -> None:
    metrics, card = read_json(run / "metrics.json"), read_json(run / "model/model_card.json")
    assert read_json(run / "run.json")["state"] == "finished"
    assert [entry["round"] for entry in metrics["rounds"]][:3] == [0, 1, 2]
    judged = {entry["round"]: entry["global"]["auroc"] for entry in metrics["rounds"][1:] if entry["global"]}
    assert card["round"] == metrics["best_round"] == max(judged, key=lambda number: judged[number])
    assert card["metrics"]["auroc"] == pytest.approx(judged[card["round"]])
    sites = [set(entry["sites"]) for entry in metrics["rounds"]]
    assert sites == [{"site-1", "site-2"}] * len(sites)
    assert {"validation_auc", "train_loss"} <= scalars(run / "tb_events/site-1").keys()


@of("fedavgm", "scaffold", "fednova", "ditto", "cyclic", "fedbn", "swarm")
def test_averages_with_batch_norm_are_settled(run: Path) -> None:
    settled = [event["round"] for event in read_journal(run / "journal.jsonl") if event["event"] == "settled"]
    rounds = {"cyclic": 0, "fedbn": 0, "swarm": 0, "fedavgm": 3}
    assert settled == list(range(rounds.get(run.name, ROUNDS)))


@of("fedavgm")
def test_it_stops_early_and_judges_the_last_model_all_the_same(run: Path) -> None:
    metrics = read_json(run / "metrics.json")
    assert metrics["stopped_early"] == "stopped early after round 3 of 5: no better model for 1 round"
    assert metrics["rounds"][-2]["round"] == 3
    assert metrics["stopped_early"] in " ".join((run / "stdout.txt").read_text().split())


@of("fedavgm")
def test_the_mean_of_the_last_models_is_one_more_candidate(run: Path) -> None:
    entries = read_json(run / "metrics.json")["rounds"]
    last, mean = entries[-2:]
    card = read_json(run / "model/model_card.json")
    assert (last["round"], last.get("averaged"), mean["averaged"]) == (3, None, 2)
    others = [entry["global"]["auroc"] for entry in entries[1:-1]]
    assert card["averaged"] == (2 if mean["global"]["auroc"] > max(others) else 0)
    assert read_json(run / "model_last/model_card.json")["round"] == 3
    weights = {folder: load_state(run / folder / "model.safetensors") for folder in ("model", "model_last")}
    same = all(torch.equal(weights["model"][name], value) for name, value in weights["model_last"].items())
    assert same == (card["round"] == 3)


@of("cyclic")
def test_the_model_goes_from_site_to_site_in_the_order_of_the_seed(run: Path) -> None:
    events = read_journal(run / "journal.jsonl")
    for number in range(ROUNDS):
        trained = [
            event["site"]
            for event in events
            if event["event"] == "site" and event["round"] == number and "train_loss" in event["values"]
        ]
        assert trained == order_of(["site-1", "site-2"], 11, number)
    steps = [step for step, _ in scalars(run / "tb_events/site-1")["validation_auc"]]
    assert steps == list(range(ROUNDS + 1)), "a model in the middle of a pass is judged"


@of("fedbn")
def test_normalisation_stays_at_the_sites_and_each_has_a_model_of_its_own(run: Path) -> None:
    model, card = load_model(run / "sites/site-1/model")
    other, _ = load_model(run / "sites/site-2/model")
    keys = normalisation_keys(model)
    assert load_state(run / "model_shared/model.safetensors").keys() == model.state_dict().keys() - keys
    assert not torch.equal(
        model.state_dict()["stem.1.running_mean"], other.state_dict()["stem.1.running_mean"]
    )
    judged = {
        entry["round"]: entry["sites"]["site-1"]["auroc"]
        for entry in read_json(run / "metrics.json")["rounds"]
    }
    assert judged[card.round] == max(judged[1], judged[2])
    assert card.metrics["auroc"] == judged[card.round]
    assert not (run / "model").exists()
    assert "Not a complete model" in read_json(run / "model_shared/model_card.json")["limitations"]
    for wrong in (run, run / "model_shared"):
        done = pneumonia_fl("evaluate", wrong, "--source", run)
        assert done.returncode == 1
        assert "no complete model" in done.stderr
        assert "sites/NAME/model" in done.stderr


@of("ditto")
def test_of_a_personal_model_only_numbers_travel(run: Path) -> None:
    curve = dict(scalars(run / "tb_events/site-1")["personal_validation_auc"])
    entries = read_json(run / "metrics.json")["rounds"]
    for entry in entries:
        assert entry["sites"]["site-1"]["personal"]["auroc"] == pytest.approx(curve[entry["round"]])
    assert entries[0]["sites"]["site-1"]["personal"]["loss"] == entries[0]["sites"]["site-1"]["loss"], (
        "both begin alike"
    )
    _, card = load_model(run / "sites/site-1/model")
    assert card.metrics["auroc"] == max(curve[1], curve[2])
    assert card.limitations.startswith("One site's own model")
    assert scalars(run / "tb_events/site-1").keys() >= {"personal_train_loss", "train_loss"}
