"""From a running job to the matrix: what a site keeps and sends, what the journal gives, how a job then ends."""

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from nvflare.app_common.abstract.fl_model import FLModel

from pneumonia_fl.config.environment import KEEP_MODEL_VARIABLE, keep_model, shares_model
from pneumonia_fl.config.job import SiteSettings
from pneumonia_fl.config.sections import ModelConfig, Preprocess
from pneumonia_fl.config.strict import parse
from pneumonia_fl.data.store import ImageSet
from pneumonia_fl.errors import CheckpointError, ConfigError
from pneumonia_fl.evaluation.scoring import evaluate
from pneumonia_fl.fl.admin.job_record import INCOMPLETE, record
from pneumonia_fl.fl.admin.watch import ending
from pneumonia_fl.fl.kit.startup_kit import LocalSettings
from pneumonia_fl.fl.protocol.messages import SITE_REPORT
from pneumonia_fl.fl.site.local_models import LOCAL, LocalModels
from pneumonia_fl.fl.state.site_state import SiteState
from pneumonia_fl.inputs.yaml_files import read_yaml
from pneumonia_fl.metrics.binary import ScoreHistogram, summarise
from pneumonia_fl.models.architectures import build_model
from pneumonia_fl.models.checkpoint import ModelCard
from pneumonia_fl.results.cross_site_files import matrix_of, write_matrix
from pneumonia_fl.results.finalize import outcome
from pneumonia_fl.runs.folder import RunFolder
from pneumonia_fl.runs.journal import Event

SPEC = Preprocess(size=16)
SITES = ["site-1", "site-2", "site-3"]


def settings(local_models: bool = True) -> SiteSettings:
    values = {
        "name": "tiny", "rounds": 2, "algorithm": {}, "operating_point": {}, "preprocess": {"size": 16},
        "cross_site": {"local_models": local_models}, "model": {}, "train": {}, "augment": {},
    }  # fmt: skip
    return parse(SiteSettings, values, "the test")


def images(seed: int) -> ImageSet:
    pixels = np.random.default_rng(seed).integers(0, 256, (12, 16, 16), dtype=np.uint8)
    return ImageSet(pixels, np.arange(12) % 2, [str(i) for i in range(12)], ["unknown"] * 12)


def site(local_models: bool = True) -> LocalModels:
    return LocalModels("site-1", settings(local_models), images(1), torch.device("cpu"))


def card(number: int, auroc: float) -> Callable[[ScoreHistogram], ModelCard]:
    metrics = {"auroc": auroc, "loss": 0.5}
    return lambda scores: ModelCard(
        job="tiny", round=number, seed=7, model=ModelConfig(), preprocess=SPEC, metrics=metrics
    )


def problem(answer: FLModel) -> str:
    assert answer.params is None
    return str(answer.meta[SITE_REPORT]["problem"])


def test_a_site_sends_the_best_model_that_it_trained(tmp_path: Path) -> None:
    state, local = SiteState(tmp_path), site()
    models = {number: build_model(size=16, seed=number) for number in (1, 2, 3)}
    for number, auroc in ((1, 0.7), (2, 0.9), (3, 0.8)):
        local.note(models[number], card(number, auroc), state)
    sent = local.submit(state).params
    assert sent.keys() == models[2].state_dict().keys()
    assert all(torch.equal(sent[key], value) for key, value in models[2].state_dict().items())


@pytest.mark.parametrize("local_models", [True, False])
def test_a_site_that_opts_out_keeps_nothing_and_sends_nothing(
    local_models: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(KEEP_MODEL_VARIABLE, "site-7,site-1")
    state, local = SiteState(tmp_path / "state"), site(local_models)
    local.note(build_model(size=16, seed=1), card(1, 0.9), state)
    assert problem(local.submit(state)) == "does not share its model"
    assert not (tmp_path / "state").exists()


def test_a_job_that_does_not_ask_gets_no_model_even_when_one_is_there(tmp_path: Path) -> None:
    state = SiteState(tmp_path)
    site().note(build_model(size=16, seed=1), card(1, 0.9), state)
    assert (tmp_path / LOCAL).is_dir()
    assert problem(site(local_models=False).submit(state)) == "has trained no model in this job"


def test_a_site_that_never_trained_says_so(tmp_path: Path) -> None:
    assert problem(site().submit(SiteState(tmp_path))) == "has trained no model in this job"


def test_another_sites_model_is_evaluated_on_the_own_validation_split() -> None:
    model = build_model(size=16, seed=3)
    answer = site().evaluate(FLModel(params=dict(model.state_dict())))
    assert answer.params is None
    assert answer.meta[SITE_REPORT] == {"histogram": evaluate(model, images(1), SPEC).to_dict()}


def test_a_model_that_does_not_fit_is_refused() -> None:
    state = build_model(size=16, seed=3).state_dict()
    state.popitem()
    with pytest.raises(CheckpointError, match="the other site's model does not fit"):
        site().evaluate(FLModel(params=dict(state)))


def test_a_kits_owner_decides_and_only_for_the_own_site(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(KEEP_MODEL_VARIABLE, "")
    assert LocalSettings().share_local_model
    file = tmp_path / "pneumonia_fl.yml"
    file.write_text("share_local_model: false\n")
    assert not parse(LocalSettings, read_yaml(file), "local").share_local_model
    keep_model("site-2")
    assert [shares_model(name) for name in SITES] == [True, False, True]


def test_sharing_local_models_is_off_unless_the_job_says_so() -> None:
    values = settings().model_dump()
    del values["cross_site"]
    assert not parse(SiteSettings, values, "the test").cross_site.local_models


def test_a_swarm_has_no_server_that_could_ask(tmp_path: Path) -> None:
    from pneumonia_fl.config.job import load_job

    job = tmp_path / "job.yml"
    job.write_text("name: tiny\nalgorithm: {name: swarm}\ncross_site: {local_models: true}\n")
    with pytest.raises(ConfigError, match="swarm"):
        load_job(job)


def values(auroc: float, n: int = 10) -> dict[str, Any]:
    """A site's metrics as the journal has them."""
    margins = np.linspace(-1, 1, n)
    found = summarise(ScoreHistogram.from_scores(margins, np.arange(n) % 2))
    return {**asdict(found), "auroc": auroc}


def events(*more: Event, best: int = 1, rounds: int = 2, answered: list[str] = SITES) -> list[Event]:
    """A job of `rounds` rounds; in round r site i has AUROC 0.i + r/100."""
    found: list[Event] = [{"event": "started", "time": 1.0, "rounds": rounds, "sites": SITES}]
    for number in range(rounds + 1):
        for name in answered:
            auroc = int(name[-1]) / 10 + number / 100
            found.append(
                {"event": "site", "time": 2.0, "round": number, "site": name, "values": values(auroc)}
            )
        found.append(
            {"event": "global", "time": 3.0, "round": number, "values": values(0.5), "best": number == best}
        )
    return [*found, *more]


def cell_event(model: str, name: str, auroc: float) -> Event:
    return {"event": "cross_site", "time": 4.0, "model": model, "site": name, "values": values(auroc)}


def aurocs(matrix: dict[str, Any]) -> dict[str, list[float]]:
    return {model: [cell["auroc"] for cell in row.values()] for model, row in matrix["cells"].items()}


def test_global_models_stand_in_every_matrix_without_a_task_of_their_own() -> None:
    matrix = matrix_of(events())
    assert (matrix["models"], matrix["sites"], matrix["split"]) == (["best", "last"], SITES, "val")
    assert aurocs(matrix) == {
        "best": pytest.approx([0.11, 0.21, 0.31]),
        "last": pytest.approx([0.12, 0.22, 0.32]),
    }
    assert (matrix["off_diagonal_auroc"], matrix["missing"]) == (None, {})


def test_the_mean_of_the_last_models_is_not_the_last_model() -> None:
    averaged: Event = {
        "event": "global",
        "time": 4.0,
        "round": 3,
        "values": values(0.5),
        "best": True,
        "averaged": 2,
    }
    extra: list[Event] = [
        {"event": "site", "time": 4.0, "round": 3, "site": name, "values": values(0.99)} for name in SITES
    ]
    matrix = matrix_of(events(*extra, averaged))
    assert aurocs(matrix) == {"best": [0.99] * 3, "last": pytest.approx([0.12, 0.22, 0.32])}


def test_sites_models_come_after_the_global_ones_and_gaps_are_named() -> None:
    refusal: Event = {
        "event": "cross_site_missing", "time": 4.0, "site": "site-3", "reason": "does not share its model"
    }  # fmt: skip
    broken: Event = {
        "event": "cross_site_missing", "time": 4.0, "site": "site-2", "reason": "no answer in time"
    }  # fmt: skip
    filled = [cell_event("site-1", "site-1", 0.9), cell_event("site-1", "site-3", 0.6)]
    matrix = matrix_of(events(refusal, broken, *filled))
    assert matrix["models"] == ["best", "last", "site-1"]
    assert matrix["cells"]["site-1"].keys() == {"site-1", "site-3"}
    assert matrix["off_diagonal_auroc"] == 0.6
    assert matrix["missing"] == {"site-3": "does not share its model", "site-2": "no answer in time"}


def test_a_site_that_did_not_judge_a_global_model_is_named() -> None:
    matrix = matrix_of(events(answered=["site-1", "site-3"]))
    assert matrix["missing"] == {"site-2": "did not evaluate the global model: best, last"}


def journal(folder: Path, lines: list[Event]) -> RunFolder:
    run = RunFolder(folder)
    run.journal.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return run


def test_the_matrix_becomes_json_csv_and_a_picture(tmp_path: Path) -> None:
    run = journal(tmp_path, events(cell_event("site-1", "site-2", 0.8)))
    write_matrix(run, run.events())
    assert json.loads(run.cross_site.read_text()) == matrix_of(events(cell_event("site-1", "site-2", 0.8)))
    assert len((tmp_path / "cross_site.csv").read_text().splitlines()) == 1 + 3 * 3
    assert (tmp_path / "figures/cross_site.png").read_bytes().startswith(b"\x89PNG")


def test_a_run_without_any_evaluation_gets_no_empty_matrix(tmp_path: Path) -> None:
    write_matrix(journal(tmp_path, events()[:1]), events()[:1])
    assert [path.name for path in tmp_path.iterdir()] == ["journal.jsonl"]


EMPTY = "no site's own model was evaluated: site-1: does not share its model"


@pytest.mark.parametrize(
    ("missing", "reason", "words"),
    [
        ([], "", ""),
        ([], EMPTY, EMPTY),
        (["site-2"], "", "never contributed: site-2"),
        (["site-2"], EMPTY, f"never contributed: site-2; {EMPTY}"),
    ],
)
def test_an_empty_matrix_never_ends_green(missing: list[str], reason: str, words: str) -> None:
    last: Event = {"event": "finished", "time": 9.0, "reason": reason, "missing": missing}
    assert outcome([last]) == (("incomplete", words) if words else ("finished", ""))
    result = {"state": "finished", "reason": reason, "missing": missing, "best_auroc": 0.9}
    job = record({"job_id": "1", "status": "FINISHED:COMPLETED", "pneumonia_fl_result": result})
    assert (job.status == INCOMPLETE, job.reason) == (bool(words), words)
    assert ending(job, str).how == ("incomplete" if words else "complete")
