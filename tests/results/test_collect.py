"""Which card a run's models get: that of their own round, also when the job ended before anybody judged them."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pneumonia_fl.config.job import JobConfig
from pneumonia_fl.config.sections import Preprocess
from pneumonia_fl.metrics.binary import ScoreHistogram, summarise
from pneumonia_fl.models.architectures import build_model
from pneumonia_fl.models.checkpoint import DataSummary, ModelCard, load_model, load_state
from pneumonia_fl.results.collect import collect, save_models
from pneumonia_fl.runs.folder import RunFolder
from pneumonia_fl.runs.journal import Journal

JOB = JobConfig(name="fedavg", rounds=4, preprocess=Preprocess(size=32))
DATA = DataSummary(source="zip", licence="", credit="", manifest_sha256="ab" * 32, counts={})


def judged(journal: Journal, number: int, averaged: int = 0) -> None:
    """The sites' verdict on the model after `number` rounds: the later, the better."""
    rng = np.random.default_rng(number)
    labels = np.arange(60) % 2
    pooled = ScoreHistogram.from_scores(rng.normal((2 * labels - 1) * number, 1.0), labels)
    note = {"averaged": averaged} if averaged else {}
    values = asdict(summarise(pooled))
    journal.write("global", round=number, values=values, best=number > 0, histogram=pooled.to_dict(), **note)


def collected(folder: Path, rounds: int, final: bool = False, averaged: int = 0) -> RunFolder:
    """The run folder of a job that ended after `rounds` averages; `final`: the sites judged the last one too."""
    server = folder / "server" / "simulate_job"
    (server / "app_server").mkdir(parents=True)
    journal = Journal(server)
    for number in range(rounds):
        journal.write("site", round=number, site="site-1", values={"auroc": 0.5})
        judged(journal, number)
        journal.write("saved", round=number + 1)
    if final:
        judged(journal, rounds)
    if averaged:
        judged(journal, rounds + 1, averaged)
    journal.write("finished" if final else "stopped", reason="" if final else "aborted", missing=[])
    for name, seed in (("best_FL_global_model.pt", 1), ("FL_global_model.pt", 2)):
        if name == "FL_global_model.pt" or rounds > 1 or final:
            torch.save({"model": build_model(size=32, seed=seed).state_dict()}, server / "app_server" / name)
    run = RunFolder.create(folder / "run")
    save_models(run, JOB, DATA, server, collect(run, server, {}))
    return run


def card(folder: Path) -> ModelCard:
    return load_model(folder)[1]


@pytest.mark.parametrize("rounds", [1, 2, 3])
def test_the_last_model_of_a_job_that_broke_off_says_its_round_and_that_nobody_evaluated_it(
    tmp_path: Path, rounds: int
) -> None:
    last = card(collected(tmp_path, rounds).model_last)
    assert last.round == rounds
    assert last.limitations.startswith("Not evaluated")
    assert last.operating_point.startswith("not evaluated")
    assert last.metrics == {}
    assert (last.threshold, last.temperature, last.offset) == (0.5, 1.0, 0.0)


def test_the_best_model_of_a_job_that_broke_off_keeps_what_was_measured(tmp_path: Path) -> None:
    best = card(collected(tmp_path, 3).model)
    assert best.round == 2
    assert best.metrics["n"] == 60
    assert "Not evaluated" not in best.limitations


def test_a_job_that_broke_off_in_its_second_round_has_no_best_model(tmp_path: Path) -> None:
    assert not collected(tmp_path, 1).model.exists()


def test_the_last_model_of_a_finished_job_has_the_card_of_its_last_round(tmp_path: Path) -> None:
    run = collected(tmp_path, 3, final=True, averaged=2)
    last, best = card(run.model_last), card(run.model)
    assert (last.round, last.averaged) == (3, 0)
    assert last.metrics["n"] == 60
    assert (best.round, best.averaged) == (4, 2)


def test_the_weights_are_those_that_the_server_saved_last(tmp_path: Path) -> None:
    run = collected(tmp_path, 2)
    weights: dict[str, Any] = load_state(run.model_last / "model.safetensors")
    saved = build_model(size=32, seed=2).state_dict()
    assert all(torch.equal(weights[key], value) for key, value in saved.items())
