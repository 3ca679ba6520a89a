"""The cyclic pass, with the sites inside this process instead of NVFlare between them."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from nvflare.app_common.abstract.fl_model import FLModel
from servers import Surroundings, begun
from site_reports import report

from pneumonia_fl.errors import RunError
from pneumonia_fl.fl.protocol.messages import SITE_REPORT
from pneumonia_fl.fl.server.cyclic_controller import CyclicWeights, order_of

SITES = ["a", "b", "c"]


class Federation:
    """A site's training doubles the weight and adds its own number."""

    def __init__(self, folder: Path, quorum: int, spoiled: dict[str, float]) -> None:
        self.controller = CyclicWeights(
            sites=tuple(SITES), quorum=quorum, seed=7, num_rounds=3, algorithm={"name": "cyclic"}
        )
        self._spoiled = spoiled
        self.around = Surroundings(self.controller, folder)
        begun(self.controller)
        self.around.answer = self._answer

    def _answer(self, site: str, task: str, sent: FLModel) -> FLModel:
        weight = self._spoiled.get(site, 2 * float(sent.params["weight"]) + SITES.index(site))
        return FLModel(
            params={"weight": np.float64(weight)} if task == "train" else None,
            metrics={"validation_auc": 1.0},
            meta={"NUM_STEPS_CURRENT_ROUND": 9, SITE_REPORT: report(site, task)},
        )

    def round(self, number: int) -> float:
        model = self.controller.train_round({"weight": np.float64(1.0)}, number)
        assert model is not None
        return float(model["weight"])


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


def test_a_site_that_sends_what_is_no_number_is_left_out(start: Start) -> None:
    federation = start(quorum=2, b=float("nan"))
    assert federation.round(0) == passed_through([site for site in order_of(SITES, 7, 0) if site != "b"])
    problems = federation.around.events("problem")
    assert [(problem["site"], problem["state"]) for problem in problems] == [("b", "refused")]


def test_a_pass_through_too_few_sites_does_not_count(start: Start) -> None:
    with pytest.raises(RunError, match="of at least 2 sites contributed"):
        start(quorum=2, a=float("nan"), b=float("nan")).round(0)


def test_only_the_global_model_is_judged(start: Start) -> None:
    federation = start()
    federation.round(0)
    events = federation.around.events("site")
    assert ["auroc" in event["values"] for event in events] == [True] * 3 + [False] * 3
    assert [event["site"] for event in events[3:]] == order_of(SITES, 7, 0)
