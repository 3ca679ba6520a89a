"""Starts the job processes of server and sites, told only what they need; at a site again when they are killed.

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
from collections.abc import Callable

from nvflare.apis.fl_constant import FLContextKey, JobConstants
from nvflare.apis.fl_context import FLContext
from nvflare.apis.job_launcher_spec import JobHandleSpec, JobProcessArgs, JobReturnCode
from nvflare.app_common.job_launcher.client_process_launcher import ClientProcessJobLauncher
from nvflare.app_common.job_launcher.process_launcher import ProcessHandle, ProcessJobLauncher
from nvflare.app_common.job_launcher.server_process_launcher import ServerProcessJobLauncher
from nvflare.utils.job_launcher_utils import get_client_job_args, get_credential_env, get_server_job_args
from nvflare.utils.process_utils import spawn_process

from pneumonia_fl.config.environment import SERVER_JOB_VARIABLES, SITE_JOB_VARIABLES, named_environment
from pneumonia_fl.fl.entrypoints import MODULE
from pneumonia_fl.fl.kit.start import needs_us
from pneumonia_fl.fl.site.executor import TRAINER_DIED

MAX_RESTARTS = 5
"""Per job; a site whose training dies again and again has a problem that a restart does not solve."""

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

    def launch_job(self, job_meta: dict[str, object], fl_ctx: FLContext) -> JobHandleSpec:
        """Start the job's process."""
        words = [sys.executable, *self._arguments(fl_ctx)]
        if needs_us(words):
            words.insert(words.index("-m") + 1, MODULE)
        return ProcessHandle(process_adapter=spawn_process(words, self._environment(job_meta, fl_ctx)))

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
        if code := workspace.get_app_custom_dir(job_meta[JobConstants.JOB_ID]):
            environment["PYTHONPATH"] = os.pathsep.join([code, *filter(None, sys.path)])
        environment.update(get_credential_env(fl_ctx.get_prop(FLContextKey.JOB_PROCESS_ARGS) or {}))
        return environment


class ServerJobLauncher(JobLauncher, ServerProcessJobLauncher):
    """Starts a server's job processes."""

    names = SERVER_JOB_VARIABLES
    arguments = tuple(get_server_job_args())


class SiteJobLauncher(JobLauncher, ClientProcessJobLauncher):
    """Starts a site's job processes, and starts them again when they die."""

    names = SITE_JOB_VARIABLES
    arguments = tuple(get_client_job_args())

    def launch_job(self, job_meta: dict[str, object], fl_ctx: FLContext) -> JobHandleSpec:
        """Start the job's process and watch over it."""
        launch = super().launch_job
        return RestartingHandle(lambda: launch(job_meta, fl_ctx))


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
