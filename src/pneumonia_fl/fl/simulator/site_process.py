"""The process of one simulated site: NVFlare's own client, which fetches a task each time its bell rings.

NVFlare starts a Python for each site, hands it its settings through a socket and sleeps a second at each step of that.
Here the process is forked from one that has imported everything, and gets its settings as arguments.
"""

import ctypes
import gc
import os
import socket
import sys
from argparse import Namespace
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nvflare.apis.fl_constant import FLContextKey
from nvflare.apis.workspace import Workspace
from nvflare.fuel.hci.server.authz import AuthorizationService
from nvflare.fuel.sec.audit import AuditService
from nvflare.fuel.utils.log_utils import dynamic_log_config
from nvflare.private.fed.app.simulator.simulator_worker import ClientTaskWorker
from nvflare.private.fed.app.utils import init_security_content_service
from nvflare.private.fed.simulator.simulator_audit import SimulatorAuditor
from nvflare.private.fed.simulator.simulator_const import SimulatorConstants
from nvflare.private.fed.utils.fed_utils import (
    custom_fobs_initialize,
    get_simulator_app_root,
)
from nvflare.security.security import EmptyAuthorizer

from pneumonia_fl.fl.simulator import preloaded, prompt_exchange  # noqa: F401 - the first works by being loaded
from pneumonia_fl.fl.simulator.turns import BYTE


@dataclass(frozen=True)
class SiteStart:
    """What NVFlare's client is made of, and where it finds the server."""

    name: str
    token: str
    root_url: str
    simulator_root: str
    log_config: str
    deploy_args: Namespace
    build_ctx: dict[str, Any]
    in_turns: bool
    """Whether this site waits while others work, and has to leave them the memory."""


def main(start: SiteStart) -> None:
    """Take part in the run until the server ends it, or is gone; standard input is the bell."""
    bell = socket.socket(fileno=os.dup(0))
    folder = os.path.join(start.simulator_root, start.name)
    os.chdir(folder)
    prompt_exchange.install()
    _prepare(start, Workspace(root_dir=folder, site_name=start.name))
    worker = ClientTaskWorker()
    arguments = Namespace(
        token=start.token, root_url=start.root_url, parent_url=None, simulator_root=start.simulator_root
    )
    client = worker._create_client(arguments, start.build_ctx, start.deploy_args)
    custom = os.path.join(get_simulator_app_root(start.simulator_root, start.name), "custom")
    if os.path.isdir(custom) and custom not in sys.path:
        sys.path.append(custom)
    worker.create_client_engine(client, start.deploy_args)
    worker.create_client_runner(client)
    _take_turns(client, bell, start.in_turns)
    sys.stdout.flush()
    os._exit(0)  # NVFlare's threads would be waited for


def _prepare(start: SiteStart, workspace: Workspace) -> None:
    """Set up in this process what NVFlare keeps per process: its log, its decomposers, its services."""
    root = workspace.get_root_dir()
    for folder in (workspace.get_startup_kit_dir(), workspace.get_site_config_dir()):
        Path(folder).mkdir(parents=True, exist_ok=True)
    dynamic_log_config(
        config=start.log_config, dir_path=root, reload_path=workspace.get_log_config_file_path()
    )
    custom_fobs_initialize(workspace, job_id=SimulatorConstants.JOB_NAME)
    AuthorizationService.initialize(EmptyAuthorizer())
    AuditService.the_auditor = SimulatorAuditor()
    init_security_content_service(root)


def _take_turns(client: Any, bell: socket.socket, in_turns: bool) -> None:
    """Fetch and do one task per turn."""
    with client.run_manager.new_context() as fl_ctx:
        runner = fl_ctx.get_prop(FLContextKey.RUNNER)
        while bell.recv(len(BYTE)):
            runner.fetch_and_run_one_task(fl_ctx)
            if runner.run_abort_signal.triggered:
                runner.end_run_events_sequence()
                return
            if in_turns:
                _release_memory()
            bell.send(BYTE)


def _release_memory() -> None:
    """Hand what a turn has freed back to the system, which `training/local.py` prevents between steps."""
    gc.collect()
    if sys.platform == "linux" and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)):
        trim(0)
