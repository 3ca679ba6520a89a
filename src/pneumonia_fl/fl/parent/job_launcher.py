"""Starts the job processes of server and sites, told only what they need; at a site again when they are killed.

They are forked from a process that has imported PyTorch and NVFlare (`runs/processes/fork_server.py`), which the
server or site starts as soon as it serves or is registered. Where that is not safe, or the job brings its own code, a
new Python is started.

Stock NVFlare 2.9 reports a job process that is gone to the server, which then ends the whole job for everybody
(`fed_server.process_job_failure`). Here the site starts it again; the server sends the task that
was on the way once more. After `MAX_RESTARTS` the site leaves the job, and the others continue.
"""

import logging
import os
import shlex
import signal
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from nvflare.apis.event_type import EventType
from nvflare.apis.fl_constant import FLContextKey, JobConstants
from nvflare.apis.fl_context import FLContext
from nvflare.apis.job_launcher_spec import JobHandleSpec, JobProcessArgs, JobReturnCode
from nvflare.app_common.job_launcher.client_process_launcher import ClientProcessJobLauncher
from nvflare.app_common.job_launcher.process_launcher import ProcessHandle, ProcessJobLauncher
from nvflare.app_common.job_launcher.server_process_launcher import ServerProcessJobLauncher
from nvflare.utils.job_launcher_utils import get_client_job_args, get_credential_env, get_server_job_args
from nvflare.utils.process_utils import ProcessAdapter, spawn_process

from pneumonia_fl.config.environment import (
    PASSIVE_THREADS,
    SERVER_JOB_VARIABLES,
    SITE_JOB_VARIABLES,
    WARM_VARIABLES,
    named_environment,
)
from pneumonia_fl.fl.entrypoints import MODULE
from pneumonia_fl.fl.kit.start import needs_us
from pneumonia_fl.fl.site.executor import TRAINER_DIED
from pneumonia_fl.runs.processes.fork_server import can_fork, warm_up
from pneumonia_fl.runs.processes.warm import WarmProcess

WARM_SECONDS = 5.0
"""How long a job waits for a fork server that still imports; the server waits for the site meanwhile."""
MAX_RESTARTS = 5
"""Per job; a site whose training dies again and again has a problem that a restart does not solve."""

BOTH_MODULES = ("torch", "pneumonia_fl.fl.guard.components", "pneumonia_fl.fl.parent.job_launcher")
SERVER_MODULES = (
    *("nvflare.private.fed.app.server.server_train", "nvflare.private.fed.app.server.runner_process"),
    *(*BOTH_MODULES, "pneumonia_fl.fl.parent.job_monitor", "pneumonia_fl.fl.server.controller"),
    *("pneumonia_fl.fl.server.receivers", "pneumonia_fl.fl.server.persistor"),
)
SITE_MODULES = (
    *("nvflare.private.fed.app.client.client_train", "nvflare.private.fed.app.client.worker_process"),
    *(*BOTH_MODULES, "pneumonia_fl.fl.site.executor", "pneumonia_fl.fl.site.client"),
    "torch._dynamo",  # which the first step of an optimiser imports
)
FOLDERS = {JobProcessArgs.WORKSPACE, JobProcessArgs.APP_ROOT, JobProcessArgs.STARTUP_DIR}

log = logging.getLogger("pneumonia_fl.site")


class JobLauncher(ProcessJobLauncher):
    """Starts a job's process with an environment of named variables, and with the job's own code first.

    NVFlare hands on its whole environment, and puts the code that a job ships last on the module path, so that an
    installed package of the same name hides it.
    """

    names: tuple[str, ...]
    """What the process may know of its parent's environment."""
    arguments: tuple[str, ...]
    """What NVFlare says on its command line, in this order."""
    modules: tuple[str, ...]
    """What the fork server imports."""

    def __init__(self) -> None:
        super().__init__()
        self._cold = "no fork server was started"
        """Why jobs are not forked; "" where they are."""
        self._warming: threading.Thread | None = None

    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        """Start the fork server once this server or site is ready: it must not slow that down."""
        super().handle_event(event_type, fl_ctx)
        if event_type == EventType.SYSTEM_START:  # in the parent process only
            self._cold = "the fork server is still importing"
            self._warming = threading.Thread(target=self._warm_up, name="warm-up", daemon=True)
            self._warming.start()

    def _warm_up(self) -> None:
        """Start the fork server, and wait until it answers."""
        if not can_fork():
            self._cold = "this system cannot fork, or has a graphics card"
            return
        try:
            warm_up(self.modules, {**PASSIVE_THREADS, **named_environment(WARM_VARIABLES)})
            WarmProcess("os:getpid", environment={}).wait()
            self._cold = ""
        except (OSError, EOFError) as error:
            self._cold = f"the fork server did not start: {error}"

    def launch_job(self, job_meta: dict[str, object], fl_ctx: FLContext) -> JobHandleSpec:
        """Start the job's process."""
        words = self._arguments(fl_ctx)
        environment = self._environment(job_meta, fl_ctx)
        if needs_us(words):
            words.insert(words.index("-m") + 1, MODULE)
        reason = "there is code on the module path" if _own_code(environment) else self._why_cold()
        if not reason:
            try:
                return ProcessHandle(process_adapter=ForkedJob(words, environment))
            except (OSError, EOFError) as error:
                reason = f"the fork server does not answer: {error}"
        self.logger.info(f"job {job_meta[JobConstants.JOB_ID]}: a new Python is started, since {reason}")
        return ProcessHandle(process_adapter=spawn_process([sys.executable, *words], environment))

    def _why_cold(self) -> str:
        """Return why jobs are not forked, or ""; waits a little for a fork server that imports."""
        if self._warming:
            self._warming.join(WARM_SECONDS)
        return self._cold

    def _arguments(self, fl_ctx: FLContext) -> list[str]:
        """Return NVFlare's one line for Python as arguments, so that a kit's folder may contain a space."""
        given = fl_ctx.get_prop(FLContextKey.JOB_PROCESS_ARGS)
        words: list[str] = []
        for name in self.arguments:
            if name in given:
                option, value = given[name]
                words += [option, value] if name in FOLDERS else shlex.split(f"{option} {value}")
        return words

    def _environment(self, job_meta: dict[str, object], fl_ctx: FLContext) -> dict[str, str]:
        environment = named_environment(self.names)
        workspace = fl_ctx.get_prop(FLContextKey.WORKSPACE_OBJECT)
        code = workspace.get_app_custom_dir(job_meta[JobConstants.JOB_ID])
        if Path(code).is_dir():
            environment["PYTHONPATH"] = os.pathsep.join([code, *filter(None, sys.path)])
        environment.update(get_credential_env(fl_ctx.get_prop(FLContextKey.JOB_PROCESS_ARGS) or {}))
        return environment


class ServerJobLauncher(JobLauncher, ServerProcessJobLauncher):
    """Starts a server's job processes."""

    names = SERVER_JOB_VARIABLES
    modules = SERVER_MODULES
    arguments = tuple(get_server_job_args())


class SiteJobLauncher(JobLauncher, ClientProcessJobLauncher):
    """Starts a site's job processes, and starts them again when they die."""

    names = SITE_JOB_VARIABLES
    modules = SITE_MODULES
    arguments = tuple(get_client_job_args())

    def launch_job(self, job_meta: dict[str, object], fl_ctx: FLContext) -> JobHandleSpec:
        """Start the job's process and watch over it."""
        launch = super().launch_job
        return RestartingHandle(lambda: launch(job_meta, fl_ctx))


class ForkedJob(ProcessAdapter):
    """A job's process that was forked, as NVFlare knows processes.

    Args:
        words: its command line, after `python`.
        environment: all of it.
    """

    def __init__(self, words: Sequence[str], environment: Mapping[str, str]) -> None:
        self._process = WarmProcess(
            "pneumonia_fl.fl.kit.start:run_program",
            (words[words.index("-m") + 1 :],),
            environment=environment,
            folder=Path.cwd(),
            words=[sys.executable, *words],
        )
        super().__init__(self._process)
        self.logger.info(f"Launch the job in process ID: {self.pid} (fork)")

    def terminate(self) -> None:
        """End the process and its group."""
        self._process.kill_group()


class RestartingHandle(JobHandleSpec):
    """A job process that is started again when it is killed or loses its trainer."""

    def __init__(self, launch: Callable[[], ProcessHandle]) -> None:
        super().__init__()
        self._launch = launch
        self._process = launch()
        self._restarts = 0
        self._stopping = self._gave_up = False
        self._lock = threading.Lock()

    def terminate(self) -> None:
        """End the process for good, also one that is being started again."""
        with self._lock:
            self._stopping = True
            self._process.terminate()

    def poll(self) -> object:
        """Return how it ended. A site that gave up gives UNKNOWN, which does not end the job for the others."""
        return JobReturnCode.UNKNOWN if self._gave_up else self._process.poll()

    def wait(self) -> None:
        """Wait until the job is over here."""
        while True:
            self._process.wait()
            code = self._process.adapter.poll()
            if self._stopping or not _died(code):
                return
            if self._restarts >= MAX_RESTARTS:
                self._gave_up = True
                log.error("the job's process died %d times; this site leaves the job", MAX_RESTARTS + 1)
                return
            self._restarts += 1
            log.warning("the job's process ended with %s; starting it again (%d)", code, self._restarts)
            if not self._start_again():
                return

    def _start_again(self) -> bool:
        """Start the process unless the job was ended since it died."""
        with self._lock:
            if not self._stopping:
                self._process = self._launch()
            return not self._stopping


def _died(code: int | None) -> bool:
    """Return True when a signal killed a process (negative, or 128 + signal) or its trainer is gone."""
    return code is not None and (code < 0 or code == TRAINER_DIED or code == 128 + signal.SIGKILL)


def _own_code(environment: Mapping[str, str]) -> list[str]:
    """Return the folders on a process's module path that somebody has put there: code that a new Python would find."""
    return [
        folder
        for folder in environment.get("PYTHONPATH", "").split(os.pathsep)
        if Path(folder or "-").is_dir()
    ]
