"""Batch norm's statistics of a new average, measured by the sites before anybody judges or keeps it.

The mean of the sites' running statistics is not what the averaged weights give: in the first rounds, when sites learn
fast and apart, such a model calls every image pneumonia, however well it ranks them.
"""

from collections.abc import Callable, Collection
from typing import Any

from nvflare.app_common.abstract.fl_model import FLModel

from pneumonia_fl.errors import AnswerError
from pneumonia_fl.fl.algorithms.exact_sum import ExactSum
from pneumonia_fl.fl.protocol.messages import SETTLING, SETTLING_PHASE, VALIDATE_TASK
from pneumonia_fl.fl.protocol.update_checks import arrays_problem, in_kind
from pneumonia_fl.fl.server.global_models import GlobalModels
from pneumonia_fl.fl.server.result_validation import ResultValidator
from pneumonia_fl.fl.server.tasks.server_job import ServerJob

SETTLING_ROUNDS = 3
"""Rounds that end with the exchange. Later the learning rate has fallen and the sites' models are close: the averaged
statistics do as well, and one more message per round would buy nothing (docs/decisions.md)."""

Parameters = dict[str, Any]


class BatchNormExchange:
    """Replaces batch norm's averaged statistics by those that the sites measure with the averaged model.

    Args:
        job: the running job.
        validator: reads what a site says in place of statistics.
        weight_of: how much a site counts in an average.
        names: parameters that hold the statistics; empty: the model has none, and there is no exchange.
        models: packs the averaged model; the statistics of a site travel as they are.
    """

    def __init__(
        self,
        job: ServerJob,
        validator: ResultValidator,
        weight_of: Callable[[str], float],
        names: Collection[str],
        models: GlobalModels,
    ) -> None:
        self._job, self._validator, self._weight_of, self._names = job, validator, weight_of, names
        self._models = models

    def settle(self, model: Parameters, number: int) -> Parameters:
        """Have the sites of round `number` measure the statistics of `model`; return it with their mean.

        A site whose answer is missing or wrong is named and left out; without any, `model` stays as it is.
        """
        job = self._job
        if not self._names or number >= SETTLING_ROUNDS or job.aborted:
            return model
        job.journal.write("settling", round=number)
        model = self._models.as_received(model)
        total, sites = self._measured(model, number)
        if job.aborted or not sites:
            return model
        job.journal.write("settled", round=number, sites=sorted(sites))
        return {**model, **total.mean()}

    def _measured(self, model: Parameters, number: int) -> tuple[ExactSum, list[str]]:
        """Return the weighted sum of the statistics, and the sites that sent valid ones."""
        job, reference = self._job, {name: model[name] for name in self._names}
        total, sites = ExactSum(), list[str]()

        def take(site: str, answer: FLModel) -> None:
            job.tracker.acknowledge(site)
            try:
                total.add(self._checked(site, answer, reference), self._weight_of(site))
                sites.append(site)
            except AnswerError as fault:
                problem = f"batch norm's statistics of the new average: {fault}"
                job.problems.note(site, "refused", problem)

        data, complete = self._models.messages(model, number, {SETTLING: True})
        # Who did not train in this round is busy, or gone: it is not waited for again.
        absent = job.tasks.ask(VALIDATE_TASK, data, job.tracker.accepted, take, SETTLING_PHASE, complete)
        for site, reason in {} if job.aborted else absent.items():
            job.problems.note(site, "late", reason)
        return total, sites

    def _checked(self, site: str, answer: FLModel, reference: Parameters) -> Parameters:
        self._validator.check_no_report(site, answer)
        if problem := arrays_problem(answer.params, reference):
            raise AnswerError(problem)
        for name, array in answer.params.items():
            if name.endswith("running_var") and array.min() < 0:
                raise AnswerError(f"{name} is negative")
        return in_kind(answer.params, reference)
