"""A job at the server: its sites, journal, tasks, and a record of how it ended."""

import contextlib
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nvflare.apis.analytix import ANALYTIC_EVENT_TYPE, AnalyticsDataType
from nvflare.apis.fl_constant import FLContextKey, ReservedKey
from nvflare.apis.fl_context import FLContext
from nvflare.apis.job_def import JobMetaKey
from nvflare.apis.utils.analytix_utils import create_analytic_dxo, send_analytic_dxo
from nvflare.app_common.workflows.model_controller import ModelController
from nvflare.widgets.info_collector import InfoCollector
from torch import nn

from pneumonia_fl import __version__
from pneumonia_fl.fl.guard.job_door import Door
from pneumonia_fl.fl.protocol.messages import STATS_GROUP
from pneumonia_fl.fl.server.tasks.round_tracker import RoundTracker, SiteProblems
from pneumonia_fl.fl.server.tasks.site_tasks import SiteTasks, TaskLimits
from pneumonia_fl.fl.state.job_state import JobState
from pneumonia_fl.runs.folder import lacking
from pneumonia_fl.runs.journal import Journal
from pneumonia_fl.runs.provenance import code_origin


@dataclass
class Progress:
    """Progress of a job; a job that only evaluates has no rounds.

    `done`: rounds that are finished, those of earlier parts included. `start_round`: the first of this part.
    `series`: pooled metrics of the model that was judged last, by tag.
    """

    rounds: int = 0
    start_round: int = 0
    done: int = 0
    stopped_early: str = ""
    best_round: int | None = None
    best_auroc: float | None = None
    series: dict[str, float] = field(default_factory=dict)


class ServerJob:
    """A running job at the server; controllers and their collaborators share it.

    Args:
        controller: NVFlare's side of the job; its run has begun.
        sites: sites that are expected beside those that take part now.
        limits: how long sites are waited for.
        rounds: rounds of the whole job.
    """

    def __init__(
        self, controller: ModelController, sites: Iterable[str], limits: TaskLimits, rounds: int = 0
    ) -> None:
        self._controller, self.engine = controller, controller.engine
        self.run_dir, self.id = Path(controller.get_run_dir()), str(controller.fl_ctx.get_job_id())
        self.progress = Progress(rounds)
        self.journal = Journal(self.run_dir)
        self.tracker = RoundTracker({*sites, *self.participants()}, limits.quorum, limits.grace)
        self.problems = SiteProblems(self.tracker, self.journal, self.warning)
        self.tasks = SiteTasks(controller, self.tracker, self.problems, limits)
        self.tasks.first_job = self.id
        self.state = self.state_of(self.id)
        self.lacking = ""
        self._ended, self._reason, self._started = "running", "", time.time()

    @property
    def aborted(self) -> bool:
        """Return True when the job is to be aborted."""
        return bool(self._controller.abort_signal.triggered)

    @property
    def meta(self) -> dict[str, Any]:
        """Return the job's meta, as NVFlare keeps it."""
        return self._controller.fl_ctx.get_prop(ReservedKey.JOB_META) or {}

    @property
    def submitter(self) -> str:
        """Return the job's submitter."""
        return str(self.meta.get(JobMetaKey.SUBMITTER_NAME.value, ""))

    def participants(self) -> list[str]:
        """Return the names of the sites that take part at present."""
        return [client.name for client in self.engine.get_clients()]

    def state_of(self, job_id: str) -> JobState:
        """Return the saved state of this job, or of an earlier one."""
        return JobState(Path(self.engine.get_workspace().get_root_dir()), job_id)

    def info(self, text: str) -> None:
        """Write into the server's log."""
        self._controller.info(text)

    def warning(self, text: str) -> None:
        """Write a warning into the server's log."""
        self._controller.warning(text)

    def close_door(self, model: nn.Module, copies: int) -> None:
        """Bound what a site sends to `copies` of the model; not in the simulator, where all sites are one person's."""
        if self._controller.fl_ctx.get_prop(FLContextKey.SECURE_MODE):
            size = sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())
            Door(self.engine, copies * size, self.tasks.refuse_unread).install()

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Record how the job ends; an error inside ends it for all sites and goes no further."""
        self.info(f"pneumonia-fl {__version__}, {code_origin(Path(__file__))}")
        try:
            yield
        except Exception as error:
            self._controller.cancel_all_tasks()
            self._end("stopped", str(error))
            self._controller.panic(str(error))
            return
        aborted = self.aborted
        self._end("stopped" if aborted else "finished", "aborted" if aborted else self.lacking)

    def _end(self, state: str, reason: str) -> None:
        self._ended, self._reason = state, reason
        missing = self.tracker.missing()
        why = {site: self.problems.last(site) for site in missing}
        if missing:
            self.warning(f"INCOMPLETE: {lacking(missing, why, '')}")
        self.journal.write(state, reason=reason, missing=missing)
        progress = self.progress
        ending = {
            "state": state,
            "reason": reason,
            "missing": missing,
            "why": why,
            "rounds": progress.rounds,
            "done": progress.done,
            "stopped_early": progress.stopped_early,
            "best_round": progress.best_round,
            "best_auroc": progress.best_auroc,
        }
        self.state.finish(ending, keep=state != "finished")

    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        """Answer `show_stats`; take a site's metric points as signs of life."""
        if event_type == InfoCollector.EVENT_TYPE_GET_STATS:
            collector = fl_ctx.get_prop(InfoCollector.CTX_KEY_STATS_COLLECTOR)
            collector.set_info(STATS_GROUP, self.snapshot())
        elif event_type == f"fed.{ANALYTIC_EVENT_TYPE}":
            data = fl_ctx.get_prop(FLContextKey.EVENT_DATA)
            self.tracker.heartbeat(str(data.get_peer_prop(ReservedKey.IDENTITY_NAME, "")))

    def snapshot(self) -> dict[str, Any]:
        """Return the job's present state for `show_stats`; times are seconds since the epoch."""
        progress = self.progress
        return {
            "state": self._ended,
            "reason": self._reason,
            "now": time.time(),
            # For the time left: until the first sign, trainers load PyTorch, which no later round does.
            "started": self.tracker.first_sign or self._started,
            "start_round": progress.start_round,
            "rounds": progress.rounds,
            "stopped_early": progress.stopped_early,
            "global": progress.series,
            "best_round": progress.best_round,
            "best_auroc": progress.best_auroc,
            **self.tracker.snapshot(),
        }

    def publish(self, values: dict[str, float], step: int) -> None:
        """Send values by tag to the receivers, as events of the server itself."""
        for tag, value in values.items():
            self._send_point(tag, value, AnalyticsDataType.SCALAR, step)

    def publish_text(self, tag: str, text: str, step: int) -> None:
        """Send a text in Markdown to the receivers that show one."""
        self._send_point(tag, text, AnalyticsDataType.TEXT, step)

    def _send_point(self, tag: str, value: float | str, kind: AnalyticsDataType, step: int) -> None:
        dxo = create_analytic_dxo(tag=tag, value=value, data_type=kind, global_step=step)
        controller = self._controller
        send_analytic_dxo(controller, dxo=dxo, fl_ctx=controller.fl_ctx, event_type=ANALYTIC_EVENT_TYPE)
