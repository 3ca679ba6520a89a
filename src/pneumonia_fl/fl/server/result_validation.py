"""Taking in what sites answer: all of it is checked before any of it counts, and what does not count is named."""

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from nvflare.apis.client import Client
from nvflare.apis.controller_spec import ClientTask
from nvflare.apis.fl_constant import FLContextKey, FLMetaKey, ReservedKey, ReturnCode
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable, make_reply
from nvflare.apis.utils.fl_context_utils import gen_new_peer_ctx
from nvflare.app_common.abstract.fl_model import FLModel, ParamsType

from pneumonia_fl.errors import AnswerError, RunError
from pneumonia_fl.fl.protocol.messages import FIRST_JOB, SITE_REPORT, properties
from pneumonia_fl.fl.protocol.site_report import (
    MAX_PASSES,
    Expected,
    Facts,
    Limits,
    SiteProblem,
    SiteReport,
    Task,
    parse_report,
)
from pneumonia_fl.fl.protocol.update_checks import in_kind, problem_of
from pneumonia_fl.fl.server.resume import ResumableFedAvg
from pneumonia_fl.fl.server.round_tracker import State
from pneumonia_fl.inputs.text import printable
from pneumonia_fl.metrics.binary import summarise

UNREADABLE = "its answer cannot be read"
NO_ANSWER, NOT_CONNECTED = "no answer in time", "no sign of it yet: not connected, or it did not take the job"


class CheckingFedAvg(ResumableFedAvg):
    """FedAvg in which an answer counts, or is refused with a reason in the book and the journal."""

    round_timeout: int

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._faults: dict[str, tuple[int, State, str]] = {}
        self._limits: dict[str, Limits] = {}
        self._factors: dict[str, float] = {}
        self._passes: Callable[[str], int] = lambda site: MAX_PASSES
        self._unread: dict[str, str] = {}

    def _get_aggregated_result(self) -> FLModel:
        self.close_round()
        if not self.book.complete:
            raise RunError(self.book.shortfall())
        return super()._get_aggregated_result()

    def close_round(self) -> None:
        """Wait for nobody any more."""
        for site in [] if self.book.hopeless() else self.book.waiting():
            self.reject(site, "late", NO_ANSWER if self.book.heard(site) else NOT_CONNECTED)

    def _aggregate_one_result(self, result: FLModel) -> bool:
        if not self.note_report(result):
            return False
        return bool(super()._aggregate_one_result(result))

    def _accept_train_result(
        self, client_name: str, result: Shareable, fl_ctx: FLContext, is_unknown_task: bool = False
    ) -> bool:
        accepted = bool(super()._accept_train_result(client_name, result, fl_ctx, is_unknown_task))
        if reason := self._unread.pop(client_name, ""):
            self.reject(client_name, "refused", reason)
        elif is_unknown_task:  # of a round that has closed: it says nothing about the one that is open
            self.note_fault(client_name, "late", "answered after the round had closed")
        elif not accepted:
            self.reject(client_name, "failed", printable(result.get_return_code()))
        return accepted

    def problem_of(self, site: str) -> str:
        """Why a site's last answer that did not count did not; "" when there is none."""
        return self._faults[site][2] if site in self._faults else ""

    def reject(self, site: str, state: State, problem: str) -> None:
        """Note that a site's answer does not count; named in log, journal and summary."""
        self.book.reject(site, state, problem)
        self.note_fault(site, state, problem)

    def note_fault(self, site: str, state: State, problem: str) -> None:
        """Write a fault into log and journal, once."""
        fault = (self._candidate_round, state, problem)
        if self._faults.get(site) == fault:  # a site that tries again and again fills no journal
            return
        self._faults[site] = fault
        self.warning(f"round {self._candidate_round + 1}: {site} {state}: {problem}")
        self.journal.write("problem", round=self._candidate_round, site=site, state=state, problem=problem)

    def _process_result(self, client_task: ClientTask, fl_ctx: FLContext) -> None:
        """Take in one answer, whatever is in it: none may end the task, and what nobody could read is refused."""
        site, opened = client_task.client.name, self.book.opened
        try:
            super()._process_result(client_task, fl_ctx)
        except Exception as error:
            self.error(f"answer of {site}: {printable(error)}")
        if opened == self.book.opened and site in self.book.waiting():
            self.reject(site, "refused", UNREADABLE)

    def refuse_unread(self, client: Client, reason: str) -> None:
        """End a site's task, whose answer the door has refused, as if the site had failed."""
        for task in list(self.communicator._client_task_map.values()):
            if task.client.name == client.name and not task.result_received_time:
                self._unread[client.name] = reason
                self._submit_failure(task)
                self._unread.pop(client.name, None)  # the task may be over by now

    def _submit_failure(self, task: ClientTask) -> None:
        """Answer a task in the place of its site."""
        with self.engine.new_context() as fl_ctx:
            peer = gen_new_peer_ctx(fl_ctx)
            peer.set_prop(ReservedKey.IDENTITY_NAME, task.client.name, private=False, sticky=False)
            fl_ctx.set_peer_context(peer)
            runner = fl_ctx.get_prop(FLContextKey.RUNNER)
            failed = make_reply(ReturnCode.BAD_TASK_DATA)
            runner.process_submission(task.client, task.task.name, task.id, failed, fl_ctx)

    def ask(
        self,
        task: str,
        data: FLModel,
        callback: Callable[[FLModel], None],
        targets: list[str],
        phase: str = "",
    ) -> dict[str, str]:
        """Send a task between or after the rounds and wait for it; silence ends nothing.

        Returns the sites that gave no answer, and why.
        """
        data.current_round, data.total_rounds = self._done, self._final_round
        data.meta[FIRST_JOB] = self.first_job
        self.book.open(self._done, phase or task)
        self.broadcast_model(
            task_name=task,
            data=data,
            targets=targets,
            timeout=self.round_timeout,
            blocking=False,
            callback=callback,
        )
        try:
            self.wait()
        except RunError as error:  # the rounds that are done stay so
            self.warning(str(error))
            self.cancel_all_tasks()
        absent = sorted(set(targets) - set(self.book.accepted))
        return {site: self.book.sites[site].problem or NO_ANSWER for site in absent}

    def heard(self, answer: FLModel) -> str:
        """Who answered what `ask` has sent. The book counts answers there, whatever is in them."""
        site = str(answer.meta["client_name"])
        self.book.accept(site, self.book.sites[site].auroc, 0)
        return site

    def check_no_report(self, site: str, answer: FLModel) -> None:
        """Raise what a site says in place of the arrays that it was asked for, as an `AnswerError`."""
        if SITE_REPORT in answer.meta:
            report = self.read_report(site, answer, "cross_site")
            raise AnswerError(report.problem if isinstance(report, SiteProblem) else "sent no model")

    def note_report(self, result: FLModel) -> bool:
        """Take in one site's answer if it can count; otherwise say why it cannot."""
        site = result.meta["client_name"]
        try:
            task: Task = "train" if self.book.task == self.task_name else "validate"
            report = self.read_report(site, result, task)
            if isinstance(report, SiteProblem):
                self.reject(site, "failed", report.problem)
                return False
            self._check_update(site, result, report)
        except AnswerError as fault:
            self.reject(site, "refused", str(fault))
            return False
        self._take(site, result, report)
        return True

    def read_report(self, site: str, result: FLModel, task: Task) -> SiteReport | SiteProblem:
        """Read what a site says.

        Raises:
            AnswerError: it must not count.
        """
        expected = Expected(site, task, self._facts.get(site), self._passes(site))
        return parse_report(result.meta.get(SITE_REPORT), expected)

    def _take(self, site: str, result: FLModel, report: SiteReport) -> None:
        """Write down an answer that counts: the only place where anything of an answer is kept."""
        histogram, training = report.scores, report.training
        metrics = summarise(histogram)
        values = {**(asdict(metrics) if self._judging else {}), **report.values()}
        values["bytes"] = self._algorithm.byte_count(result) if training else 0
        self.take_report(site, histogram, training)
        if training and report.data:
            # A site counts by its images (McMahan et al. 2017), however often it passed them in this round.
            result.meta[FLMetaKey.NUM_STEPS_CURRENT_ROUND] = self.weight_of(site, report.data)
            self._algorithm.accept(site, result)
        self.book.accept(site, metrics.auroc, training.steps if training else 0)
        if report.data and site not in self._facts:
            self._facts[site] = report.data
            self.journal.write("data", site=site, values=report.data.model_dump())
        self._note_limits(site, report.limits)
        self.journal.write("site", round=self._candidate_round, site=site, values=values)

    def weight_of(self, site: str, data: Facts) -> float:
        """How much a site counts in an average: its training images, times the job's factor for it."""
        return data.images(site, "train") * self._factors.get(site, 1.0)

    def _note_limits(self, site: str, limits: Limits | None) -> None:
        """Say once that a site trains with less than the job wants."""
        if limits and self._limits.get(site) != limits:
            self._limits[site] = limits
            values = limits.model_dump(exclude_none=True)
            self.info(f"{site} has own limits: {', '.join(f'{key} {most}' for key, most in values.items())}")
            self.journal.write("limited", round=self._candidate_round, site=site, values=values)

    def _check_update(self, site: str, result: FLModel, report: SiteReport) -> None:
        """Refuse a training answer whose arrays or numbers cannot count."""
        if report.training is None:
            return
        if result.params_type != ParamsType.FULL:
            raise AnswerError("it sent no full model")
        samples = result.meta.get(FLMetaKey.NUM_STEPS_CURRENT_ROUND)
        if problem := problem_of(result.params, samples, self._candidate):
            raise AnswerError(problem)
        result.params = in_kind(result.params, self._candidate)
        problem = self._algorithm.problem_of(site, result) or self._algorithm.contradiction(
            site, result, report, report.training
        )
        if problem:
            raise AnswerError(problem)

    def _local_epochs(self) -> Callable[[str], int]:
        """Those of each site, from what the job says of itself; the most that any may have when it says nothing."""
        config = properties(self.fl_ctx.get_prop(ReservedKey.JOB_META) or {}).get("config", {})
        usual = config.get("train", {}).get("local_epochs", MAX_PASSES)
        own = {site: values.get("train", {}) for site, values in config.get("sites", {}).items()}
        return lambda site: int(own.get(site, {}).get("local_epochs") or usual)
