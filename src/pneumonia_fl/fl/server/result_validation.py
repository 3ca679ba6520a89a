"""Checking what sites send: all of a result is checked before any of it counts, and what does not count is named."""

from typing import Any

from nvflare.apis.fl_constant import FLMetaKey
from nvflare.app_common.abstract.fl_model import FLModel, ParamsType

from pneumonia_fl.errors import AnswerError
from pneumonia_fl.fl.algorithms.server_base import Parameters, ServerAlgorithm
from pneumonia_fl.fl.protocol.messages import SITE_REPORT, properties
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
from pneumonia_fl.fl.server.global_models import GlobalModels
from pneumonia_fl.fl.server.tasks.server_job import ServerJob


class ResultValidator:
    """Decides whether a site's result counts, and keeps what the sites' first results say of their data.

    Args:
        job: the running job.
        algorithm: checks what it has added to the results.
        models: unpacks results.
    """

    def __init__(
        self, job: ServerJob, algorithm: ServerAlgorithm, models: GlobalModels | None = None
    ) -> None:
        self._job, self._algorithm, self._models = job, algorithm, models or GlobalModels()
        self._config: dict[str, Any] = properties(job.meta).get("config", {})
        self._limits: dict[str, Limits] = {}
        self.facts: dict[str, Facts] = {}

    def accept_result(self, site: str, result: FLModel, task: Task, sent: Parameters) -> SiteReport | None:
        """Return the report of a result that counts; one that does not is rejected with its reason.

        Args:
            site: who answers.
            result: what it sent; its arrays get the dtypes of `sent` when they count.
            task: what was asked.
            sent: the model that the site was sent.
        """
        try:
            report = self.read_report(site, result, task)
            if isinstance(report, SiteReport):
                self._check_update(site, result, report, sent)
                return report
            self._job.problems.reject(site, "failed", report.problem)
        except AnswerError as fault:
            self._job.problems.reject(site, "refused", str(fault))
        return None

    def read_report(self, site: str, result: FLModel, task: Task) -> SiteReport | SiteProblem:
        """Read what a site says.

        Raises:
            AnswerError: it must not count.
        """
        expected = Expected(site, task, self.facts.get(site), self._local_epochs(site))
        return parse_report(result.meta.get(SITE_REPORT), expected)

    def check_no_report(self, site: str, result: FLModel) -> None:
        """Raise what a site says in place of the arrays that it was asked for, as an `AnswerError`."""
        if SITE_REPORT in result.meta:
            report = self.read_report(site, result, "cross_site")
            raise AnswerError(report.problem if isinstance(report, SiteProblem) else "sent no model")

    def remember(self, site: str, report: SiteReport) -> None:
        """Record once what a site reports of its data set and of its own limits."""
        journal = self._job.journal
        if report.data and site not in self.facts:
            self.facts[site] = report.data
            journal.write("data", site=site, values=report.data.model_dump())
        limits = report.limits
        if limits and self._limits.get(site) != limits:
            self._limits[site] = limits
            values = limits.model_dump(exclude_none=True)
            words = ", ".join(f"{key} {most}" for key, most in values.items())
            self._job.info(f"{site} has own limits: {words}")
            journal.write("limited", round=self._job.tracker.number, site=site, values=values)

    def _check_update(self, site: str, result: FLModel, report: SiteReport, sent: Parameters) -> None:
        """Refuse a training result whose arrays or numbers cannot count."""
        if report.training is None:
            return
        if result.params_type != ParamsType.FULL:
            raise AnswerError("it sent no full model")
        result.params = self._models.unpack(result, sent)
        samples = result.meta.get(FLMetaKey.NUM_STEPS_CURRENT_ROUND)
        if problem := problem_of(result.params, samples, sent):
            raise AnswerError(problem)
        result.params = in_kind(result.params, sent)
        algorithm = self._algorithm
        if problem := algorithm.problem_of(site, result):
            raise AnswerError(problem)
        if problem := algorithm.contradiction(site, result, report, report.training):
            raise AnswerError(problem)

    def _local_epochs(self, site: str) -> int:
        """Return the job's local epochs of a site, or the allowed maximum when the job names none."""
        own = self._config.get("sites", {}).get(site, {}).get("train", {})
        usual = self._config.get("train", {}).get("local_epochs", MAX_PASSES)
        return int(own.get("local_epochs") or usual)
