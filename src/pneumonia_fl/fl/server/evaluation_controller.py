"""The controller of a job that trains nothing: every site evaluates saved models, and the server pools what they tell.

The models come with the job, as files at the server that its configuration names by hash; a site scores only those.
"""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from nvflare.apis.fl_constant import FLContextKey
from nvflare.app_common.abstract.fl_model import FLModel, ParamsType

from pneumonia_fl.config.algorithm import Evaluating, SavedModel
from pneumonia_fl.config.job import parse
from pneumonia_fl.errors import AnswerError, DataError
from pneumonia_fl.evaluation.patient_pooling import Sampled, assess_pooled
from pneumonia_fl.fl.entrypoints import entrypoint
from pneumonia_fl.fl.protocol.carried_models import carried
from pneumonia_fl.fl.protocol.messages import CROSS_SITE, OPTED_OUT, REPLICATES, VALIDATE_TASK
from pneumonia_fl.fl.protocol.site_report import SiteProblem, SiteReport
from pneumonia_fl.fl.server.controller import PooledFedAvg
from pneumonia_fl.metrics.binary import summarise
from pneumonia_fl.metrics.platt import Scaling

BY_SITE = ("n", "positives", "patients", "floor_accuracy", "metrics", "intervals", "confusion")
"""What is kept of each site: no curve."""
ONE = 1
"""Stands for the steps of an answer that counts, which the book wants; nothing is trained."""


@entrypoint("EvaluationController")
class SavedModelJudge(PooledFedAvg):
    """Has every site evaluate each model, and waits for all of them until the time is over.

    Args:
        sites: sites that are expected; one that neither evaluates nor has opted out makes the job incomplete.
        round_timeout: seconds that the evaluation of one model may take.
        evaluation: the job's `evaluation` section.

    The other arguments are those of NVFlare's FedAvg.
    """

    def __init__(
        self,
        sites: tuple[str, ...] = (),
        round_timeout: int = 3600,
        persistor_id: str = "persistor",
        evaluation: dict[str, Any] | None = None,
        task_check_period: float = 0.5,
    ) -> None:
        super().__init__(
            sites=sites,
            quorum=1,
            grace=round_timeout,
            round_timeout=round_timeout,
            stall_timeout=round_timeout,
            persistor_id=persistor_id,
            task_check_period=task_check_period,
        )
        self.evaluation = evaluation
        self._wanted = parse(Evaluating, evaluation or {}, "evaluation")

    def _work(self) -> str:
        app = Path(self.fl_ctx.get_prop(FLContextKey.APP_ROOT))
        hashes = {name: model.sha256 for name, model in self._wanted.models.items()}
        split = self._wanted.split
        self.journal.write(
            "evaluation_started", split=split, models=list(hashes), sites=sorted(self.book.sites)
        )
        judged = 0
        for name, model in self._wanted.models.items():
            if not self.abort_signal.triggered:
                judged += self._judge(name, model, dict(carried(app, name, hashes, self.persistor.model)))
        for site in sorted(self.book.sites.keys() - {client.name for client in self.engine.get_clients()}):
            self.lacks(site, "is not in this job")
        return "" if judged else f"no site evaluated a model: {self.reasons()}"

    def snapshot(self) -> dict[str, Any]:
        """How the job stands: it has no rounds."""
        return {**super().snapshot(), "rounds": 0}

    def _judge(self, name: str, model: SavedModel, parameters: dict[str, Any]) -> int:
        """Have all sites evaluate a model; returns how many did."""
        found: dict[str, SiteReport] = {}
        sampled: dict[str, Sampled] = {}

        def note(answer: FLModel) -> None:
            site = str(answer.meta["client_name"])
            try:
                report = self.read_report(site, answer, "evaluate")
                if isinstance(report, SiteProblem):
                    return self._excuse(site, report.problem)
                if self._wanted.intervals:
                    sampled[site] = _sampled(report, answer)
            except (AnswerError, DataError) as fault:
                return self.reject(site, "refused", str(fault))
            found[site] = report
            values = summarise(report.scores)
            self.book.accept(site, values.auroc, ONE)
            self.journal.write("cross_site", model=name, site=site, values=asdict(values))

        self.journal.write("cross_site_started", model=name)
        data = FLModel(params=parameters, params_type=ParamsType.FULL, meta={CROSS_SITE: name})
        self.ask_everybody(VALIDATE_TASK, data, note)
        if sampled:
            self._tell(name, model, found, sampled)
        return len(found)

    def _excuse(self, site: str, problem: str) -> None:
        """Take a site that has opted out as it is; for any other problem the job is incomplete."""
        if problem != OPTED_OUT:
            return self.reject(site, "failed", problem)
        self.book.excuse(site, problem)
        self.lacks(site, problem)

    def _tell(
        self, name: str, model: SavedModel, found: dict[str, SiteReport], sampled: dict[str, Sampled]
    ) -> None:
        """Write down what the scores of all sites say together, and of each alone."""
        scaling = Scaling(model.temperature, model.offset)
        alone = {site: assess_pooled({site: own}, model.threshold, scaling) for site, own in sampled.items()}
        self.journal.write(
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
    """A site's samples.

    Raises:
        AnswerError: there are none.
        DataError: they cannot be of its histogram.
    """
    arrays, sample = answer.params, report.sample
    replicates = arrays.get(REPLICATES) if isinstance(arrays, dict) and len(arrays) == 1 else None
    if sample is None or not isinstance(replicates, np.ndarray):
        raise AnswerError("it sent no samples of its patients")
    normal, ill, everybody = sample.patients
    first, second = (tuple(row) for row in sample.starts)
    sampled = Sampled(report.scores, (normal, ill, everybody), (first, second), replicates)
    sampled.check()
    return sampled
