"""Whole runs of the controller in memory: rounds, faults, an abort, and a job that is resumed."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from nvflare.apis.fl_constant import ReturnCode
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable, make_reply
from nvflare.app_common.abstract.fl_model import FLModel
from servers import SITES, Surroundings
from site_reports import report

from pneumonia_fl.fl.protocol.messages import FIRST_JOB, SITE_REPORT, SITE_STEPS
from pneumonia_fl.fl.server.controller import PooledFedAvg


def trained(site: str, task: str, sent: FLModel) -> FLModel:
    """Sites a, b and c add 0, 1 and 2, so that each round adds 1."""
    weight = np.float64(sent.params["weight"] + SITES.index(site))
    return FLModel(
        params={"weight": weight} if task == "train" else None,
        metrics={"validation_auc": 1.0},
        meta={"NUM_STEPS_CURRENT_ROUND": 9, SITE_REPORT: report(site, task)},
    )


def job(
    kit: Path, answer: Any = trained, name: str = "job", **options: Any
) -> tuple[PooledFedAvg, Surroundings]:
    controller = PooledFedAvg(sites=SITES, **{"quorum": 2, "num_rounds": 3, "grace": 0, **options})
    return controller, Surroundings(controller, kit, answer, job=name)


def weights(around: Surroundings) -> list[float]:
    return [float(model["weight"]) for model in around.saved]


def test_each_round_is_sent_averaged_judged_and_saved(tmp_path: Path) -> None:
    controller, around = job(tmp_path, num_rounds=2)
    controller.run()
    assert weights(around) == [2.0, 3.0]
    kinds = [event["event"] for event in around.events("")]
    round_ = ["round_started", "data", "site", "data", "site", "data", "site", "global", "saved"]
    later = [kind for kind in round_ if kind != "data"]
    assert kinds == ["started", *round_, *later, *later[:-1], "finished"]
    assert [(task, sent.current_round) for task, _, sent in around.sent] == [
        ("train", 0), ("train", 1), ("validate", 2)
    ]  # fmt: skip
    last = around.sent[-1][2]
    assert last.meta[SITE_STEPS] == dict.fromkeys(SITES, 6)
    assert last.meta[FIRST_JOB] == "job"
    assert around.points["validation_auc"] == 1.0
    assert not around.panics
    result = controller.job.state.result()
    assert result is not None
    assert (result["state"], result["done"], result["best_round"], result["missing"]) == (
        "finished",
        2,
        1,
        [],
    )


@pytest.mark.parametrize(
    ("said", "state", "words"),
    [
        (make_reply(ReturnCode.EXECUTION_EXCEPTION), "failed", ReturnCode.EXECUTION_EXCEPTION),
        (Shareable(), "refused", "its answer cannot be read"),
        (None, "late", "no sign of it yet: not connected, or it did not take the job"),
    ],
)
def test_a_site_without_a_result_is_named_and_the_rounds_go_on(
    said: Shareable | None, state: str, words: str, tmp_path: Path
) -> None:
    controller, around = job(tmp_path, lambda site, *sent: said if site == "b" else trained(site, *sent))
    controller.run()
    problems = around.events("problem")
    assert {(problem["site"], problem["state"], problem["problem"]) for problem in problems} == {
        ("b", state, words)
    }
    assert weights(around) == [2.0, 3.0, 4.0]
    assert around.events("finished")[0]["missing"] == ["b"]


def test_a_job_that_is_resumed_gives_what_an_unbroken_one_gives(tmp_path: Path) -> None:
    whole, unbroken = job(tmp_path / "unbroken")
    whole.run()
    broken, first = job(tmp_path, name="first")
    first.answer = lambda site, task, sent: trained(site, task, sent) if sent.current_round < 2 else None
    broken.run()
    assert first.panics[0].startswith("round 3: 0 of at least 2 sites contributed")
    controller, second = job(tmp_path, name="second", resume_from="first")
    controller.run()
    assert not second.panics
    assert weights(first) + weights(second) == weights(unbroken)
    assert second.sent[0][2].meta[FIRST_JOB] == "first"
    assert second.sent[0][2].meta[SITE_STEPS] == dict.fromkeys(SITES, 6)
    judged = [(event["round"], event["values"]) for event in unbroken.events("global")]
    assert [(event["round"], event["values"]) for event in second.events("global")] == judged
    assert controller.job.snapshot()["start_round"] == 2


def test_an_abort_ends_the_job_before_anything_is_averaged(tmp_path: Path) -> None:
    controller, around = job(tmp_path)
    around.get_num_standing_tasks = lambda: 1  # type: ignore[method-assign]
    controller.abort_signal.trigger(True)
    controller.run()
    assert (weights(around), around.panics) == ([], [])
    assert around.events("stopped")[0]["reason"] == "aborted"


def test_silence_ends_the_job(tmp_path: Path) -> None:
    controller, around = job(tmp_path, lambda *sent: None, stall_timeout=-1)
    controller.run()
    assert around.panics == ["no sign from any site for -1 s; waiting for a, b, c"]


def test_a_result_that_comes_before_the_run_begins_is_no_error(tmp_path: Path) -> None:
    controller, _ = job(tmp_path)
    client: Any = SimpleNamespace(name="c")
    controller.process_result_of_unknown_task(client, "train", "id", Shareable(), FLContext())


def test_a_result_of_a_closed_round_is_named(tmp_path: Path) -> None:
    controller, around = job(tmp_path)
    controller.run()
    client: Any = SimpleNamespace(name="c")
    controller.process_result_of_unknown_task(client, "train", "id", Shareable(), FLContext())
    assert around.events("problem")[0]["problem"] == "answered after the round had closed"
