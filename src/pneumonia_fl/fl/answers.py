"""Taking in what sites answer: it is checked before it counts, and what does not count is named."""

from dataclasses import asdict
from typing import Any

from nvflare.apis.fl_constant import FLMetaKey
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable
from nvflare.app_common.abstract.fl_model import FLModel

from pneumonia_fl.errors import DataError, RunError
from pneumonia_fl.fl.messages import SITE_REPORT
from pneumonia_fl.fl.resuming import ResumableFedAvg
from pneumonia_fl.fl.rounds import State
from pneumonia_fl.fl.updates import checked_numbers, problem_of
from pneumonia_fl.metrics import ScoreHistogram, summarise


class CheckingFedAvg(ResumableFedAvg):
    """FedAvg in which an answer counts, or is refused with a reason in the book and the journal."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._described: set[str] = set()

    def _get_aggregated_result(self) -> FLModel:
        self.close_round()
        if not self.book.complete:
            raise RunError(self.book.shortfall())
        return super()._get_aggregated_result()

    def close_round(self) -> None:
        """Wait for nobody any more."""
        for site in [] if self.book.hopeless() else self.book.waiting():
            self.reject(site, "late", "no answer in time")

    def _aggregate_one_result(self, result: FLModel) -> bool:
        if not self.note_report(result):
            return False
        return bool(super()._aggregate_one_result(result))

    def _accept_train_result(
        self, client_name: str, result: Shareable, fl_ctx: FLContext, is_unknown_task: bool = False
    ) -> bool:
        accepted = bool(super()._accept_train_result(client_name, result, fl_ctx, is_unknown_task))
        if is_unknown_task:
            self.reject(client_name, "late", "answered after the round had closed")
        elif not accepted:
            self.reject(client_name, "failed", str(result.get_return_code()))
        return accepted

    def reject(self, site: str, state: State, problem: str) -> None:
        """Note that a site's answer does not count; named in log, journal and summary."""
        self.book.reject(site, state, problem)
        self.warning(f"round {self._candidate_round + 1}: {site} {state}: {problem}")
        self.journal.write("problem", round=self._candidate_round, site=site, state=state, problem=problem)

    def note_report(self, result: FLModel) -> bool:
        """Take in one site's answer if it can count; otherwise say why it cannot."""
        site, report = result.meta["client_name"], result.meta.get(SITE_REPORT, {})
        if report.get("problem"):
            self.reject(site, "failed", str(report["problem"]))
            return False
        problem = self._problem_of(result)
        try:
            histogram = ScoreHistogram.from_dict(report["histogram"])
            metrics, training = summarise(histogram), report["training"]
            values = {**(asdict(metrics) if self._judging else {}), **training}
            if "personal" in report:
                values["personal"] = checked_numbers(report["personal"])
        except (DataError, KeyError, TypeError, ValueError) as error:
            problem = problem or f"its report is broken ({type(error).__name__})"
        if problem:
            self.reject(site, "refused", problem)
            return False
        self.take_report(site, histogram, training)
        if self.book.task == self.task_name:
            self._algorithm.accept(site, result)
        self.book.accept(site, metrics.auroc, int(training.get("steps", 0)))
        if site not in self._described and "data" in report:
            self._described.add(site)
            self.journal.write("data", site=site, values=report["data"])
        values["bytes"] = self._algorithm.byte_count(result)
        self.journal.write("site", round=self._candidate_round, site=site, values=values)
        return True

    def _problem_of(self, result: FLModel) -> str:
        if self.book.task != self.task_name:
            return ""
        samples = result.meta.get(FLMetaKey.NUM_STEPS_CURRENT_ROUND)
        problem = problem_of(result.params or {}, samples, self._candidate)
        return problem or self._algorithm.problem_of(result.meta["client_name"], result)
