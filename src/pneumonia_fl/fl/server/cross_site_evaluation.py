"""Cross-site evaluation on a running job: global models always, sites' own models when the job and the site want it.

The global models' rows cost nothing: every site evaluates what it receives, and the journal has it. For the sites'
own models the tasks are those of NVFlare's `CrossSiteModelEval`, `submit_model` and `validate`, so that a site's
privacy filters for them apply. They are driven from here because the stock workflow (2.9) cannot do what a hospital
needs: a site that will not send its model can only fail, which restarts its trainer; every local model is written to
the server's disk and goes into the job's download; one silent site holds everything up for 100 minutes; and only the
sites' own metrics come back, in a file that is `{}` when nothing worked.
"""

from dataclasses import asdict
from typing import Any

from nvflare.app_common.abstract.fl_model import FLModel, ParamsType

from pneumonia_fl.errors import AnswerError
from pneumonia_fl.fl.protocol.messages import CROSS_SITE, SUBMIT_MODEL_TASK, VALIDATE_TASK
from pneumonia_fl.fl.protocol.site_report import SiteProblem
from pneumonia_fl.fl.protocol.update_checks import own_model_problem
from pneumonia_fl.fl.server.result_validation import ResultValidator
from pneumonia_fl.fl.server.tasks.server_job import ServerJob
from pneumonia_fl.fl.server.tasks.site_tasks import OnResult
from pneumonia_fl.metrics.binary import summarise
from pneumonia_fl.metrics.series import CROSS_SITE_PREFIX, CROSS_SITE_TABLE
from pneumonia_fl.results.cross_site_files import as_markdown, matrix_of
from pneumonia_fl.runs.journal import read_journal

Parameters = dict[str, Any]


class CrossSiteEvaluation:
    """Fills a matrix, models by sites, on the sites' own images; what is missing in it is named.

    Args:
        job: the running job.
        validator: reads the sites' reports.
    """

    def __init__(self, job: ServerJob, validator: ResultValidator) -> None:
        self._job, self._validator = job, validator

    def evaluate_local_models(self, reference: Parameters) -> str:
        """Have all sites evaluate each site's best local model; return why none was evaluated, or "".

        `reference` is a global model, whose parameters every local model must have.
        """
        filled = 0
        for owner in sorted(self._job.participants()):  # one model in memory, and none on disk
            if model := self._model_of(owner, reference):
                filled += self._evaluate_everywhere(owner, model)
        return "" if filled else f"no site's own model was evaluated: {self.reasons()}"

    def ask_all_sites(self, task: str, data: FLModel, on_result: OnResult) -> None:
        """Send a task to all sites and wait for them; a site that stays silent is named."""
        self._ask(self._job.participants(), task, data, on_result)

    def _ask(self, sites: list[str], task: str, data: FLModel, on_result: OnResult) -> None:
        data.current_round = self._job.progress.done
        for site, reason in self._job.tasks.ask(task, data, sites, on_result).items():
            self.note_missing(site, reason)

    def note_missing(self, site: str, reason: str) -> None:
        """Record that a cell of a site is missing, and why."""
        self._job.warning(f"cross-site evaluation: {site}: {reason}")
        self._job.journal.write("cross_site_missing", site=site, reason=reason)

    def reasons(self) -> str:
        """Return the reasons for missing cells by site."""
        missing = matrix_of(read_journal(self._job.journal.path))["missing"]
        return "; ".join(f"{site}: {reason}" for site, reason in missing.items())

    def publish(self) -> None:
        """Send the matrix to the receivers."""
        job = self._job
        found = matrix_of(read_journal(job.journal.path))
        values = {
            f"{CROSS_SITE_PREFIX}{model}/{site}": cell["auroc"]
            for model, row in found["cells"].items()
            for site, cell in row.items()
            if cell["auroc"] is not None
        }
        job.publish(values, job.progress.done)
        job.publish_text(CROSS_SITE_TABLE, as_markdown(found), job.progress.done)

    def _model_of(self, owner: str, reference: Parameters) -> Parameters:
        """Ask a site for its best local model; empty when it sends none, which is recorded with its reason."""
        model: Parameters = {}

        def take(site: str, answer: FLModel) -> None:
            self._job.tracker.acknowledge(site)
            try:
                self._validator.check_no_report(site, answer)
                if problem := own_model_problem(answer.params, reference):
                    raise AnswerError(problem)
                model.update(answer.params)
            except AnswerError as fault:
                self.note_missing(site, str(fault))

        self._ask([owner], SUBMIT_MODEL_TASK, FLModel(metrics={SUBMIT_MODEL_TASK: 1.0}, meta={}), take)
        return model

    def _evaluate_everywhere(self, owner: str, parameters: Parameters) -> int:
        """Have every site evaluate one site's model; return how many did."""
        filled: list[str] = []

        def note(site: str, answer: FLModel) -> None:
            self._job.tracker.acknowledge(site)
            try:
                report = self._validator.read_report(site, answer, "cross_site")
                if isinstance(report, SiteProblem):
                    raise AnswerError(report.problem)
            except AnswerError as fault:
                self.note_missing(site, f"could not evaluate the model of {owner}: {fault}")
                return
            filled.append(site)
            values = asdict(summarise(report.scores))
            self._job.journal.write("cross_site", model=owner, site=site, values=values)

        self._job.journal.write("cross_site_started", model=owner)
        data = FLModel(params=parameters, params_type=ParamsType.FULL, meta={CROSS_SITE: owner})
        self.ask_all_sites(VALIDATE_TASK, data, note)
        return len(filled)
