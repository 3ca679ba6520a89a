"""The cyclic pass, with the sites inside this process instead of NVFlare between them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from nvflare.app_common.abstract.fl_model import FLModel
from site_reports import report

from pneumonia_fl.errors import RunError
from pneumonia_fl.fl.algorithms.server_base import ServerAlgorithm
from pneumonia_fl.fl.algorithms.weighted_average import SampleWeightedAverage
from pneumonia_fl.fl.protocol.messages import SITE_REPORT
from pneumonia_fl.fl.server.cyclic_controller import CyclicWeights, order_of
from pneumonia_fl.runs.journal import Journal, read_journal

SITES = ["a", "b", "c"]


class Federation(CyclicWeights):
    """Delivers each task at once; a site's training doubles the weight and adds its own number."""

    def __init__(self, folder: Path, quorum: int, spoiled: dict[str, float]) -> None:
        super().__init__(
            sites=tuple(SITES), quorum=quorum, seed=7, aggregator=SampleWeightedAverage(), num_rounds=3
        )
        self.journal, self.first_job = Journal(folder), "a-job"
        self._algorithm, self._spoiled = ServerAlgorithm(), spoiled

    def broadcast_model(self, *_: Any, **options: Any) -> None:
        for site in options["targets"]:
            options["callback"](self._answer(site, options["data"].params, options["task_name"]))

    def get_num_standing_tasks(self) -> int:
        return 0

    def _answer(self, site: str, received: dict[str, Any], task: str) -> FLModel:
        weight = self._spoiled.get(site, 2 * float(received["weight"]) + SITES.index(site))
        return FLModel(
            params={"weight": np.float64(weight)} if task == "train" else None,
            metrics={"validation_auc": 1.0},
            meta={"client_name": site, "NUM_STEPS_CURRENT_ROUND": 9, SITE_REPORT: report(site, task)},
        )

    def round(self, number: int) -> float:
        model = FLModel(params={"weight": np.float64(1.0)}, params_type="FULL", current_round=number)
        self.send_model(data=model, targets=SITES, callback=self._aggregate_one_result)
        return float(self._get_aggregated_result().params["weight"])


Start = Callable[..., Federation]


@pytest.fixture
def start(tmp_path: Path) -> Start:
    return lambda quorum=0, **spoiled: Federation(tmp_path, quorum, spoiled)


def passed_through(order: list[str]) -> float:
    weight = 1.0
    for site in order:
        weight = 2 * weight + SITES.index(site)
    return weight


@pytest.mark.parametrize("number", range(4))
def test_each_site_trains_what_the_one_before_it_sent(start: Start, number: int) -> None:
    assert start().round(number) == passed_through(order_of(SITES, 7, number))


def test_all_sites_are_in_the_order_which_changes_from_round_to_round() -> None:
    orders = [order_of(SITES, 7, number) for number in range(99)]
    assert all(sorted(order) == SITES for order in orders)
    assert len({tuple(order) for order in orders}) == 6
    assert orders == [order_of(SITES[::-1], 7, number) for number in range(99)]


def test_a_site_that_sends_what_is_no_number_is_left_out(start: Start, tmp_path: Path) -> None:
    order = order_of(SITES, 7, 0)
    assert start(quorum=2, b=float("nan")).round(0) == passed_through([s for s in order if s != "b"])
    problems = [event for event in read_journal(tmp_path / "journal.jsonl") if event["event"] == "problem"]
    assert [(problem["site"], problem["state"]) for problem in problems] == [("b", "refused")]


def test_a_pass_through_too_few_sites_does_not_count(start: Start) -> None:
    with pytest.raises(RunError, match="of at least 2 sites contributed"):
        start(quorum=2, a=float("nan"), b=float("nan")).round(0)


def test_only_the_global_model_is_judged(start: Start, tmp_path: Path) -> None:
    federation = start()
    federation.round(0)
    events = [event for event in read_journal(tmp_path / "journal.jsonl") if event["event"] == "site"]
    assert ["auroc" in event["values"] for event in events] == [True] * 3 + [False] * 3
    assert [event["site"] for event in events[3:]] == order_of(SITES, 7, 0)
