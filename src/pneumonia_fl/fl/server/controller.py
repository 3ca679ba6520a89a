"""FedAvg that survives hospitals.

Stock FedAvg (NVFlare 2.9) waits for ever for a silent site, ends at the first error of one site, never evaluates
the final model (NVFlare issue 790) and cannot go on after a crash. Here a round closes when everybody has answered,
or when the quorum has and the grace is over; updates are checked before they count; after the last round one more
`validate` task judges the final model; and after every round there is a state to go on from.
"""

import time
from pathlib import Path
from typing import Any

from nvflare.apis.analytix import ANALYTIC_EVENT_TYPE
from nvflare.apis.fl_constant import FLContextKey, ReservedKey
from nvflare.apis.fl_context import FLContext
from nvflare.app_common.abstract.fl_model import FLModel, ParamsType
from nvflare.app_common.aggregators.model_aggregator import ModelAggregator
from nvflare.widgets.info_collector import InfoCollector

from pneumonia_fl import __version__
from pneumonia_fl.config.algorithm import Algorithm, CrossSite, EarlyStopping
from pneumonia_fl.config.job import parse
from pneumonia_fl.errors import RunError
from pneumonia_fl.fl.algorithms.registry import server_algorithm
from pneumonia_fl.fl.algorithms.weighted_average import weighted_average
from pneumonia_fl.fl.entrypoints import entrypoint
from pneumonia_fl.fl.guard.job_door import Door
from pneumonia_fl.fl.protocol.messages import FIRST_JOB, SITE_STEPS, STATS_GROUP, VALIDATE_TASK
from pneumonia_fl.fl.server.cross_site_evaluation import CrossSiteFedAvg
from pneumonia_fl.fl.server.early_stopping import Patience
from pneumonia_fl.fl.server.round_tracker import RoundBook
from pneumonia_fl.runs.folder import lacking
from pneumonia_fl.runs.journal import Journal
from pneumonia_fl.runs.provenance import code_origin

REFRESH_SECONDS = 2.0
"""How often the list of sites is fetched anew: a site that was restarted has a new session."""


@entrypoint("Controller")
class PooledFedAvg(CrossSiteFedAvg):
    """FedAvg with a quorum, checked updates, pooled validation metrics, and a state to go on from.

    Args:
        sites: sites that are expected; one that never contributes makes the run incomplete.
        quorum: accepted answers that a round needs; 0: those of all expected sites.
        grace: seconds that a round waits for the others once the quorum has answered.
        round_timeout: seconds after which a round closes in any case.
        stall_timeout: seconds without a sign from any site after which the job ends.
        resume_from: id of an earlier job of the same submitter to go on from; "": start anew.
        algorithm: the job's `algorithm` section.
        early_stopping: the job's `early_stopping` section.
        cross_site: the job's `cross_site` section.
        factors: pairs of a site of the job's `sites` section and the factor of its images in the average.
        seed: the job's seed.

    The other arguments are those of NVFlare's FedAvg; they are named because NVFlare writes a job's configuration
    from the signature.
    """

    def __init__(
        self,
        sites: tuple[str, ...] = (),
        quorum: int = 0,
        grace: int = 60,
        round_timeout: int = 3600,
        stall_timeout: int = 1800,
        resume_from: str = "",
        num_clients: int = 0,
        num_rounds: int = 0,
        persistor_id: str = "persistor",
        model: dict[str, Any] | None = None,
        aggregator: ModelAggregator | None = None,
        algorithm: dict[str, Any] | None = None,
        early_stopping: dict[str, Any] | None = None,
        cross_site: dict[str, Any] | None = None,
        factors: list[list[Any]] | None = None,
        seed: int = 0,
        task_check_period: float = 0.5,
    ) -> None:
        super().__init__(
            patience=Patience(parse(EarlyStopping, early_stopping or {}, "early_stopping")),
            num_clients=num_clients,
            num_rounds=num_rounds,
            persistor_id=persistor_id,
            model=model,
            aggregator=aggregator,
            task_check_period=task_check_period,
            # An error of one site is noted by `_accept_train_result` and never ends the job by itself.
            ignore_result_error=True,
        )
        self.sites, self.quorum, self.grace = tuple(sites), quorum, grace
        self.round_timeout, self.stall_timeout = round_timeout, stall_timeout
        self.resume_from, self.algorithm, self.early_stopping = resume_from, algorithm, early_stopping
        self.cross_site, self.factors, self.seed = cross_site, factors, seed
        self._factors = {str(site): float(factor) for site, factor in factors or []}
        self._matrix = parse(CrossSite, cross_site or {}, "cross_site")
        self._settings = parse(Algorithm, algorithm or {}, "algorithm")
        self.book = RoundBook(sites, quorum, grace)
        self._ended, self._reason, self._stopped_early = "running", "", ""
        # FedAvg asks `should_stop` after a round only when there is a condition; ours is not one of its kind.
        self.stop_condition = "patience"
        self._refreshed = self._started = time.time()

    def run(self) -> None:
        """Run all rounds, then evaluate the final model."""
        run_dir = Path(self.get_run_dir())
        self.info(f"pneumonia-fl {__version__}, {code_origin(Path(__file__))}")
        self.journal = Journal(run_dir)
        participants = [client.name for client in self.engine.get_clients()]
        self.book = RoundBook({*self.sites, *participants}, self.quorum, self.grace)
        self._passes = self._local_epochs()
        try:
            self._algorithm = server_algorithm(self._settings, self._trainable())
            self._close_door()
            self.open_state()
            self._check_named()
            self.journal.write("started", rounds=self._final_round, sites=sorted(self.book.sites))
            lacking = self._work()
        except Exception as error:
            self.cancel_all_tasks()
            self._end("stopped", str(error))
            self.panic(str(error))
            return
        aborted = self.abort_signal.triggered
        self._end("stopped" if aborted else "finished", "aborted" if aborted else lacking)

    def _work(self) -> str:
        """Do what the job is for; returns what is lacking in the end, or ""."""
        super().run()
        if self._latest is not None:
            self._evaluate_final(self._latest.params)
        return self.evaluate_cross_site(self._matrix)

    def _check_named(self) -> None:
        """Refuse settings for sites that do not take part; a job that waited for its sites was sent without them."""
        if unknown := sorted(self._factors.keys() - self.book.sites.keys()):
            raise RunError(
                f"sites.{unknown[0]}: no such site takes part; there are {', '.join(self.book.sites)}"
            )

    def _close_door(self) -> None:
        """Bound what sites send by the size of the model; not in the simulator, where all sites are one person's."""
        if self.fl_ctx.get_prop(FLContextKey.SECURE_MODE):
            tensors = self.persistor.model.state_dict().values()
            size = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
            # One copy more: an answer to `submit_model` has layers that FedBN's global model has not.
            Door(self.engine, (self._algorithm.answer_copies + 1) * size, self.refuse_unread).close()

    def _trainable(self) -> frozenset[str]:
        """Names of the model's trainable parameters; everything else in it is a buffer."""
        return frozenset(name for name, _ in self.persistor.model.named_parameters())

    def _end(self, state: str, reason: str) -> None:
        self._ended, self._reason = state, reason
        missing = self.book.missing()
        why = {site: self.problem_of(site) for site in missing}
        if missing:
            self.warning(f"INCOMPLETE: {lacking(missing, why, '')}")
        self.journal.write(state, reason=reason, missing=missing)
        ending = {
            "state": state,
            "reason": reason,
            "missing": missing,
            "why": why,
            "rounds": self._final_round,
            "done": self._done,
            "stopped_early": self._stopped_early,
            **self.best(),
        }
        self._state.finish(ending, keep=state != "finished")

    def is_curr_model_better(self, curr_model: FLModel) -> bool:
        """Have every model saved: which one is the best is known when the sites have judged it."""
        return True

    def should_stop(self, metrics: dict[str, Any] | None = None) -> bool:
        """Whether to end before the last round; asked after each."""
        if self._done >= self._final_round or not self._patience.over():
            return False
        self._stopped_early = self._patience.words(self._done, self._final_round)
        self.info(self._stopped_early)
        self.journal.write("stopped_early", round=self._done, reason=self._stopped_early)
        return True

    def send_model(
        self,
        task_name: str = "train",
        data: FLModel | None = None,
        averaged: int = 0,
        phase: str = "",
        **options: Any,
    ) -> None:
        """Send the model to all sites, and remember it: the sites will report how good it is."""
        assert data is not None
        self.take_candidate(data.params, data.current_round, averaged)
        data.meta |= self.outgoing(data.current_round)
        self.book.open(data.current_round, phase or task_name)
        self.journal.write("round_started", round=data.current_round, task=self.book.task)
        self.broadcast_model(
            task_name=task_name, data=data, timeout=self.round_timeout, blocking=False, **options
        )

    def outgoing(self, number: int) -> dict[str, Any]:
        """What travels with a model."""
        return {
            **self._algorithm.outgoing(number, len(self.book.sites)),
            FIRST_JOB: self.first_job,
            SITE_STEPS: {site: counts["steps"] for site, counts in self.book.counts().items()},
        }

    def wait(self) -> bool:
        """Wait until a task is over; False when the job is aborted meanwhile."""
        while self.get_num_standing_tasks():
            if self.abort_signal.triggered:
                return False
            time.sleep(self._task_check_period)
        return True

    def get_num_standing_tasks(self) -> int:
        """Asked in FedAvg's waiting loop: here a round is closed, or the job ended, when its time has come."""
        if self.book.silent_seconds() > self.stall_timeout:
            waiting = ", ".join(self.book.waiting())
            raise RunError(f"no sign from any site for {self.stall_timeout} s; waiting for {waiting}")
        if self.book.due():
            self.cancel_all_tasks()
        if time.time() - self._refreshed >= REFRESH_SECONDS:
            self.engine.sync_clients_from_main_process()
            self._refreshed = time.time()
        return int(super().get_num_standing_tasks())

    def save_model(self, model: FLModel) -> None:
        """Called once per round with the new average: judge the model before it, settle the new one, save it."""
        self._latest = model
        self.judge_candidate()
        self.settle(model)
        super().save_model(model)
        self.journal.write("saved", round=model.current_round + 1)
        self.keep_state(model)

    def update_model(self, model: FLModel, aggr_result: FLModel) -> FLModel:
        """Make the next global model from the average, as the algorithm says."""
        aggr_result.params = self._algorithm.update(self._candidate, aggr_result.params)
        return super().update_model(model, aggr_result)

    def _evaluate_final(self, latest: dict[str, Any]) -> None:
        """Judge the model after the last round, then the mean of the last ones if the job wants it."""
        self._evaluate(latest, self._done)
        kept = self._state.kept() if self._settings.average_last else {}
        if len(kept) > 1:
            mean = weighted_average({number: (1.0, model) for number, model in kept.items()})
            self._evaluate(mean, self._done + 1, averaged=len(kept))

    def _evaluate(self, parameters: dict[str, Any], number: int, averaged: int = 0) -> None:
        """Have all sites evaluate a model that nobody trains further; for arguments see `take_candidate`."""
        if self.abort_signal.triggered:
            return
        data = FLModel(
            params=parameters,
            params_type=ParamsType.FULL,
            current_round=number,
            total_rounds=self._final_round,
        )
        targets = [client.name for client in self.engine.get_clients()]
        self.send_model(VALIDATE_TASK, data, averaged, targets=targets, callback=self.note_report)
        if self.wait():
            self.close_round()
            if self._pool:
                self.judge_candidate()

    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        """Answer `show_stats`; take a site's metric points as signs of life."""
        super().handle_event(event_type, fl_ctx)
        if event_type == InfoCollector.EVENT_TYPE_GET_STATS:
            collector = fl_ctx.get_prop(InfoCollector.CTX_KEY_STATS_COLLECTOR)
            collector.set_info(STATS_GROUP, self.snapshot())
        elif event_type == f"fed.{ANALYTIC_EVENT_TYPE}":
            data = fl_ctx.get_prop(FLContextKey.EVENT_DATA)
            self.book.hear(str(data.get_peer_prop(ReservedKey.IDENTITY_NAME, "")))

    def snapshot(self) -> dict[str, Any]:
        """How the job stands; times are seconds since the epoch."""
        return {
            "state": self._ended,
            "reason": self._reason,
            "now": time.time(),
            # For the time left: until the first sign, trainers load PyTorch, which no later round does.
            "started": self.book.first_sign or self._started,
            "start_round": self.start_round,
            "rounds": self._final_round,
            "stopped_early": self._stopped_early,
            "global": self._global,
            **self.best(),
            **self.book.snapshot(),
        }
