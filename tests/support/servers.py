"""A controller without NVFlare around it: sites are functions of the test and answer each task at once."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from nvflare.apis.analytix import AnalyticsData
from nvflare.apis.controller_spec import Task
from nvflare.apis.dxo import from_shareable
from nvflare.apis.fl_constant import FLContextKey, ReservedKey
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable
from nvflare.apis.signal import Signal
from nvflare.app_common.abstract.fl_model import FLModel
from nvflare.app_common.abstract.model import ModelLearnableKey, make_model_learnable
from nvflare.app_common.utils.fl_model_utils import FLModelUtils
from nvflare.app_common.workflows.model_controller import ModelController
from torch import nn

from pneumonia_fl.fl.server.controller import PooledFedAvg
from pneumonia_fl.fl.server.tasks.server_job import ServerJob
from pneumonia_fl.fl.server.tasks.site_tasks import TaskLimits
from pneumonia_fl.runs.journal import JOURNAL_NAME, Event, read_journal

SITES = ("a", "b", "c")
Answer = Callable[[str, str, FLModel], FLModel | Shareable | None]
"""From site, task and what was sent to what the site answers; None: it stays silent."""


def silent(site: str, task: str, sent: FLModel) -> None:
    """A site that answers nothing."""


class OneWeight(nn.Module):
    """The smallest model: one number in float64."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones((), dtype=torch.float64))


class Surroundings:
    """What NVFlare is to a controller: engine, communicator and persistor in one.

    Args:
        controller: gets them.
        kit: folder of the server.
        answer: the sites.
        model: the initial global model.
        sites: names of the sites that take part.
        job: NVFlare's id of the job.
    """

    def __init__(
        self,
        controller: ModelController,
        kit: Path,
        answer: Answer = silent,
        model: nn.Module | None = None,
        sites: tuple[str, ...] = SITES,
        job: str = "job",
    ) -> None:
        self.answer, self.model, self.sites = answer, model or OneWeight(), sites
        self.run_dir, self._kit = kit / job, kit
        self.run_dir.mkdir(parents=True, exist_ok=True)
        self.sent: list[tuple[str, list[str], FLModel]] = []
        self.points: dict[str, Any] = {}
        self.saved: list[dict[str, Any]] = []
        self.panics: list[str] = []
        controller.engine = controller.communicator = controller.persistor = self
        controller.fl_ctx, controller.abort_signal = FLContext(), Signal()
        controller.fl_ctx.set_prop(FLContextKey.CURRENT_RUN, job)
        controller.fl_ctx.set_prop(ReservedKey.ENGINE, self, private=True)
        controller.panic = self.panics.append

    def events(self, kind: str) -> list[Event]:
        """The journal's events of one kind; "": all."""
        return [event for event in read_journal(self.run_dir / JOURNAL_NAME) if kind in ("", event["event"])]

    def get_clients(self) -> list[Any]:
        return [SimpleNamespace(name=site) for site in self.sites]

    def get_workspace(self) -> Any:
        return SimpleNamespace(get_root_dir=lambda: str(self._kit), get_run_dir=lambda job: str(self.run_dir))

    def sync_clients_from_main_process(self) -> None:
        """Nothing changes."""

    def fire_event(self, event_type: str, fl_ctx: FLContext) -> None:
        data = fl_ctx.get_prop(FLContextKey.EVENT_DATA)
        if event_type == "analytix_log_stats":
            point = AnalyticsData.from_dxo(from_shareable(data))
            self.points[point.tag] = point.value

    def load(self, fl_ctx: FLContext) -> Any:
        weights = {name: value.numpy().copy() for name, value in self.model.state_dict().items()}
        return make_model_learnable(weights=weights, meta_props={})

    def save(self, learnable: Any, fl_ctx: FLContext) -> None:
        self.saved.append(dict(learnable[ModelLearnableKey.WEIGHTS]))

    def broadcast(self, task: Task, fl_ctx: FLContext, targets: list[str], *_: Any) -> None:
        """Deliver the task to the sites and their answers to the controller."""
        data = FLModelUtils.from_shareable(task.data)
        self.sent.append((task.name, list(targets), data))
        for site in targets:
            said = self.answer(site, task.name, data)
            if said is not None:
                deliver(task, site, said)

    def get_num_standing_tasks(self) -> int:
        return 0

    def cancel_all_tasks(self, *_: Any) -> None:
        """All tasks are over."""


def deliver(task: Task, site: str, said: FLModel | Shareable) -> None:
    """Hand one answer to whoever sent the task, as NVFlare does."""
    result = said if isinstance(said, Shareable) else FLModelUtils.to_shareable(said)
    arrived = SimpleNamespace(client=SimpleNamespace(name=site), task=task, result=result)
    task.result_received_cb(client_task=arrived, fl_ctx=FLContext())


def begun(controller: PooledFedAvg, number: int = 0) -> ServerJob:
    """Open a controller's job and its round `number`, in which the initial model is sent; sites have yet to answer."""
    limits = TaskLimits(controller.quorum, 60, 3600, 1800, 0.01)
    controller._job = job = ServerJob(controller, controller.sites, limits, controller.num_rounds)
    controller._compose()
    model = controller.load_model().params
    controller._server.begin_round(model)
    controller.send_candidate("train", model, number, lambda site, result: None)
    return job
