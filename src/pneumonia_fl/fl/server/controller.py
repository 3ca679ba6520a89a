"""FedAvg that survives hospitals.

Stock FedAvg (NVFlare 2.9) waits without limit for a silent site, ends at the first error of one site, never evaluates
the final model (NVFlare issue 790) and cannot be resumed after a crash. Here a round closes when everybody has
answered, or when the quorum has and the grace is over; results are checked before they count; after the last round
one more `validate` task judges the final model; and after every round there is a state to resume from.

The parts are plain classes; `_compose` makes them.
"""

from dataclasses import asdict
from functools import partial
from typing import Any

from nvflare.apis.client import Client
from nvflare.apis.fl_constant import FLMetaKey
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable
from nvflare.app_common.abstract.fl_model import FLModel
from nvflare.app_common.abstract.model import make_model_learnable
from nvflare.app_common.aggregators.model_aggregator import ModelAggregator
from nvflare.app_common.app_constant import AppConstants
from nvflare.app_common.app_event_type import AppEventType
from nvflare.app_common.workflows.model_controller import ModelController

from pneumonia_fl.config import algorithm as learning
from pneumonia_fl.config.algorithm import Exchange
from pneumonia_fl.config.strict import parse
from pneumonia_fl.errors import RunError
from pneumonia_fl.fl.algorithms.registry import server_algorithm
from pneumonia_fl.fl.algorithms.server_base import Parameters
from pneumonia_fl.fl.algorithms.weighted_average import SampleWeightedAverage, SiteWeights, weighted_average
from pneumonia_fl.fl.entrypoints import entrypoint
from pneumonia_fl.fl.protocol.messages import SITE_STEPS, VALIDATE_TASK
from pneumonia_fl.fl.protocol.site_report import Task
from pneumonia_fl.fl.protocol.update_checks import array_bytes
from pneumonia_fl.fl.server.batch_norm_exchange import BatchNormExchange
from pneumonia_fl.fl.server.cross_site_evaluation import CrossSiteEvaluation
from pneumonia_fl.fl.server.early_stopping import EarlyStopping
from pneumonia_fl.fl.server.global_models import Messages, global_models
from pneumonia_fl.fl.server.model_selection import ModelSelector
from pneumonia_fl.fl.server.result_validation import ResultValidator
from pneumonia_fl.fl.server.resume import ResumeState
from pneumonia_fl.fl.server.tasks.server_job import ServerJob
from pneumonia_fl.fl.server.tasks.site_tasks import OnResult, TaskLimits
from pneumonia_fl.metrics.binary import summarise
from pneumonia_fl.training.batch_norm import running_statistics

TRAIN_TASK: str = AppConstants.TASK_TRAIN


@entrypoint("Controller")
class PooledFedAvg(ModelController):
    """FedAvg with a quorum, checked results, pooled validation metrics, and a state to resume from.

    Args:
        sites: sites that are expected; one that never contributes makes the run incomplete.
        quorum: accepted results that a round needs; 0: those of all expected sites.
        grace: seconds that a round waits for the others once the quorum has answered.
        round_timeout: seconds after which a round closes in any case.
        stall_timeout: seconds without a sign from any site after which the job ends.
        resume_from: id of an earlier job of the same submitter to resume; "": a new job.
        num_rounds: rounds of the whole job.
        persistor_id: NVFlare's id of the component that keeps the global model.
        aggregator: averages a round's results.
        algorithm, early_stopping, cross_site, seed, exchange: the job's sections and settings of these names.
        factors: pairs of a site of the job's `sites` section and the factor of its images in the average.
        task_check_period: seconds between two looks at the open tasks.

    Each argument is an attribute of the same name: NVFlare writes a job's configuration from them.
    """

    def __init__(
        self,
        sites: tuple[str, ...] = (),
        quorum: int = 0,
        grace: int = 60,
        round_timeout: int = 3600,
        stall_timeout: int = 1800,
        resume_from: str = "",
        num_rounds: int = 0,
        persistor_id: str = "persistor",
        aggregator: ModelAggregator | None = None,
        algorithm: dict[str, Any] | None = None,
        early_stopping: dict[str, Any] | None = None,
        cross_site: dict[str, Any] | None = None,
        factors: list[list[Any]] | None = None,
        seed: int = 0,
        exchange: Exchange = "float32",
        task_check_period: float = 0.5,
    ) -> None:
        super().__init__(persistor_id=persistor_id, task_check_period=task_check_period)
        self.sites, self.quorum, self.grace = tuple(sites), quorum, grace
        self.round_timeout, self.stall_timeout = round_timeout, stall_timeout
        self.resume_from, self.num_rounds, self.aggregator = resume_from, num_rounds, aggregator
        self.algorithm, self.early_stopping, self.cross_site = algorithm, early_stopping, cross_site
        self.factors, self.seed, self.exchange = factors, seed, exchange
        self._settings = parse(learning.Algorithm, algorithm or {}, "algorithm")
        self._matrix = parse(learning.CrossSite, cross_site or {}, "cross_site")
        self._factors = {str(site): float(factor) for site, factor in factors or []}
        self._weights = SiteWeights(self._factors)
        self._stopping = EarlyStopping(parse(learning.EarlyStopping, early_stopping or {}, "early_stopping"))
        self._selector, self.averaging = ModelSelector(), aggregator or SampleWeightedAverage()
        self._job: ServerJob | None = None

    @property
    def job(self) -> ServerJob:
        """Return the running job."""
        assert self._job is not None, "the run has not begun"
        return self._job

    def run(self) -> None:
        """Run federated averaging (McMahan et al. 2017, algorithm 1), then evaluate the final model."""
        times = self.grace, self.round_timeout, self.stall_timeout, self._task_check_period
        limits = TaskLimits(self.quorum, *times)
        self._job = job = ServerJob(self, self.sites, limits, self.num_rounds)
        with job.running():
            self._compose()
            model, progress = self._first_model(), job.progress
            job.journal.write("started", rounds=progress.rounds, sites=sorted(job.tracker.sites))
            while progress.done < progress.rounds and not self._stops_early():
                number = progress.done
                self.event(AppEventType.ROUND_STARTED)
                average = self.train_round(model, number)
                if average is None:
                    break
                model = self._server.update(self._selector.candidate, average)
                self._select()
                model = self._models.as_received(self._exchange.settle(model, number))
                self.save_model(FLModel(params=model, current_round=number))
                progress.done += 1
                job.journal.write("saved", round=progress.done)
                self._resume.checkpoint(model)
            self._evaluate_final(model)
            if self._matrix.local_models and not job.aborted:
                job.lacking = self._cross_site.evaluate_local_models(self._selector.candidate)
            self._cross_site.publish()

    def train_round(self, model: Parameters, number: int) -> Parameters | None:
        """Send the global model to all sites and average what they make of it; None when the job is aborted.

        Raises:
            RunError: too few results count.
        """
        self.averaging.reset_stats()
        self._server.begin_round(model)
        self.send_candidate(TRAIN_TASK, model, number, partial(self.accept, task="train"))
        if not self.job.tasks.wait():
            return None
        self.job.tasks.close_round(quorum=True)
        average: Parameters = self.averaging.aggregate_model().params
        return average

    def send_candidate(
        self,
        task: str,
        model: Parameters,
        number: int,
        on_result: OnResult,
        averaged: int = 0,
        phase: str = "",
    ) -> None:
        """Send a global model to all sites, whose scores of it will be pooled.

        Args:
            task: what the sites do with it.
            model: its parameters.
            number: rounds that made it.
            on_result: called with each result.
            averaged: as in `Selection`.
            phase: what the tracker shows; "": the task's name.
        """
        job, model = self.job, self._models.as_received(model)
        self._selector.begin(model, number, averaged)
        message, complete = self.messages(model, number)
        job.tracker.open(number, phase or task)
        job.journal.write("round_started", round=number, task=job.tracker.task)
        job.tasks.send(task, message, job.participants(), on_result, complete)

    def messages(self, model: Parameters, number: int) -> Messages:
        """Build the messages of a global model, with the algorithm's own entries."""
        tracker = self.job.tracker
        meta = self._server.outgoing(number, len(tracker.sites))
        meta = {**meta, SITE_STEPS: {site: counts["steps"] for site, counts in tracker.counts().items()}}
        return self._models.messages(model, number, meta)

    def accept(self, site: str, result: FLModel, task: Task, judged: bool = True) -> None:
        """Accept a valid result as a whole; `judged`: the sites' scores are those of the candidate."""
        travelled = array_bytes(result.params, result.meta)
        report = self._validator.accept_result(site, result, task, self._selector.candidate)
        if report is None:
            return
        self._validator.remember(site, report)
        job, training, scores = self.job, report.training, report.scores
        metrics = summarise(scores)
        values = {**(asdict(metrics) if judged else {}), **report.values()}
        values["bytes"] = travelled if training else 0
        values["received_bytes"] = job.tasks.sent.pop(site, 0) if training else 0
        self._selector.add(site, scores if judged else None, training)
        if training:
            # A site counts by its images (McMahan et al. 2017), however often it passed them in this round.
            result.meta[FLMetaKey.NUM_STEPS_CURRENT_ROUND] = self.weight_of(site)
            self._server.accept(site, result)
            result.params = self._server.averaged(result.params)
            self.averaging.accept_model(result)
        job.tracker.accept(site, metrics.auroc, training.steps if training else 0)
        job.journal.write("site", round=job.tracker.number, site=site, values=values)

    def weight_of(self, site: str) -> float:
        """Return a site's weight in an average, in the ratio of its training images times the job's factor."""
        return self._weights.of(site, self._validator.facts[site].images(site, "train"))

    def _compose(self) -> None:
        """Make the parts that need the running job."""
        job, model = self.job, self.persistor.model
        trainable = frozenset(name for name, _ in model.named_parameters())
        self._server = server_algorithm(self._settings, trainable)
        # One copy more: an answer to `submit_model` has layers that FedBN's global model has not.
        job.close_door(model, self._server.answer_copies + 1)
        self._models = global_models(self.exchange, trainable)
        self._validator = ResultValidator(job, self._server, self._models)
        self._resume = ResumeState(
            job, self._selector, self._stopping, self._server, self._validator, self._settings.average_last
        )
        # A model that is passed from site to site is no average: its statistics are the last site's.
        names = [] if self._settings.name == "cyclic" else list(running_statistics(model))
        self._exchange = BatchNormExchange(job, self._validator, self.weight_of, names, self._models)
        self._cross_site = CrossSiteEvaluation(job, self._validator)
        if unknown := sorted(self._factors.keys() - job.tracker.sites.keys()):
            raise RunError(
                f"sites.{unknown[0]}: no such site takes part; there are {', '.join(job.tracker.sites)}"
            )

    def _first_model(self) -> Parameters:
        """Return the initial model, or the last one of the resumed job."""
        model: Parameters = self.load_model().params
        if self.resume_from:
            model = self._resume.restore(self.resume_from)
            self._note_best()
        return model

    def _stops_early(self) -> bool:
        """Return True when the job should end before the last round."""
        progress = self.job.progress
        if not self._stopping.should_stop():
            return False
        progress.stopped_early = self._stopping.reason(progress.done, progress.rounds)
        self.info(progress.stopped_early)
        self.job.journal.write("stopped_early", round=progress.done, reason=progress.stopped_early)
        return True

    def _select(self) -> None:
        """Evaluate the last model sent, and save it if it is the best so far."""
        selection = self._selector.select()
        if selection.is_best:
            self._note_best()
        self._stopping.note(selection.number, selection.metrics.auroc)
        self.job.journal.write("global", **selection.event())
        self.job.progress.series = selection.series()
        self.job.publish({**selection.series(), **selection.train_loss}, selection.number)

    def _note_best(self) -> None:
        """Have the persistor write the best model, through NVFlare's own event."""
        selector, progress = self._selector, self.job.progress
        progress.best_round, progress.best_auroc = selector.best_round, selector.best_auroc
        if selector.best is not None:
            best = make_model_learnable(weights=selector.best, meta_props={})
            self.fl_ctx.set_prop(AppConstants.GLOBAL_MODEL, best, private=True, sticky=True)
            self.event(AppEventType.GLOBAL_BEST_MODEL_AVAILABLE)

    def _evaluate_final(self, latest: Parameters) -> None:
        """Evaluate the model after the last round, then the average of the last ones if the job wants it."""
        job, done = self.job, self.job.progress.done
        self._evaluate(latest, done)
        kept = job.state.kept_count() if self._settings.average_last else 0
        if kept > 1:
            mean = weighted_average((1.0, model) for model in job.state.kept())
            self._evaluate(mean, done + 1, averaged=kept)

    def _evaluate(self, model: Parameters, number: int, averaged: int = 0) -> None:
        """Have all sites evaluate a final model; for arguments see `send_candidate`."""
        if self.job.aborted:
            return
        self.send_candidate(VALIDATE_TASK, model, number, partial(self.accept, task="validate"), averaged)
        if self.job.tasks.wait():
            self.job.tasks.close_round()
            if self._selector.has_scores:
                self._select()

    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        """Forward NVFlare's events to the running job."""
        if self._job is not None:
            self._job.handle_event(event_type, fl_ctx)

    def process_result_of_unknown_task(
        self, client: Client, task_name: str, client_task_id: str, result: Shareable, fl_ctx: FLContext
    ) -> None:
        """Name a result that came after its round had closed."""
        if self._job is not None:
            self._job.tasks.receive_unknown(client.name, task_name)
