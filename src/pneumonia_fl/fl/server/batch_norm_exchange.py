"""Batch norm's statistics of a new average, measured by the sites before anybody judges or keeps it.

The mean of the sites' running statistics is not what the averaged weights give: in the first rounds, when sites learn
fast and apart, such a model calls every image pneumonia, however well it ranks them.
"""

from typing import Any

from nvflare.app_common.abstract.fl_model import FLModel, ParamsType

from pneumonia_fl.errors import AnswerError
from pneumonia_fl.fl.algorithms.weighted_average import weighted_average
from pneumonia_fl.fl.protocol.messages import SETTLING, SETTLING_PHASE, VALIDATE_TASK
from pneumonia_fl.fl.protocol.update_checks import arrays_problem, in_kind
from pneumonia_fl.fl.server.result_validation import CheckingFedAvg
from pneumonia_fl.training.batch_norm import running_statistics

SETTLING_ROUNDS = 3
"""Rounds that end with the exchange. Later the learning rate has fallen and the sites' models are close: the averaged
statistics do as well, and one more message per round would buy nothing (docs/decisions.md)."""

Parameters = dict[str, Any]


class SettlingFedAvg(CheckingFedAvg):
    """FedAvg whose first averages get the batch norm statistics that belong to them."""

    def settle(self, model: FLModel) -> None:
        """Have the sites of this round measure batch norm's statistics with `model`, and put their mean into it.

        A site whose answer is missing or wrong is named and left out; without any, `model` stays as it is.
        """
        names = running_statistics(self.persistor.model)
        if not names or model.current_round >= SETTLING_ROUNDS or self.abort_signal.triggered:
            return
        self.journal.write("settling", round=model.current_round)
        found = self._measured(model.params, {name: model.params[name] for name in names})
        if self.abort_signal.triggered or not found:
            return
        weighted = {site: (self.weight_of(site, self._facts[site]), found[site]) for site in found}
        model.params = {**model.params, **weighted_average(weighted)}
        self.journal.write("settled", round=model.current_round, sites=sorted(found))

    def _measured(self, parameters: Parameters, reference: Parameters) -> dict[str, Parameters]:
        """The statistics of each site that sent good ones."""
        found: dict[str, Parameters] = {}

        def take(answer: FLModel) -> None:
            site = self.heard(answer)
            try:
                found[site] = self._checked(site, answer, reference)
            except AnswerError as fault:
                self._left_out(site, str(fault))

        data = FLModel(params=parameters, params_type=ParamsType.FULL, meta={SETTLING: True})
        # Who did not train in this round is busy, or gone: nobody waits for it a second time.
        absent = self.ask(VALIDATE_TASK, data, take, self.book.accepted, SETTLING_PHASE)
        for site, reason in {} if self.abort_signal.triggered else absent.items():
            self.note_fault(site, "late", reason)
        return found.copy()

    def _checked(self, site: str, answer: FLModel, reference: Parameters) -> Parameters:
        self.check_no_report(site, answer)
        if problem := arrays_problem(answer.params, reference):
            raise AnswerError(problem)
        for name, array in answer.params.items():
            if name.endswith("running_var") and array.min() < 0:
                raise AnswerError(f"{name} is negative")
        return in_kind(answer.params, reference)

    def _left_out(self, site: str, reason: str) -> None:
        self.note_fault(site, "refused", f"batch norm's statistics of the new average: {reason}")
