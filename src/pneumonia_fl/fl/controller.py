"""FedAvg whose global metrics are pooled, and whose best model is chosen over all rounds, the last one included.

Stock FedAvg averages the sites' metrics and never evaluates the final model (NVFlare issue 790). Here each site
sends a score histogram of the model that it received; the server adds the histograms, so AUROC and the rest are
those of the pooled validation data, up to the bin width. After the last round one more `validate` task does the
same for the final model.
"""

import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from nvflare.apis.analytix import ANALYTIC_EVENT_TYPE, AnalyticsDataType
from nvflare.apis.utils.analytix_utils import create_analytic_dxo, send_analytic_dxo
from nvflare.app_common.abstract.fl_model import FLModel, ParamsType
from nvflare.app_common.abstract.model import make_model_learnable
from nvflare.app_common.app_constant import AppConstants
from nvflare.app_common.app_event_type import AppEventType
from nvflare.app_common.workflows.fedavg import FedAvg

from pneumonia_fl.fl.messages import SITE_REPORT, VALIDATE_TASK, series
from pneumonia_fl.journal import Journal
from pneumonia_fl.metrics import ScoreHistogram, summarise
from pneumonia_fl.runs import GLOBAL


class PooledFedAvg(FedAvg):
    """FedAvg with pooled validation metrics and best-model selection on pooled AUROC."""

    _latest: FLModel | None = None

    def run(self) -> None:
        """Run all rounds, then evaluate the final model."""
        self._candidate: dict[str, Any] = {}
        self._candidate_round = self.start_round
        self._pool: dict[str, ScoreHistogram] = {}
        self._training: dict[str, dict[str, float]] = {}
        self._best_auroc: float | None = None
        self.journal = Journal(Path(self.get_run_dir()))
        sites = sorted(client.name for client in self.engine.get_clients())
        self.journal.write("started", rounds=self.num_rounds, sites=sites)
        super().run()
        if not self.abort_signal.triggered and self._latest is not None:
            self._evaluate_final(self._latest)
            self.journal.write("finished")

    def send_model(self, task_name: str = "train", data: FLModel | None = None, **options: Any) -> None:
        """Remember what is sent: the sites will report how good it is."""
        assert data is not None
        self._candidate = dict(data.params)
        self._candidate_round = data.current_round
        self._pool, self._training = {}, {}
        self.journal.write("round_started", round=data.current_round, task=task_name)
        super().send_model(task_name=task_name, data=data, **options)

    def save_model(self, model: FLModel) -> None:
        """Called once per round with the new average: judge the model it was trained from, then save."""
        self._latest = model
        self._judge_candidate()
        super().save_model(model)

    def _aggregate_one_result(self, result: FLModel) -> bool:
        self._note_report(result)
        return bool(super()._aggregate_one_result(result))

    def _evaluate_final(self, model: FLModel) -> None:
        final_round = self.start_round + self.num_rounds
        data = FLModel(
            params=model.params,
            params_type=ParamsType.FULL,
            current_round=final_round,
            total_rounds=final_round,
        )
        targets = [client.name for client in self.engine.get_clients()]
        self.send_model(task_name=VALIDATE_TASK, data=data, targets=targets, callback=self._note_report)
        while self.get_num_standing_tasks():
            if self.abort_signal.triggered:
                return
            time.sleep(self._task_check_period)
        self._judge_candidate()

    def _note_report(self, result: FLModel) -> bool:
        report, site = result.meta[SITE_REPORT], result.meta["client_name"]
        histogram = ScoreHistogram.from_dict(report["histogram"])
        self._pool[site] = histogram
        self._training[site] = report["training"]
        values = {**asdict(summarise(histogram)), **report["training"], "bytes": _bytes(result.params)}
        self.journal.write("site", round=self._candidate_round, site=site, values=values)
        return True

    def _judge_candidate(self) -> None:
        """Pool the sites' histograms of the model that was sent; keep it if it is the best so far."""
        pooled = sum(self._pool.values(), ScoreHistogram.empty())
        metrics = summarise(pooled)
        number = self._candidate_round
        best = number > 0 and _is_better(metrics.auroc, self._best_auroc)
        if best:
            self._best_auroc = metrics.auroc
            self._keep_best()
        self.journal.write(
            "global", round=number, values=asdict(metrics), best=best, histogram=pooled.to_dict()
        )
        self._publish({**series(metrics), **_mean_loss(self._training)}, number)

    def _keep_best(self) -> None:
        """Have the persistor write the candidate as the best model, through NVFlare's own event."""
        latest = self.fl_ctx.get_prop(AppConstants.GLOBAL_MODEL)
        best = make_model_learnable(weights=self._candidate, meta_props={})
        self.fl_ctx.set_prop(AppConstants.GLOBAL_MODEL, best, private=True, sticky=True)
        self.event(AppEventType.GLOBAL_BEST_MODEL_AVAILABLE)
        self.fl_ctx.set_prop(AppConstants.GLOBAL_MODEL, latest, private=True, sticky=True)

    def _publish(self, values: dict[str, float], step: int) -> None:
        """Hand the global series to the receivers, as an event of the server itself."""
        for name, value in values.items():
            dxo = create_analytic_dxo(
                tag=f"{GLOBAL}/{name}", value=value, data_type=AnalyticsDataType.SCALAR, global_step=step
            )
            send_analytic_dxo(self, dxo=dxo, fl_ctx=self.fl_ctx, event_type=ANALYTIC_EVENT_TYPE)


def _mean_loss(training: dict[str, dict[str, float]]) -> dict[str, float]:
    """The round's training loss over all sites, each image counting alike; empty after an evaluation."""
    samples = sum(values.get("train_samples", 0) for values in training.values())
    if not samples:
        return {}
    total = sum(values["train_loss"] * values["train_samples"] for values in training.values())
    return {"train_loss": total / samples}


def _is_better(auroc: float | None, best: float | None) -> bool:
    """Whether a trained model is the best so far; without any AUROC (one class only) the latest is."""
    return best is None or (auroc is not None and auroc > best)


def _bytes(parameters: dict[str, Any] | None) -> int:
    return sum(int(value.nbytes) for value in (parameters or {}).values())
