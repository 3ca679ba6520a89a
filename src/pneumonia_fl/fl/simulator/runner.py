"""NVFlare's simulator, with sites that are forked and called instead of executed and polled."""

import copy
import os
import socket
import sys
import threading
import time
import uuid
from pathlib import Path
from typing import Any

from nvflare.apis.client import Client
from nvflare.apis.fl_constant import RunProcessKey
from nvflare.apis.impl.wf_comm_server import WFCommServer
from nvflare.private.fed.app.simulator.simulator_runner import SimulatorRunner
from nvflare.private.fed.simulator.simulator_const import SimulatorConstants

from pneumonia_fl.config.environment import child_environment
from pneumonia_fl.fl.simulator.failures import SITE_LOST
from pneumonia_fl.fl.simulator.site_process import SiteStart
from pneumonia_fl.fl.simulator.turns import Seat, Turns
from pneumonia_fl.runs.process_group import MARK_WORD
from pneumonia_fl.runs.warm import WarmProcess

LOST_SITE_GRACE = 15.0
"""Seconds that the other sites get to finish what they do when one is gone."""


class WarmSimulator(SimulatorRunner):
    """Runs a job in this process, and each site in one that is forked.

    Args:
        job: folder of the exported job.
        workspace: NVFlare's own folder for this run.
        sites: names of the sites.
        at_once: how many sites may work at the same time.
        mark: by which the sites' processes are found.
        log_config: NVFlare's log configuration.
    """

    def __init__(
        self, job: Path, workspace: Path, sites: tuple[str, ...], at_once: int, mark: str, log_config: str
    ) -> None:
        super().__init__(
            job_folder=str(job),
            workspace=str(workspace),
            clients=",".join(sites),
            threads=len(sites),
            log_config=log_config,
            max_clients=len(sites),
        )
        self._mark, self._in_turns = mark, at_once < len(sites)
        self._turns = Turns(at_once, self._site_ended)
        self._processes: dict[str, WarmProcess] = {}

    def run(self) -> bool:
        """Run the job; returns False when it could not begin."""
        if not self.setup():
            return False
        os.chdir(self.simulator_root)  # the one of this name that we were in has been removed by the setup
        self.create_clients()
        self.server.engine.run_processes[SimulatorConstants.JOB_NAME] = {
            RunProcessKey.JOB_HANDLE: None,
            RunProcessKey.JOB_ID: SimulatorConstants.JOB_NAME,
            RunProcessKey.PARTICIPANTS: self.server.engine.client_manager.clients,
        }
        _after_scheduling(self._turns.call)
        threading.Thread(target=self._have_sites, name="turns", daemon=True).start()
        self.start_server_app(copy.deepcopy(self.args))
        self.deployer.close()
        return True

    def create_client(self, client_name: str) -> None:
        """Register a site; NVFlare would open a connection for each to this very process."""
        self.client_config, self.build_ctx = self.deployer._create_simulator_client_config(
            client_name, self.args
        )
        self.deploy_args = self.args
        client = Client(client_name, str(uuid.uuid4()))
        manager = self.server.client_manager
        manager.clients[client.token] = manager.name_to_clients[client_name] = client
        self.server.tokens[client.token] = self.server.task_meta_info(client_name)

    def _have_sites(self) -> None:
        """Start all sites, and give them turns until the run is over; without them there is none."""
        try:
            self._start_sites()
            self._turns.run()
        except Exception:
            self.logger.exception("the sites cannot be started")
            os._exit(1)

    def _start_sites(self) -> None:
        for client in list(self.server.client_manager.clients.values()):
            ours, theirs = socket.socketpair()
            with theirs:
                process = WarmProcess(
                    "pneumonia_fl.fl.simulator.site_process:main",
                    (self._site(client),),
                    environment=child_environment(),
                    streams={0: theirs.fileno(), 1: 1, 2: 2},
                    words=("pneumonia-fl", "site", "--client", client.name, MARK_WORD, self._mark),
                )
            self._processes[client.name] = process
            self._turns.seat(Seat(client.name, ours, process.sentinel))

    def _site(self, client: Client) -> SiteStart:
        args = copy.deepcopy(self.deploy_args)
        args.workspace = os.path.join(args.workspace, client.name)
        args.client_name, args.token = client.name, client.token
        return SiteStart(
            name=client.name,
            token=client.token,
            root_url=str(self.server.get_cell().get_root_url_for_child()),
            simulator_root=self.simulator_root,
            log_config=self.args.log_config,
            deploy_args=args,
            build_ctx={**self.build_ctx, "client_name": client.name},
            in_turns=self._in_turns,
        )

    def _site_ended(self, site: str) -> None:
        """End this process, and say which site is gone, unless the run is over in a moment anyway."""
        threading.Thread(target=self._give_up, args=[site], name="give up", daemon=True).start()

    def _give_up(self, site: str) -> None:
        """Let the others finish what they do: it is kept with what the run has measured."""
        end = time.monotonic() + LOST_SITE_GRACE
        while self._turns.working and time.monotonic() < end:
            time.sleep(0.1)
        runner: Any = self.server.server_runner
        if runner is not None and runner.status == "done":
            return
        sys.stdout.write(f"{SITE_LOST} {site} {self._processes[site].pid}\n")
        sys.stdout.flush()
        os._exit(1)


def _after_scheduling(call: Any) -> None:
    """Have `call` called after each task that the server's workflow has for the sites."""
    schedule = WFCommServer._schedule_task

    def scheduled(*args: Any, **kwargs: Any) -> None:
        schedule(*args, **kwargs)
        call()

    WFCommServer._schedule_task = scheduled
