"""Server-side receivers of metrics: journal, TensorBoard, MLflow.

Sites' points arrive as federation events; the server's own events carry the pooled global series, which all
receivers file under the name `global`.
"""

import shutil
from collections import Counter
from pathlib import Path

from nvflare.apis.analytix import ANALYTIC_EVENT_TYPE, AnalyticsData, AnalyticsDataType
from nvflare.apis.dxo import from_shareable
from nvflare.apis.fl_constant import EventScope, FLContextKey, ReservedKey
from nvflare.apis.fl_context import FLContext
from nvflare.apis.job_def import JobMetaKey
from nvflare.apis.shareable import Shareable
from nvflare.app_common.widgets.streaming import AnalyticsReceiver
from nvflare.app_opt.tracking.tb.tb_receiver import TBAnalyticsReceiver

from pneumonia_fl.config.environment import tracking_uri
from pneumonia_fl.errors import RunError
from pneumonia_fl.fl.entrypoints import entrypoint
from pneumonia_fl.fl.kit.startup_kit import read_settings
from pneumonia_fl.fl.protocol.messages import properties
from pneumonia_fl.fl.protocol.site_report import MAX_VALUE
from pneumonia_fl.fl.state.job_state import JobState
from pneumonia_fl.metrics.series import CROSS_SITE_PREFIX, aliases, is_site_tag
from pneumonia_fl.results.finalize import finish_on_server
from pneumonia_fl.runs.folder import GLOBAL, MLFLOW_ARTIFACTS, MLFLOW_DB, MLFLOW_STATUS, TB_EVENTS, events_of
from pneumonia_fl.runs.journal import Journal
from pneumonia_fl.runs.mlflow_files import read_status, sqlite_uri
from pneumonia_fl.tracking.mlflow_queue import MLflowSink, one_line

EVENTS = [ANALYTIC_EVENT_TYPE, f"fed.{ANALYTIC_EVENT_TYPE}"]
MAX_POINTS = 200_000
"""Of one site in one job: a round has about 40, and a job at most some thousand rounds."""
MAX_STEP = 1_000_000_000


class _SitePoints(AnalyticsReceiver):
    """Takes of sites only what the schema knows; names the server's own points `global`.

    A point of a site has a known tag, a finite number and a step. Who sent it has been checked against the
    session of the sender before (`job_door.py`). A site that sends far more than any training has is no longer heard.
    """

    def __init__(self) -> None:
        super().__init__(events=EVENTS)
        self._taken: Counter[str] = Counter()

    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        """Ignore events that must not be kept."""
        if event_type not in EVENTS or self._counts(fl_ctx):
            super().handle_event(event_type, fl_ctx)

    def _counts(self, fl_ctx: FLContext) -> bool:
        if not _from_site(fl_ctx):
            return True
        data = fl_ctx.get_prop(FLContextKey.EVENT_DATA)
        if not isinstance(data, Shareable):
            return False
        origin = self._get_record_origin(fl_ctx, data)
        known = origin in {client.name for client in fl_ctx.get_engine().get_clients()} - {GLOBAL}
        if not known or site_point(data) is None:
            return False
        self._taken[str(origin)] += 1
        return self._taken[str(origin)] <= MAX_POINTS

    def _get_record_origin(self, fl_ctx: FLContext, data: Shareable) -> str | None:
        if not _from_site(fl_ctx):
            return GLOBAL
        origin = data.get_peer_prop(ReservedKey.IDENTITY_NAME, None)
        return str(origin) if origin else None


def site_point(data: object) -> AnalyticsData | None:
    """Return the point of a series in a site's event; None when the schema does not know the series."""
    try:
        point = AnalyticsData.from_dxo(from_shareable(data))
    except Exception:  # whatever a site's bytes made of it
        return None
    if point is None or point.data_type != AnalyticsDataType.SCALAR or not is_site_tag(point.tag):
        return None
    value, step = point.value, point.step
    if type(step) is not int or not 0 <= step <= MAX_STEP or type(value) not in (int, float):
        return None
    return point if -MAX_VALUE <= value <= MAX_VALUE else None


def _from_site(fl_ctx: FLContext) -> bool:
    return bool(fl_ctx.get_prop(FLContextKey.EVENT_SCOPE) == EventScope.FEDERATION)


@entrypoint("TensorBoardReceiver")
class TensorBoardReceiver(_SitePoints, TBAnalyticsReceiver):
    """NVFlare's TensorBoard receiver, with a folder per site and `global`, and events that stay.

    NVFlare moves a job's folder into its store when the job is over, out of TensorBoard's sight. So the events are
    written to `<server>/tensorboard/<job id>`; the job's folder gets a copy at its end, for the download. A job that
    is resumed begins with the events of the earlier one.
    """

    def __init__(self, resume_from: str = "", aliases: bool = False) -> None:
        super().__init__()
        self.resume_from, self.aliases = resume_from, aliases

    def save(self, fl_ctx: FLContext, shareable: Shareable, record_origin: str) -> None:
        """Write one point, under its earlier names as well if the job wants that."""
        point = AnalyticsData.from_dxo(from_shareable(shareable))
        if point is None or point.tag.startswith(CROSS_SITE_PREFIX):
            return
        super().save(fl_ctx, shareable, record_origin)
        for name in aliases(point.tag, record_origin) if self.aliases else ():
            self.writers_table[record_origin].add_scalar(name, point.value, point.step)

    def initialize(self, fl_ctx: FLContext) -> None:
        """Make the folder of events."""
        self._copy = _run_dir(fl_ctx) / TB_EVENTS
        events = events_of(_root(fl_ctx), fl_ctx.get_job_id())
        self.root_log_dir = str(events)
        events.mkdir(parents=True, exist_ok=True)
        earlier = _earlier(fl_ctx, self.resume_from)
        if earlier and events_of(_root(fl_ctx), self.resume_from).is_dir():
            shutil.copytree(events_of(_root(fl_ctx), self.resume_from), events, dirs_exist_ok=True)

    def finalize(self, fl_ctx: FLContext) -> None:
        """Close the files and copy them."""
        super().finalize(fl_ctx)
        shutil.copytree(str(self.root_log_dir), self._copy, dirs_exist_ok=True)


@entrypoint("JournalReceiver")
class JournalReceiver(_SitePoints):
    """Keeps the sites' training loss in the run's journal, whatever becomes of the tracking servers."""

    def initialize(self, fl_ctx: FLContext) -> None:
        """Open the journal in the job's run folder."""
        self._journal = Journal(_run_dir(fl_ctx))

    def save(self, fl_ctx: FLContext, shareable: Shareable, record_origin: str) -> None:
        """Save one point of a site's training loss; the other metrics come with the site's result."""
        point = AnalyticsData.from_dxo(from_shareable(shareable))
        if point and point.tag == "train_loss" and record_origin != GLOBAL:
            self._journal.write("loss", site=record_origin, step=point.step, value=float(point.value))

    def finalize(self, fl_ctx: FLContext) -> None:
        """Record that the records are complete: NVFlare has only to stop its processes."""
        self._journal.write("closed")


@entrypoint("MLflowReceiver")
class MLflowReceiver(_SitePoints):
    """One MLflow run per job with the global series, and a child run per site.

    NVFlare's receiver blocks the job's start for four minutes when the tracking server is down, then drops
    everything, loses a batch whose delivery fails, and has no global run. Here delivery is a
    thread of its own, with short time-outs and no loss while the job runs.
    """

    def __init__(
        self,
        tracking_uri: str | None = None,
        experiment: str = "pneumonia-fl",
        resume_from: str = "",
        aliases: bool = False,
    ) -> None:
        super().__init__()
        self.tracking_uri = tracking_uri
        self.experiment = experiment
        self.resume_from, self.aliases = resume_from, aliases

    def initialize(self, fl_ctx: FLContext) -> None:
        """Start delivery; returns at once."""
        folder = self._folder = _run_dir(fl_ctx)
        self._meta = fl_ctx.get_prop(ReservedKey.JOB_META) or {}
        # The server's own setting goes before the job's: it alone talks to MLflow.
        remote = tracking_uri() or read_settings(_local(fl_ctx)).tracking_uri or self.tracking_uri
        local = remote is None
        self._sink = MLflowSink(
            uri=sqlite_uri(folder / MLFLOW_DB) if local else str(remote),
            experiment=self.experiment,
            artifacts=(folder / MLFLOW_ARTIFACTS).as_uri() if local else None,
            run_name=str(self._meta.get(JobMetaKey.JOB_NAME, "job")),
            sites=sorted(client.name for client in fl_ctx.get_engine().get_clients()),
            status_file=folder / MLFLOW_STATUS,
            runs=None if local else self._earlier_runs(fl_ctx),
        )
        self._sink.start()

    def save(self, fl_ctx: FLContext, shareable: Shareable, record_origin: str) -> None:
        """Queue one number, under its earlier names as well if the job wants that; MLflow has no series of texts."""
        point = AnalyticsData.from_dxo(from_shareable(shareable))
        if point is None or point.data_type != AnalyticsDataType.SCALAR:
            return
        names = aliases(point.tag, record_origin) if self.aliases else ()
        for name in (point.tag, *names):
            self._sink.put(record_origin, name, float(point.value), point.step or 0)

    def finalize(self, fl_ctx: FLContext) -> None:
        """Deliver the rest within bounded time, and leave word of how it went; then parameters and models."""
        self._sink.close()
        about = properties(self._meta)
        if about.get("form") in ("installed", "shipped"):
            try:
                finish_on_server(about, self._folder)
            except Exception as error:  # the job itself is fine and stays so
                self.log_error(fl_ctx, f"the job's records in MLflow are not complete: {one_line(error)}")

    def _earlier_runs(self, fl_ctx: FLContext) -> dict[str, str] | None:
        earlier = _earlier(fl_ctx, self.resume_from)
        try:
            return read_status(earlier.folder / MLFLOW_STATUS).runs if earlier else None
        except RunError as error:
            self.log_warning(fl_ctx, f"new runs in MLflow: {one_line(error)}")
            return None


def _earlier(fl_ctx: FLContext, resume_from: str) -> JobState | None:
    """Return the state of the job to resume; None without one, or when another user owns it."""
    meta = fl_ctx.get_prop(ReservedKey.JOB_META) or {}
    state = JobState(_root(fl_ctx), resume_from) if resume_from else None
    return state if state and state.belongs_to(meta.get(JobMetaKey.SUBMITTER_NAME.value, "")) else None


def _root(fl_ctx: FLContext) -> Path:
    return Path(fl_ctx.get_engine().get_workspace().get_root_dir())


def _local(fl_ctx: FLContext) -> Path:
    return Path(fl_ctx.get_engine().get_workspace().get_site_config_dir())


def _run_dir(fl_ctx: FLContext) -> Path:
    return Path(fl_ctx.get_engine().get_workspace().get_run_dir(fl_ctx.get_job_id()))
