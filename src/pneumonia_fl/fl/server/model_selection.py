"""Judging global models: pooled metrics from the sites' histograms, the best model, the `global` series.

Stock FedAvg averages the sites' metrics. Here each site sends a score histogram of the model that it received; the
server adds them, so that AUROC and the rest are those of the pooled validation data, up to the bin width.
"""

from dataclasses import asdict
from typing import Any

from nvflare.apis.analytix import ANALYTIC_EVENT_TYPE, AnalyticsDataType
from nvflare.apis.utils.analytix_utils import create_analytic_dxo, send_analytic_dxo
from nvflare.app_common.abstract.model import make_model_learnable
from nvflare.app_common.app_constant import AppConstants
from nvflare.app_common.app_event_type import AppEventType
from nvflare.app_common.workflows.fedavg import FedAvg

from pneumonia_fl.evaluation.scoring import is_better
from pneumonia_fl.fl.protocol.site_report import Training
from pneumonia_fl.fl.server.early_stopping import Patience
from pneumonia_fl.metrics.binary import ScoreHistogram, summarise
from pneumonia_fl.metrics.series import ROUND_TRAIN_LOSS, series
from pneumonia_fl.runs.journal import Journal

Parameters = dict[str, Any]


class JudgingFedAvg(FedAvg):
    """FedAvg that knows how good each global model is, and keeps the best."""

    journal: Journal

    def __init__(self, patience: Patience, **options: Any) -> None:
        super().__init__(**options)
        self._patience = patience
        self._candidate: Parameters = {}
        self._candidate_round = self._averaged = 0
        self._judging = True
        self._pool: dict[str, ScoreHistogram] = {}
        self._training: dict[str, Training] = {}
        self._best: Parameters | None = None
        self._best_auroc: float | None = None
        self._best_round: int | None = None
        self._global: dict[str, float] = {}

    def take_candidate(self, parameters: Parameters, number: int, averaged: int = 0) -> None:
        """Remember the model that is sent out now; the sites' answers will judge it.

        `averaged`: it is the mean of so many global models, and no round's own (0).
        """
        self._candidate, self._candidate_round, self._averaged = dict(parameters), number, averaged
        self._pool, self._training, self._judging = {}, {}, True

    def take_report(self, site: str, histogram: ScoreHistogram, training: Training | None) -> None:
        """Add one site's histogram of the candidate, and what its training cost, if there was one."""
        if training:
            self._training[site] = training
        if self._judging:
            self._pool[site] = histogram

    def restore_best(self, parameters: Parameters | None, auroc: float | None, number: int | None) -> None:
        """Take over the best model of an earlier part of the same job."""
        self._best, self._best_auroc, self._best_round = parameters, auroc, number
        if parameters is not None:
            self._keep_best(parameters)

    def best(self) -> dict[str, Any]:
        """Round and pooled AUROC of the best model so far; None before there is one."""
        return {"best_round": self._best_round, "best_auroc": self._best_auroc}

    def judge_candidate(self) -> None:
        """Pool the sites' histograms of the model that was sent; keep it if it is the best so far."""
        # A copy: a round may be closed while an answer comes in, in a thread of its own.
        pooled = sum(self._pool.copy().values(), ScoreHistogram.empty())
        metrics = summarise(pooled)
        number = self._candidate_round
        best = number > 0 and is_better(metrics.auroc, self._best_auroc)
        if best:
            self._best_auroc, self._best_round, self._best = metrics.auroc, number, self._candidate
            self._keep_best(self._candidate)
        self._patience.note(number, metrics.auroc)
        note = {"averaged": self._averaged} if self._averaged else {}
        self.journal.write(
            "global", round=number, values=asdict(metrics), best=best, histogram=pooled.to_dict(), **note
        )
        self._global = series(metrics)
        self.publish({**self._global, **_mean_loss(self._training.copy())}, number)

    def _keep_best(self, parameters: dict[str, Any]) -> None:
        """Have the persistor write the best model, through NVFlare's own event."""
        latest = self.fl_ctx.get_prop(AppConstants.GLOBAL_MODEL)
        best = make_model_learnable(weights=parameters, meta_props={})
        self.fl_ctx.set_prop(AppConstants.GLOBAL_MODEL, best, private=True, sticky=True)
        self.event(AppEventType.GLOBAL_BEST_MODEL_AVAILABLE)
        self.fl_ctx.set_prop(AppConstants.GLOBAL_MODEL, latest, private=True, sticky=True)

    def publish(self, values: dict[str, float], step: int) -> None:
        """Hand values by tag to the receivers, as events of the server itself."""
        for tag, value in values.items():
            self._send_point(tag, value, AnalyticsDataType.SCALAR, step)

    def publish_text(self, tag: str, text: str, step: int) -> None:
        """Hand a text in Markdown to the receivers that show one."""
        self._send_point(tag, text, AnalyticsDataType.TEXT, step)

    def _send_point(self, tag: str, value: float | str, kind: AnalyticsDataType, step: int) -> None:
        dxo = create_analytic_dxo(tag=tag, value=value, data_type=kind, global_step=step)
        send_analytic_dxo(self, dxo=dxo, fl_ctx=self.fl_ctx, event_type=ANALYTIC_EVENT_TYPE)


def _mean_loss(training: dict[str, Training]) -> dict[str, float]:
    """The round's training loss over all sites, each image counting alike; empty after an evaluation."""
    samples = sum(values.train_samples for values in training.values())
    if not samples:
        return {}
    total = sum(values.train_loss * values.train_samples for values in training.values())
    return {ROUND_TRAIN_LOSS: total / samples}
