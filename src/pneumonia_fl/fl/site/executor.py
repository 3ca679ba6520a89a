"""The part of NVFlare that runs the training at a site: a process of its own, started with a fixed command.

NVFlare's `ClientAPIExecutor` takes its command from the job, so that whoever may submit a job could run anything at
a site that allows that class. This one takes settings and nothing else; it is what a strict site allows.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

from nvflare.apis.event_type import EventType
from nvflare.apis.fl_constant import FLContextKey, ReturnCode
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable
from nvflare.apis.signal import Signal
from nvflare.apis.workspace import Workspace
from nvflare.app_common.executors.client_api_executor import ClientAPIExecutor
from nvflare.client.config import ExchangeFormat

from pneumonia_fl.config.environment import (
    SiteTracking,
    keep_model,
    opt_out_of_evaluations,
    set_site_defaults,
)
from pneumonia_fl.fl.entrypoints import entrypoint
from pneumonia_fl.fl.kit.startup_kit import SITE_STATE_FOLDER, read_settings
from pneumonia_fl.fl.site.quick_start import wait_as_ever, wait_briefly
from pneumonia_fl.fl.site.trainer_process import MODULE, fork_trainers
from pneumonia_fl.runs.processes.fork_server import is_forked

TRAINER_DIED = 75
"""Exit code of a site's job process whose trainer is gone; `SiteJobLauncher` starts both again."""
SHUTDOWN_SECONDS = 5.0
"""How long a trainer gets to end by itself when the job is over, and again before it is killed."""


@entrypoint("Trainer")
class TrainerExecutor(ClientAPIExecutor):
    """Runs `pneumonia_fl.fl.site.client` beside the job process, so that a crash there takes nothing down with it.

    Args:
        settings: the job's settings for its sites, as JSON; the trainer checks them.
        result_timeout: seconds that a task may take before the trainer counts as stuck and is started again.
    """

    def __init__(self, settings: dict[str, Any], result_timeout: float) -> None:
        self.settings, self.result_timeout = settings, result_timeout
        if is_forked():
            wait_briefly()
        super().__init__(
            execution_mode="external_process",
            command=[sys.executable, "-m", MODULE, json.dumps(settings)],
            params_exchange_format=ExchangeFormat.PYTORCH,
            result_wait_timeout=result_timeout,
            shutdown_timeout=SHUTDOWN_SECONDS,
            stop_grace_period=SHUTDOWN_SECONDS,
        )

    @staticmethod
    def _requires_materialized_result(task_name: str, fl_ctx: FLContext) -> bool:
        """Make the job process receive a result immediately.

        By default the server fetches it from the trainer, which waits for that; when the round has closed in the
        meantime it is not fetched, and the trainer would wait for many rounds.
        """
        return True

    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        """Start the trainer with the site's own settings; without one, this process is of no use."""
        if event_type == EventType.START_RUN:
            workspace: Workspace = fl_ctx.get_prop(FLContextKey.WORKSPACE_OBJECT)
            own = read_settings(Path(workspace.get_site_config_dir()))
            kit = Path(workspace.get_root_dir())
            # A relative folder counts from the kit, wherever this process runs.
            data = own.data and kit / own.data
            site, state = fl_ctx.get_identity_name(), kit / SITE_STATE_FOLDER
            tracking = SiteTracking(own.tracking, own.tracking_uri)
            set_site_defaults(site, data, own.threads, state, own.limits, tracking)
            if not own.share_local_model:
                keep_model(site)
            if not own.join_evaluations:
                opt_out_of_evaluations(site)
            fork_trainers()
        super().handle_event(event_type, fl_ctx)
        if event_type == EventType.START_RUN:
            wait_as_ever()
            if self._backend is None:
                os._exit(TRAINER_DIED)

    def execute(
        self, task_name: str, shareable: Shareable, fl_ctx: FLContext, abort_signal: Signal
    ) -> Shareable:
        """Have the trainer do the task. After its death start it again: the server sends the task again."""
        result = super().execute(task_name, shareable, fl_ctx, abort_signal)
        if result.get_return_code() == ReturnCode.EXECUTION_EXCEPTION and not abort_signal.triggered:
            self.log_error(fl_ctx, "the training process died; starting it again")
            backend = self._backend
            if backend is not None:
                backend.finalize(fl_ctx)
            os._exit(TRAINER_DIED)
        return result
