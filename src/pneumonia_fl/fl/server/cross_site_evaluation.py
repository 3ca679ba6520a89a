"""Cross-site evaluation on a running job: global models always, sites' own models when the job and the site want it.

The global models' rows cost nothing: every site evaluates what it receives, and the journal has it. For the sites'
own models the tasks are those of NVFlare's `CrossSiteModelEval`, `submit_model` and `validate`, so that a site's
privacy filters for them apply. They are driven from here because the stock workflow (2.9) cannot do what a hospital
needs: a site that will not send its model can only fail, which restarts its trainer; every local model is written to
the server's disk and goes into the job's download; one silent site holds everything up for 100 minutes; and only the
sites' own metrics come back, in a file that is `{}` when nothing worked.
"""

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from nvflare.app_common.abstract.fl_model import FLModel, ParamsType

from pneumonia_fl.config.algorithm import CrossSite
from pneumonia_fl.errors import AnswerError
from pneumonia_fl.fl.protocol.messages import CROSS_SITE, SUBMIT_MODEL_TASK, VALIDATE_TASK
from pneumonia_fl.fl.protocol.site_report import SiteProblem
from pneumonia_fl.fl.protocol.update_checks import own_model_problem
from pneumonia_fl.fl.server.batch_norm_exchange import SettlingFedAvg
from pneumonia_fl.metrics.binary import summarise
from pneumonia_fl.metrics.series import CROSS_SITE_PREFIX, CROSS_SITE_TABLE
from pneumonia_fl.results.cross_site_files import as_markdown, matrix_of
from pneumonia_fl.runs.journal import read_journal

Parameters = dict[str, Any]


class CrossSiteFedAvg(SettlingFedAvg):
    """FedAvg that ends with a matrix: models by sites, on validation data."""

    def evaluate_cross_site(self, wanted: CrossSite) -> str:
        """Fill the matrix and publish it; returns why it lacks what the job asked for, "" when it does not."""
        lacking = ""
        if wanted.local_models and not self.abort_signal.triggered:
            models = self._collect_models()
            filled = sum(self._evaluate_everywhere(owner, models[owner]) for owner in sorted(models))
            lacking = "" if filled else f"no site's own model was evaluated: {self.reasons()}"
        self._publish_matrix()
        return lacking

    def _collect_models(self) -> dict[str, Parameters]:
        """Ask every site for its best local model; who sends none is named, and why."""
        models: dict[str, Parameters] = {}

        def take(answer: FLModel) -> None:
            site = self.heard(answer)
            try:
                models[site] = self._submitted(site, answer)
            except AnswerError as fault:
                self.lacks(site, str(fault))

        self.ask_everybody(SUBMIT_MODEL_TASK, FLModel(metrics={SUBMIT_MODEL_TASK: 1.0}), take)
        return models

    def _evaluate_everywhere(self, owner: str, parameters: Parameters) -> int:
        """Have every site evaluate one site's model; returns how many did."""
        filled: list[str] = []

        def note(answer: FLModel) -> None:
            site = self.heard(answer)
            try:
                report = self.read_report(site, answer, "cross_site")
                if isinstance(report, SiteProblem):
                    raise AnswerError(report.problem)
            except AnswerError as fault:
                self.lacks(site, f"could not evaluate the model of {owner}: {fault}")
                return
            filled.append(site)
            values = asdict(summarise(report.scores))
            self.journal.write("cross_site", model=owner, site=site, values=values)

        self.journal.write("cross_site_started", model=owner)
        data = FLModel(params=parameters, params_type=ParamsType.FULL, meta={CROSS_SITE: owner})
        self.ask_everybody(VALIDATE_TASK, data, note)
        return len(filled)

    def ask_everybody(self, task: str, data: FLModel, callback: Callable[[FLModel], None]) -> None:
        """Send a task to all sites and wait for them; a site that stays silent is named."""
        targets = [client.name for client in self.engine.get_clients()]
        for site, reason in self.ask(task, data, callback, targets).items():
            self.lacks(site, reason)

    def _submitted(self, site: str, answer: FLModel) -> Parameters:
        """A site's own model.

        Raises:
            AnswerError: it sent none, or one that must not go to the others.
        """
        self.check_no_report(site, answer)
        problem = own_model_problem(answer.params, self._candidate)
        if problem:
            raise AnswerError(problem)
        return dict(answer.params)

    def lacks(self, site: str, reason: str) -> None:
        """Note that something of a site is not there, and why."""
        self.warning(f"cross-site evaluation: {site}: {reason}")
        self.journal.write("cross_site_missing", site=site, reason=reason)

    def reasons(self) -> str:
        """Why something is not there, site by site."""
        lacking = matrix_of(read_journal(self.journal.path))["missing"]
        return "; ".join(f"{site}: {reason}" for site, reason in lacking.items())

    def _publish_matrix(self) -> None:
        found = matrix_of(read_journal(self.journal.path))
        values = {
            f"{CROSS_SITE_PREFIX}{model}/{site}": cell["auroc"]
            for model, row in found["cells"].items()
            for site, cell in row.items()
            if cell["auroc"] is not None
        }
        self.publish(values, self._done)
        self.publish_text(CROSS_SITE_TABLE, as_markdown(found), self._done)
