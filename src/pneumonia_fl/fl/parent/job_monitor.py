"""Keeps jobs and sites together, in the server's main process.

Four things that stock NVFlare 2.9 leaves open (NVFlare issues 5115, 5220):

- a job that was running when the server was killed stays RUNNING and cannot be ended or downloaded;
- a site that was restarted has a new session, and the running job never hears of it again;
- how a job really ended (incomplete, below its quorum) is written nowhere that a person could ask;
- a submitter can write there how the job ended, before it has run.
"""

import shutil
import threading
from pathlib import Path
from typing import Any

from nvflare.apis.event_type import EventType
from nvflare.apis.fl_component import FLComponent
from nvflare.apis.fl_constant import FLContextKey, RunProcessKey, SystemComponents
from nvflare.apis.fl_context import FLContext
from nvflare.apis.job_def import Job, JobMetaKey, RunStatus
from nvflare.apis.job_scheduler_spec import DispatchInfo
from nvflare.private.admin_defs import MsgHeader, ReturnCode
from nvflare.security.logging import secure_format_exception

from pneumonia_fl.fl.protocol.messages import RESULT_KEY, properties
from pneumonia_fl.fl.protocol.submission import keep_submitted
from pneumonia_fl.fl.state.job_state import STATE_FOLDER, JobState
from pneumonia_fl.runs.folder import TB_EVENTS, events_of

LOOK_SECONDS = 1.0
MAX_TRIES = 5
"""How often a site is asked to take up a job again; a site that refuses it will not change its mind."""


class JobMonitor(FLComponent):
    """A component of the server's `local/resources.json`."""

    def __init__(self) -> None:
        super().__init__()
        self._stop = threading.Event()
        self._tries: dict[tuple[str, str], int] = {}
        self._told: set[str] = set()

    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        """Begin with the server, end with it, and look at every job that comes in."""
        if event_type == EventType.SYSTEM_START:
            self._engine: Any = fl_ctx.get_engine()
            self._close_abandoned(fl_ctx)
            threading.Thread(target=self._watch, name="job-keeper", daemon=True).start()
        elif event_type == EventType.SYSTEM_END:
            self._stop.set()
        elif event_type == EventType.JOB_COMPLETED:
            self._tell_rounds(fl_ctx.get_prop(FLContextKey.EVENT_DATA)[JobMetaKey.JOB_ID.value], fl_ctx)
        elif event_type == EventType.SUBMIT_JOB:
            dropped = keep_submitted(fl_ctx.get_prop(FLContextKey.JOB_META))
            if dropped:
                self.log_warning(fl_ctx, f"a new job's meta lost what only the server may say: {dropped}")

    def _close_abandoned(self, fl_ctx: FLContext) -> None:
        """End the jobs that were running when the last server process died, and keep what they had."""
        manager = self._engine.get_component(SystemComponents.JOB_MANAGER)
        workspace = fl_ctx.get_workspace()
        for job in manager.get_jobs_by_status(RunStatus.RUNNING, fl_ctx):
            self._tell_rounds(job.job_id, fl_ctx)
            run_dir = workspace.get_run_dir(job.job_id)
            if Path(run_dir).is_dir():
                events = events_of(Path(workspace.get_root_dir()), job.job_id)
                if events.is_dir():
                    shutil.copytree(events, Path(run_dir) / TB_EVENTS, dirs_exist_ok=True)
                manager.save_workspace(job.job_id, [run_dir], fl_ctx)
                shutil.rmtree(run_dir, ignore_errors=True)
        # NVFlare has this function and never calls it.
        self._engine.job_runner.update_unfinished_jobs(fl_ctx)
        known = {job.job_id for job in manager.get_all_jobs(fl_ctx)}
        for folder in Path(workspace.get_root_dir(), STATE_FOLDER).glob("*"):
            if folder.name not in known:  # the job was deleted
                shutil.rmtree(folder, ignore_errors=True)

    def _watch(self) -> None:
        while not self._stop.wait(LOOK_SECONDS):
            for job_id, process in list(self._engine.run_processes.items()):
                try:
                    self._look_after(job_id, process[RunProcessKey.PARTICIPANTS])
                except Exception as error:  # one job's trouble is not the next one's
                    self.logger.error(f"job {job_id}: {secure_format_exception(error)}")

    def _look_after(self, job_id: str, participants: dict[str, Any]) -> None:
        job = self._engine.job_runner.running_jobs.get(job_id)
        props = properties(job.meta) if job else {}
        if not props:
            return  # not one of ours
        self._tell_result(job_id)
        current = {client.name: client for client in self._engine.get_clients()}
        # Those that take part, and those that the submitter expected but that came too late.
        for name in {client.name for client in participants.values()} | set(props["sites"]):
            client = current.get(name)
            if client is not None and client.token not in participants:
                self._rejoin(job, client, participants)

    def _rejoin(self, job: Job, client: Any, participants: dict[str, Any]) -> None:
        """Let a restarted site resume the job, under its new session."""
        key = (job.job_id, client.token)
        self._tries[key] = self._tries.get(key, 0) + 1
        if self._tries[key] > MAX_TRIES:
            return
        with self._engine.new_context() as fl_ctx:
            problem = self._deploy(job, client, fl_ctx)
            if problem:
                self.log_warning(
                    fl_ctx, f"job {job.job_id}: {client.name} does not take it up again: {problem}"
                )
                return
            # Before the site's process asks the job for work: the job knows a site by its session's token.
            for token in [token for token, old in participants.items() if old.name == client.name]:
                participants.pop(token)
            participants[client.token] = client
            job.meta[JobMetaKey.JOB_CLIENTS] = [other.to_dict() for other in participants.values()]
            self._start(job, client, fl_ctx)
            self.log_info(fl_ctx, f"job {job.job_id}: {client.name} takes it up again")

    def _deploy(self, job: Job, client: Any, fl_ctx: FLContext) -> str:
        """Send the job to the site; returns why the site does not take it, or ""."""
        runner, admin = self._engine.job_runner, self._engine.server.admin_server
        (app_name,) = job.get_deployment()
        message = runner._make_deploy_message(job, job.get_application(app_name, fl_ctx), app_name, fl_ctx)
        reply = admin.send_requests_and_get_reply_dict({client.token: message}, timeout_secs=10)[client.token]
        if reply is None:
            return "no answer"
        return (
            "" if reply.get_header(MsgHeader.RETURN_CODE, ReturnCode.OK) == ReturnCode.OK else str(reply.body)
        )

    def _start(self, job: Job, client: Any, fl_ctx: FLContext) -> None:
        (app_name,) = job.get_deployment()
        needs = job.get_resource_requirements().get(client.name, {})
        enough = self._engine.check_client_resources(job, {client.name: needs}, fl_ctx)
        token = enough.get(client.name, (False, ""))[1]
        self._engine.start_client_job(job, {client.name: DispatchInfo(app_name, needs, token)}, fl_ctx)

    def _tell_result(self, job_id: str) -> None:
        """Write the job's result into its meta, where everybody who may see the job can read it."""
        if job_id in self._told:
            return
        with self._engine.new_context() as fl_ctx:
            state = JobState(Path(fl_ctx.get_workspace().get_root_dir()), job_id)
            result = state.result()
            if result is None:
                return
            manager = self._engine.get_component(SystemComponents.JOB_MANAGER)
            manager.update_meta(job_id, {RESULT_KEY: result}, fl_ctx)
            self._told.add(job_id)
            if result["state"] == "finished":
                state.remove()

    def _tell_rounds(self, job_id: str, fl_ctx: FLContext) -> None:
        """Write the completed rounds of an ended job into its meta, if it did not do so: it may be resumed."""
        self._tell_result(job_id)
        manager = self._engine.get_component(SystemComponents.JOB_MANAGER)
        job = manager.get_job(job_id, fl_ctx)
        if job and properties(job.meta) and RESULT_KEY not in job.meta:
            state = JobState(Path(fl_ctx.get_workspace().get_root_dir()), job_id)
            manager.update_meta(job_id, {RESULT_KEY: {"done": state.rounds()}}, fl_ctx)
