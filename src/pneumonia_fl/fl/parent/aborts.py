"""Record who aborts a job, and stop its rounds at once.

NVFlare 2.9 first tells the sites and waits 2 s for them, in which rounds continue, then the job; it records no user's
name.
"""

from typing import Any

from nvflare.apis.fl_constant import AdminCommandNames
from nvflare.apis.job_def import JobMetaKey
from nvflare.apis.shareable import Shareable
from nvflare.fuel.hci.conn import Connection
from nvflare.fuel.hci.server.constants import ConnProps
from nvflare.fuel.hci.server.reg import CommandFilter
from nvflare.private.fed.server.job_cmds import JobCommandModule

from pneumonia_fl.fl.protocol.messages import ABORT_KEY


class NoteAborts(CommandFilter):
    """Stands behind the filter that asks for rights, and looks at commands that may be carried out."""

    def pre_command(self, conn: Connection, args: list[str]) -> bool:
        """Record an abort; it is carried out in any case."""
        if conn.get_prop(ConnProps.CMD_ENTRY).name == AdminCommandNames.ABORT_JOB:
            user = str(conn.get_prop(ConnProps.USER_NAME, ""))
            note_abort(conn.app_ctx, str(conn.get_prop(JobCommandModule.JOB_ID)), user)
        return True


def note_abort(engine: Any, job_id: str, user: str) -> None:
    """Write into the meta of a job that has not ended who ends it, and tell its process."""
    with engine.new_context() as fl_ctx:
        job = engine.job_def_manager.get_job(job_id, fl_ctx)
        if job is None or str(job.meta.get(JobMetaKey.STATUS)).startswith("FINISHED"):
            return
        engine.job_def_manager.update_meta(job_id, {ABORT_KEY: {"by": user}}, fl_ctx)
    if job_id in engine.run_processes:
        # Without waiting for an answer: NVFlare asks once more when it has told the sites.
        engine.send_command_to_child_runner_process(
            job_id, AdminCommandNames.ABORT, Shareable(), timeout=0.0, optional=True
        )
