"""Write a site's own series: to the server, as the job wants it, or to a folder and an MLflow at home, or to both.

The site's IT decides (`local/pneumonia_fl.yml`), never a job. A site that keeps its series at home still sends, with
every answer, what the model and the pooled metrics are made of (`fl/protocol/site_report.py`).
"""

import contextlib
from pathlib import Path
from typing import Protocol

from nvflare.app_opt.tracking.tb.tb_event_writer import TensorBoardEventWriter
from nvflare.client.tracking import SummaryWriter

from pneumonia_fl.config.environment import SiteTracking
from pneumonia_fl.errors import RunError
from pneumonia_fl.fl.state.site_state import SiteState
from pneumonia_fl.metrics.series import ALIVE
from pneumonia_fl.runs.folder import GLOBAL, MLFLOW_STATUS
from pneumonia_fl.runs.mlflow_files import read_status
from pneumonia_fl.tracking.mlflow_queue import MLflowSink

EXPERIMENT = "pneumonia-fl"
SITE_EVENTS = "tensorboard"
"""In a site's own folder of a job: its TensorBoard events."""


class SeriesWriter(Protocol):
    """Whatever takes the points of a series."""

    def add_scalar(self, tag: str, value: float, step: int) -> None:
        """Record one point."""

    def close(self) -> None:
        """Close the writer when the job is over."""


def series_writers(settings: SiteTracking, name: str, own: SiteState) -> list[SeriesWriter]:
    """Return everything that takes this site's series.

    Args:
        settings: what the site's IT decided.
        name: of the site's run in its own MLflow.
        own: what this site keeps for itself of the job.

    Raises:
        ConfigError: its place is not configured.
    """
    writers: list[SeriesWriter] = [ToServer(whole=settings.where != "site")]
    if settings.where != "server":
        writers.append(EventsAtHome(own.folder / SITE_EVENTS))
        if settings.uri:
            writers.append(MLflowAtHome(settings.uri, name, own.folder))
    return writers


class ToServer:
    """Sends points to the server; without `whole`, a sign of life in the place of each.

    The server ends a job in which no site gives a sign (`stall_timeout`). The sign is always the same point, and the
    server's receivers keep no series of its name.
    """

    def __init__(self, whole: bool) -> None:
        self._writer, self._whole = SummaryWriter(), whole

    def add_scalar(self, tag: str, value: float, step: int) -> None:
        """Send one point."""
        point = (tag, value, step) if self._whole else (ALIVE, 0.0, 0)
        self._writer.add_scalar(*point)

    def close(self) -> None:
        """Close without sending anything."""


class EventsAtHome:
    """TensorBoard events in a folder of the site."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._events = TensorBoardEventWriter(str(folder))

    def add_scalar(self, tag: str, value: float, step: int) -> None:
        """Write one point; at once, since a trainer may be ended at any time."""
        self._events.add_scalar(tag, value, step)
        self._events.flush()

    def close(self) -> None:
        """Close the file."""
        self._events.close()


class MLflowAtHome:
    """A run in the site's own MLflow; one that is away costs nothing but its records."""

    def __init__(self, uri: str, name: str, folder: Path) -> None:
        status, earlier = folder / MLFLOW_STATUS, None
        with contextlib.suppress(RunError):  # a restarted trainer continues its run
            earlier = read_status(status).runs
        self._sink = MLflowSink(uri, EXPERIMENT, None, name, [], status, earlier)
        self._sink.start()

    def add_scalar(self, tag: str, value: float, step: int) -> None:
        """Queue one point."""
        self._sink.put(GLOBAL, tag, value, step)

    def close(self) -> None:
        """Deliver the rest."""
        self._sink.close()
