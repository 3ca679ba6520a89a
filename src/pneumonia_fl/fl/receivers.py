"""Server-side receivers of metrics: journal, TensorBoard, MLflow.

Sites' points arrive as federation events; the server's own events carry the pooled global series, which all
receivers file under the name `global`.
"""

from pathlib import Path

from nvflare.apis.analytix import ANALYTIC_EVENT_TYPE, AnalyticsData
from nvflare.apis.dxo import from_shareable
from nvflare.apis.fl_constant import EventScope, FLContextKey, ReservedKey
from nvflare.apis.fl_context import FLContext
from nvflare.apis.job_def import JobMetaKey
from nvflare.apis.shareable import Shareable
from nvflare.app_common.widgets.streaming import AnalyticsReceiver
from nvflare.app_opt.tracking.tb.tb_receiver import TBAnalyticsReceiver

from pneumonia_fl.fl.mlflow_sink import MLflowSink
from pneumonia_fl.journal import Journal
from pneumonia_fl.runs import GLOBAL, MLFLOW_ARTIFACTS, MLFLOW_DB, MLFLOW_STATUS

EVENTS = [ANALYTIC_EVENT_TYPE, f"fed.{ANALYTIC_EVENT_TYPE}"]


class _GlobalOrigin:
    """Names the server's own points `global` instead of `server` or `simulator_server`."""

    def _get_record_origin(self, fl_ctx: FLContext, data: Shareable) -> str | None:
        if fl_ctx.get_prop(FLContextKey.EVENT_SCOPE) != EventScope.FEDERATION:
            return GLOBAL
        origin = data.get_peer_prop(ReservedKey.IDENTITY_NAME, None)
        return str(origin) if origin else None


class TensorBoardReceiver(_GlobalOrigin, TBAnalyticsReceiver):
    """NVFlare's TensorBoard receiver: `tb_events/<site>` and `tb_events/global`."""

    def __init__(self) -> None:
        super().__init__(events=EVENTS)


class JournalReceiver(_GlobalOrigin, AnalyticsReceiver):
    """Keeps the sites' training loss in the run's journal, whatever becomes of the tracking servers."""

    def __init__(self) -> None:
        super().__init__(events=EVENTS)

    def initialize(self, fl_ctx: FLContext) -> None:
        """Open the journal in the job's run folder."""
        self._journal = Journal(_run_dir(fl_ctx))

    def save(self, fl_ctx: FLContext, shareable: Shareable, record_origin: str) -> None:
        """Keep one point of a site's training loss; the other metrics come with the site's result."""
        point = AnalyticsData.from_dxo(from_shareable(shareable))
        if point and point.tag == "train_loss" and record_origin != GLOBAL:
            self._journal.write("loss", site=record_origin, step=point.step, value=float(point.value))

    def finalize(self, fl_ctx: FLContext) -> None:
        """Say that the records are complete: NVFlare has nothing left to do but to stop its processes."""
        self._journal.write("closed")


class MLflowReceiver(_GlobalOrigin, AnalyticsReceiver):
    """One MLflow run per job with the global series, and a child run per site.

    NVFlare's receiver blocks the job's start for four minutes when the tracking server is down, then drops
    everything, loses a batch whose delivery fails, and has no global run (NVFLARE-2.9 §3). Here delivery is a
    thread of its own, with short time-outs and no loss while the job runs.
    """

    def __init__(self, tracking_uri: str | None = None, experiment: str = "pneumonia-fl") -> None:
        super().__init__(events=EVENTS)
        self.tracking_uri = tracking_uri
        self.experiment = experiment

    def initialize(self, fl_ctx: FLContext) -> None:
        """Start delivery; returns at once."""
        folder = _run_dir(fl_ctx)
        local = self.tracking_uri is None
        self._sink = MLflowSink(
            uri=f"sqlite:///{folder / MLFLOW_DB}" if local else str(self.tracking_uri),
            experiment=self.experiment,
            artifacts=(folder / MLFLOW_ARTIFACTS).as_uri() if local else None,
            run_name=str((fl_ctx.get_prop(ReservedKey.JOB_META) or {}).get(JobMetaKey.JOB_NAME, "job")),
            sites=sorted(client.name for client in fl_ctx.get_engine().get_clients()),
            status_file=folder / MLFLOW_STATUS,
        )
        self._sink.start()

    def save(self, fl_ctx: FLContext, shareable: Shareable, record_origin: str) -> None:
        """Queue one point."""
        point = AnalyticsData.from_dxo(from_shareable(shareable))
        if point:
            self._sink.put(record_origin, point.tag, float(point.value), point.step or 0)

    def finalize(self, fl_ctx: FLContext) -> None:
        """Deliver the rest within bounded time, and leave word of how it went."""
        self._sink.close()


def _run_dir(fl_ctx: FLContext) -> Path:
    return Path(fl_ctx.get_engine().get_workspace().get_run_dir(fl_ctx.get_job_id()))
