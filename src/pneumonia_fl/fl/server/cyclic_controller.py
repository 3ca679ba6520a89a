"""Cyclic weight transfer (Chang et al. 2018, doi:10.1093/jamia/ocy017): the model travels from site to site.

NVFlare's CyclicController hands weights on as well, but has no quorum, no check of what a site sends, no judge and no
resume. Here a round has two parts: all sites judge the global model, then it makes one pass through them, in an order
that is drawn anew for each round from the job's seed. A site that fails is left out of the pass.
"""

import random
from typing import Any

from nvflare.app_common.abstract.fl_model import FLModel, ParamsType

from pneumonia_fl.fl.entrypoints import entrypoint
from pneumonia_fl.fl.protocol.messages import PASSED_ON, VALIDATE_TASK
from pneumonia_fl.fl.server.controller import PooledFedAvg
from pneumonia_fl.fl.server.result_validation import NO_ANSWER

JUDGING = "judge"
"""Name of a round's first part, in which the task is to validate."""


def order_of(sites: list[str], seed: int, number: int) -> list[str]:
    """The sites in the order in which the model visits them in round `number`."""
    order = sorted(sites)
    random.Random(f"{seed}/{number}").shuffle(order)
    return order


@entrypoint("CyclicController")
class CyclicWeights(PooledFedAvg):
    """The model goes through the sites one after the other; what the last one sends is the next global model."""

    def send_model(
        self, task_name: str = "train", data: FLModel | None = None, *args: Any, **options: Any
    ) -> None:
        """Have all sites judge the model, then pass it on; returns when the round is over."""
        if task_name == VALIDATE_TASK:
            super().send_model(task_name, data, *args, **options)
            return
        assert data is not None
        sites = options["targets"]
        super().send_model(VALIDATE_TASK, data, phase=JUDGING, targets=sites, callback=self.note_report)
        if self.wait():
            self.close_round()
            self._pass_on(data, order_of(sites, self.seed, data.current_round))

    def settle(self, model: FLModel) -> None:
        """Leave batch norm's statistics as they came from the last site: nothing is averaged."""

    def _pass_on(self, data: FLModel, order: list[str]) -> None:
        self._judging, self._passed = False, data.params
        self.book.open(data.current_round, self.task_name, in_turns=True)
        for site in order:
            model = FLModel(
                params_type=ParamsType.FULL,
                params=self._passed,
                current_round=data.current_round,
                total_rounds=data.total_rounds,
                meta={**self.outgoing(data.current_round), PASSED_ON: True},
            )
            self.broadcast_model(
                task_name=self.task_name,
                data=model,
                targets=[site],
                timeout=self.round_timeout,
                blocking=False,
                callback=self._aggregate_one_result,
            )
            if not self.wait() or self.book.hopeless():
                return
            if site in self.book.waiting():
                self.reject(site, "late", NO_ANSWER)

    def _aggregate_one_result(self, result: FLModel) -> bool:
        """An answer that counts takes the place of the one before it: nothing is averaged."""
        if not self.note_report(result):
            return False
        self.aggregator.reset_stats()
        self.aggregator.accept_model(result)
        self._passed = result.params
        return True
