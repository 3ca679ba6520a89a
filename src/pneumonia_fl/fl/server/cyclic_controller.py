"""Cyclic weight transfer (Chang et al. 2018, doi:10.1093/jamia/ocy017): the model travels from site to site.

NVFlare's CyclicController hands weights on as well, but has no quorum, no check of what a site sends, no judge and no
resume. Here a round has two parts: all sites judge the global model, then it makes one pass through them, in an order
that is drawn for each round from the job's seed. A site that fails is left out of the pass.
"""

import random
from functools import partial

from pneumonia_fl.fl.algorithms.server_base import Parameters
from pneumonia_fl.fl.entrypoints import entrypoint
from pneumonia_fl.fl.protocol.messages import PASSED_ON, VALIDATE_TASK
from pneumonia_fl.fl.server.controller import TRAIN_TASK, PooledFedAvg
from pneumonia_fl.fl.server.tasks.site_tasks import NO_ANSWER

JUDGING = "judge"
"""Name of a round's first part, in which the task is to validate."""


def order_of(sites: list[str], seed: int, number: int) -> list[str]:
    """Return the order in which the model visits the sites in round `number`."""
    order = sorted(sites)
    random.Random(f"{seed}/{number}").shuffle(order)
    return order


@entrypoint("CyclicController")
class CyclicWeights(PooledFedAvg):
    """The model goes through the sites one after the other; what the last one sends is the next global model."""

    def train_round(self, model: Parameters, number: int) -> Parameters | None:
        """Have all sites evaluate the model, then pass it from site to site; None when the job is aborted."""
        tasks, tracker = self.job.tasks, self.job.tracker
        judge = partial(self.accept, task="validate")
        self.send_candidate(VALIDATE_TASK, model, number, judge, phase=JUDGING)
        if not tasks.wait():
            return None
        tasks.close_round()
        tracker.open(number, TRAIN_TASK, in_turns=True)
        for site in order_of(self.job.participants(), self.seed, number):
            message, _ = self.messages(model, number)
            message.meta[PASSED_ON] = True
            self.averaging.reset_stats()
            tasks.send(TRAIN_TASK, message, [site], partial(self.accept, task="train", judged=False))
            if not tasks.wait():
                return None
            if tracker.cannot_reach_quorum():
                break
            if site in tracker.accepted:
                model = self.averaging.aggregate_model().params  # of this one result: nothing is averaged
            elif site in tracker.waiting():
                self.job.problems.reject(site, "late", NO_ANSWER)
        tasks.close_round(quorum=True)
        return model
