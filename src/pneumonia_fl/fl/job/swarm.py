"""Swarm learning (Warnat-Herresthal et al. 2021) through NVFlare's recipe: in each round another site averages.

The server sees no weights, so nothing of what our controller does holds here: no checks of updates, no early stopping,
no resume. It hears the sites' validation metrics as they log them, and NVFlare's cross-site evaluation of the last and
the best model carries the sites' score histograms, which are pooled as ever. NVFlare calls best what has the highest
mean of the sites' AUROCs; between that and the last model, the pooled AUROC decides.
"""

from dataclasses import asdict
from typing import Any

from nvflare.apis.analytix import ANALYTIC_EVENT_TYPE, AnalyticsData
from nvflare.apis.dxo import from_shareable
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import ReturnCode, Shareable
from nvflare.app_common.app_constant import AppConstants
from nvflare.app_common.app_event_type import AppEventType
from nvflare.app_common.ccwf.ccwf_job import CrossSiteEvalConfig
from nvflare.app_common.widgets.convert_to_fed_event import ConvertToFedEvent
from nvflare.app_opt.pt.recipes.swarm import SwarmLearningRecipe

from pneumonia_fl.config.job import JobConfig
from pneumonia_fl.errors import AnswerError
from pneumonia_fl.fl.entrypoints import entrypoint
from pneumonia_fl.fl.protocol.messages import SITE_REPORT
from pneumonia_fl.fl.protocol.site_report import Expected, Facts, SiteProblem, parse_report
from pneumonia_fl.fl.server.receivers import JournalReceiver
from pneumonia_fl.inputs.text import printable
from pneumonia_fl.metrics.binary import ScoreHistogram, summarise
from pneumonia_fl.results.collect import BEST, LAST
from pneumonia_fl.runs.folder import GLOBAL
from pneumonia_fl.runs.journal import read_journal, summarise_rounds

AUROC_TAG = "validation_auc"
PERSISTOR = "persistor"
CUT_OFF = "the swarm ended before all sites had judged its model"


class SwarmRecipe(SwarmLearningRecipe):
    """NVFlare's recipe, and at its end the evaluation of the global models, but of no site's own model.

    Args:
        job: the job.
        sites: how many sites take part.
        model: the initial model, `class_path` and `args`.
        script: the training script and its arguments.
        weights: file with the initial weights; None: those of `model`.
    """

    def __init__(
        self,
        job: JobConfig,
        sites: int,
        model: dict[str, Any],
        script: tuple[str, str],
        weights: str | None,
    ) -> None:
        super().__init__(
            name=job.name,
            model=model,
            initial_ckpt=weights,
            num_rounds=job.rounds,
            train_script=script[0],
            train_args={"script_args": script[1]},
            min_clients=job.min_sites or sites,
            key_metric=AUROC_TAG,
            learn_task_timeout=job.round_timeout,
            progress_timeout=job.stall_timeout,
        )
        judging = CrossSiteEvalConfig(evaluatees="@none", eval_task_timeout=job.round_timeout)
        self._job.add_cross_site_eval(judging, PERSISTOR)
        # NVFlare's other recipes have it: without it nothing that a site logs reaches the server.
        self._job.to_clients(ConvertToFedEvent(events_to_convert=[ANALYTIC_EVENT_TYPE]), id="event_to_fed")


@entrypoint("SwarmJournalReceiver")
class SwarmJournal(JournalReceiver):
    """The journal of a job whose controller is NVFlare's: what the sites log, and how they judge the model.

    Args:
        sites: the sites that take part.
        rounds: rounds of the job.
    """

    def __init__(self, sites: list[str], rounds: int) -> None:
        super().__init__()
        self.sites, self.rounds = sites, rounds
        self._round = -1
        self._facts: dict[str, Facts | None] = {}
        self._pool: dict[str, dict[str, ScoreHistogram]] = {BEST: {}, LAST: {}}

    def initialize(self, fl_ctx: FLContext) -> None:
        """Open the journal."""
        super().initialize(fl_ctx)
        self._journal.write("started", rounds=self.rounds, sites=self.sites)

    def save(self, fl_ctx: FLContext, shareable: Shareable, record_origin: str) -> None:
        """Save a point of a site's validation metrics, beside the training loss."""
        super().save(fl_ctx, shareable, record_origin)
        point = AnalyticsData.from_dxo(from_shareable(shareable))
        if point and record_origin != GLOBAL and point.tag.startswith("validation_"):
            name = "auroc" if point.tag == AUROC_TAG else point.tag.removeprefix("validation_")
            self._write_site(int(point.step or 0), record_origin, {name: float(point.value)})

    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        """Record a site's evaluation of the best or the last model."""
        super().handle_event(event_type, fl_ctx)
        if event_type == AppEventType.VALIDATION_RESULT_RECEIVED:
            model = str(fl_ctx.get_prop(AppConstants.MODEL_OWNER)).removeprefix("GLOBAL_")
            site = fl_ctx.get_prop(AppConstants.DATA_CLIENT)
            answer = fl_ctx.get_prop(AppConstants.VALIDATION_RESULT)
            if model in self._pool and site in self.sites and answer.get_return_code() == ReturnCode.OK:
                self._take(model, site, answer)

    def _take(self, model: str, site: str, answer: Shareable) -> None:
        """Pool one site's histogram, or say why it must not count."""
        try:
            raw = from_shareable(answer).meta.get(SITE_REPORT)
            report = parse_report(raw, Expected(site, "validate", self._facts.get(site)))
            if isinstance(report, SiteProblem):
                raise AnswerError(report.problem)
        except (AnswerError, ValueError, TypeError) as fault:
            problem = printable(fault)
            self._journal.write("problem", round=self.rounds, site=site, state="refused", problem=problem)
            return
        self._facts.setdefault(site, report.data)
        self._pool[model][site] = report.scores

    def finalize(self, fl_ctx: FLContext) -> None:
        """Select from the two models, and record how the job ended."""
        if len(self._pool[LAST]) < len(self.sites):
            self._journal.write("stopped", reason=CUT_OFF, missing=[])
        else:
            self._judge()
            self._journal.write("finished", reason="", missing=[])
        super().finalize(fl_ctx)

    def _judge(self) -> None:
        self._journal.write("saved", round=self.rounds)
        for site, histogram in self._pool[LAST].items():
            self._write_site(self.rounds, site, asdict(summarise(histogram)))
        best: float | None = None
        for number, sites in ((self._best_round(), self._pool[BEST]), (self.rounds, self._pool[LAST])):
            if not sites:
                continue
            pooled = sum(sites.values(), ScoreHistogram.empty())
            metrics = summarise(pooled)
            better = best is None or (metrics.auroc is not None and metrics.auroc > best)
            best = metrics.auroc if better else best
            self._journal.write(
                "global", round=number, values=asdict(metrics), best=better, histogram=pooled.to_dict()
            )

    def _best_round(self) -> int:
        """Return the round of NVFlare's best model: the highest mean AUROC of the sites, the first of equals."""
        rounds = summarise_rounds(read_journal(self._journal.path))["rounds"]
        means = {
            entry["round"]: sum(site["auroc"] for site in entry["sites"].values()) / len(entry["sites"])
            for entry in rounds
            if 0 < entry["round"] < self.rounds and all("auroc" in site for site in entry["sites"].values())
        }
        return max(means, key=lambda number: means[number], default=self.rounds)

    def _write_site(self, number: int, site: str, values: dict[str, Any]) -> None:
        if number > self._round:
            self._round = number
            task = "train" if number < self.rounds else "validate"
            self._journal.write("round_started", round=number, task=task)
        self._journal.write("site", round=number, site=site, values=values)
