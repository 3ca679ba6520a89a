"""The controller of a job that trains nothing: every site evaluates saved models, and the server pools what they tell.

The models come with the job, as files at the server that its configuration names by hash; a site scores only those.
"""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from nvflare.apis.client import Client
from nvflare.apis.fl_constant import FLContextKey
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable
from nvflare.app_common.abstract.fl_model import FLModel, ParamsType
from nvflare.app_common.workflows.model_controller import ModelController

from pneumonia_fl.config.algorithm import Evaluating, SavedModel
from pneumonia_fl.config.strict import parse
from pneumonia_fl.errors import AnswerError, DataError
from pneumonia_fl.evaluation.patient_pooling import Sampled, assess_pooled
from pneumonia_fl.fl.algorithms.server_base import ServerAlgorithm
from pneumonia_fl.fl.entrypoints import entrypoint
from pneumonia_fl.fl.protocol.carried_models import carried
from pneumonia_fl.fl.protocol.messages import CROSS_SITE, OPTED_OUT, REPLICATES, VALIDATE_TASK
from pneumonia_fl.fl.protocol.site_report import SiteProblem, SiteReport
from pneumonia_fl.fl.server.cross_site_evaluation import CrossSiteEvaluation
from pneumonia_fl.fl.server.result_validation import ResultValidator
from pneumonia_fl.fl.server.tasks.server_job import ServerJob
from pneumonia_fl.fl.server.tasks.site_tasks import TaskLimits
from pneumonia_fl.metrics.binary import summarise
from pneumonia_fl.metrics.platt import Scaling

BY_SITE = ("n", "positives", "patients", "floor_accuracy", "metrics", "intervals", "confusion")
"""What is kept of each site: no curve."""
ONE = 1
"""Stands for the steps of a result that counts, which the tracker wants; nothing is trained."""


@entrypoint("EvaluationController")
class SavedModelJudge(ModelController):
    """Has every site evaluate each model, and waits for all of them until the time is over.

    Args:
        sites: sites that are expected; one that neither evaluates nor has opted out makes the job incomplete.
        round_timeout: seconds that the evaluation of one model may take.
        persistor_id: NVFlare's id of the component that knows the network.
        evaluation: the job's `evaluation` section.
        task_check_period: seconds between two looks at the open tasks.
    """

    def __init__(
        self,
        sites: tuple[str, ...] = (),
        round_timeout: int = 3600,
        persistor_id: str = "persistor",
        evaluation: dict[str, Any] | None = None,
        task_check_period: float = 0.5,
    ) -> None:
        super().__init__(persistor_id=persistor_id, task_check_period=task_check_period)
        self.sites, self.round_timeout, self.evaluation = tuple(sites), round_timeout, evaluation
        self._wanted = parse(Evaluating, evaluation or {}, "evaluation")
        self._job: ServerJob | None = None

    def run(self) -> None:
        """Evaluate one model after the other."""
        seconds = self.round_timeout
        limits = TaskLimits(1, seconds, seconds, seconds, self._task_check_period)
        self._job = job = ServerJob(self, self.sites, limits)
        with job.running():
            algorithm = ServerAlgorithm()
            job.close_door(self.persistor.model, algorithm.answer_copies + 1)
            evaluation = SavedModelEvaluation(job, ResultValidator(job, algorithm), self._wanted)
            job.journal.write("started", rounds=0, sites=sorted(job.tracker.sites))
            app = Path(self.fl_ctx.get_prop(FLContextKey.APP_ROOT))
            hashes = {name: model.sha256 for name, model in self._wanted.models.items()}
            job.lacking = evaluation.evaluate(
                lambda name: dict(carried(app, name, hashes, self.persistor.model))
            )

    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        """Forward NVFlare's events to the running job."""
        if self._job is not None:
            self._job.handle_event(event_type, fl_ctx)

    def process_result_of_unknown_task(
        self, client: Client, task_name: str, client_task_id: str, result: Shareable, fl_ctx: FLContext
    ) -> None:
        """Name a result that came after its task was over."""
        if self._job is not None:
            self._job.tasks.receive_unknown(client.name, task_name)


class SavedModelEvaluation:
    """Asks all sites to evaluate saved models, and pools what they send.

    Args:
        job: the running job.
        validator: reads the sites' reports.
        wanted: the job's `evaluation` section.
    """

    def __init__(self, job: ServerJob, validator: ResultValidator, wanted: Evaluating) -> None:
        self._job, self._validator, self._wanted = job, validator, wanted
        self._cross_site = CrossSiteEvaluation(job, validator)

    def evaluate(self, parameters_of: Callable[[str], dict[str, Any]]) -> str:
        """Have the sites evaluate all models; return why none was evaluated, or "".

        `parameters_of` gives a model's parameters by its name.
        """
        job, wanted = self._job, self._wanted
        job.journal.write(
            "evaluation_started",
            split=wanted.split,
            models=list(wanted.models),
            sites=sorted(job.tracker.sites),
        )
        evaluated = 0
        for name, model in wanted.models.items():
            if not job.aborted:
                evaluated += self._evaluate(name, model, parameters_of(name))
        for site in sorted(job.tracker.sites.keys() - set(job.participants())):
            self._cross_site.note_missing(site, "is not in this job")
        return "" if evaluated else f"no site evaluated a model: {self._cross_site.reasons()}"

    def _evaluate(self, name: str, model: SavedModel, parameters: dict[str, Any]) -> int:
        """Have all sites evaluate a model; return how many did."""
        job = self._job
        found: dict[str, SiteReport] = {}
        sampled: dict[str, Sampled] = {}

        def note(site: str, answer: FLModel) -> None:
            try:
                report = self._validator.read_report(site, answer, "evaluate")
                if isinstance(report, SiteProblem):
                    return self._excuse(site, report.problem)
                if self._wanted.intervals:
                    sampled[site] = _sampled(report, answer)
            except (AnswerError, DataError) as fault:
                return job.problems.reject(site, "refused", str(fault))
            found[site] = report
            values = summarise(report.scores)
            job.tracker.accept(site, values.auroc, ONE)
            job.journal.write("cross_site", model=name, site=site, values=asdict(values))

        job.journal.write("cross_site_started", model=name)
        data = FLModel(params=parameters, params_type=ParamsType.FULL, meta={CROSS_SITE: name})
        self._cross_site.ask_all_sites(VALIDATE_TASK, data, note)
        if sampled:
            self._record(name, model, found, sampled)
        return len(found)

    def _excuse(self, site: str, problem: str) -> None:
        """Accept that a site has opted out; any other problem makes the job incomplete."""
        if problem != OPTED_OUT:
            return self._job.problems.reject(site, "failed", problem)
        self._job.tracker.excuse(site, problem)
        self._cross_site.note_missing(site, problem)

    def _record(
        self, name: str, model: SavedModel, found: dict[str, SiteReport], sampled: dict[str, Sampled]
    ) -> None:
        """Write down what the scores of all sites say together, and of each alone."""
        scaling = Scaling(model.temperature, model.offset)
        alone = {site: assess_pooled({site: own}, model.threshold, scaling) for site, own in sampled.items()}
        self._job.journal.write(
            "evaluated",
            model=name,
            split=self._wanted.split,
            together=assess_pooled(sampled, model.threshold, scaling),
            sites={
                site: {key: alone[site][key] for key in BY_SITE} | {"readings": found[site].readings}
                for site in sorted(alone)
            },
        )


def _sampled(report: SiteReport, answer: FLModel) -> Sampled:
    """Return a site's samples.

    Raises:
        AnswerError: there are none.
        DataError: they cannot be of its histogram.
    """
    arrays, sample = answer.params, report.sample
    replicates = arrays.get(REPLICATES) if isinstance(arrays, dict) and len(arrays) == 1 else None
    if sample is None or not isinstance(replicates, np.ndarray):
        raise AnswerError("it sent no samples of its patients")
    normal, pneumonia, everyone = sample.patients
    first, second = (tuple(row) for row in sample.starts)
    sampled = Sampled(report.scores, (normal, pneumonia, everyone), (first, second), replicates)
    sampled.check()
    return sampled
