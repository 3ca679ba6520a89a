"""Lines in the server's audit log for what it refused; stock NVFlare 2.9 writes none of them.

NVFlare's `audit.log` names the admin commands that were let through (`fuel/hci/server/audit.py` comes after the
filter that refuses) and the names under which somebody tried to log in, without the outcome. Refused commands, logins,
registrations, deployments and TLS handshakes leave nothing there. The lines here say who, what, and why.
"""

import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nvflare.apis.event_type import EventType
from nvflare.apis.fl_component import FLComponent
from nvflare.apis.fl_constant import FLContextKey
from nvflare.apis.fl_context import FLContext
from nvflare.apis.job_def import JobMetaKey

from pneumonia_fl.fl.parent import tls_handshakes as handshakes
from pneumonia_fl.fl.parent.audit_log import install, tell_refusal
from pneumonia_fl.fl.parent.commands import watch_commands

STDERR = 2
OK_DETAIL = ": OK"
HEARD = {
    "nvflare.private.fed.server.client_manager.ClientManager": (
        "failed to verify client identity",
        "login_client failed",
        "missing client cert",
        "missing signature",
        "payload must be",
        "Reject disabled client",
        "Maximum number of clients reached",
    ),
    "nvflare.private.fed.server.fed_server.FederatedServer": ("unauthenticated msg",),
    "nvflare.fuel.f3.sfm.conn_manager": ("claimed endpoint",),
}
"""Where NVFlare says that it does not let a site or a person in, and how: for that there are no events."""


class RefusalLog(FLComponent):
    """A component of the server's `local/resources.json`."""

    def __init__(self) -> None:
        super().__init__()
        install()
        watch_commands()
        self._registering = threading.local()
        self._told = ""

    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        """Begin with the server; look at registrations and at jobs that are being started."""
        if event_type == EventType.SYSTEM_START:
            self._begin(fl_ctx)
        elif event_type == EventType.CLIENT_REGISTER_RECEIVED:
            peer = fl_ctx.get_peer_context()
            self._registering.name = peer.get_identity_name() if peer else ""
        elif event_type == EventType.CLIENT_REGISTER_PROCESSED:
            self._registering.name = ""
        elif event_type in (EventType.JOB_DEPLOYED, EventType.JOB_ABORTED):
            self._tell_deployment(fl_ctx)

    def _begin(self, fl_ctx: FLContext) -> None:
        self._engine: Any = fl_ctx.get_engine()
        watch_handshakes(Path(fl_ctx.get_workspace().get_audit_file_path()).absolute())
        for name, phrases in HEARD.items():
            logging.getLogger(name).addHandler(_Refused(phrases, self._tell_registration))

    def _tell_registration(self, reason: str) -> None:
        """Audit a refused registration, with the connection's owner as user: the request's name is a claim."""
        name = getattr(self._registering, "name", "")
        tell_refusal("", "register", f"as {name}: {reason}" if name else reason)

    def _tell_deployment(self, fl_ctx: FLContext) -> None:
        """Audit a job that a site, or the server itself, refused to deploy."""
        job_id = fl_ctx.get_prop(FLContextKey.CURRENT_JOB_ID)
        if job_id == self._told:
            return  # deployed with refusals, and then aborted
        details = fl_ctx.get_prop(FLContextKey.JOB_DEPLOY_DETAIL) or []
        refusals = [detail for detail in details if not detail.endswith(OK_DETAIL)]
        self._told = job_id if refusals else self._told
        for detail in refusals:
            tell_refusal(self._submitter(job_id, fl_ctx), f"deploy {job_id}", detail)

    def _submitter(self, job_id: str, fl_ctx: FLContext) -> str:
        job = self._engine.job_def_manager.get_job(job_id, fl_ctx)
        return str(job.meta.get(JobMetaKey.SUBMITTER_NAME.value, "")) if job else ""


class _Refused(logging.Handler):
    """Hears what NVFlare's log says of somebody who is not let in."""

    def __init__(self, phrases: tuple[str, ...], tell: Callable[[str], None]) -> None:
        super().__init__(logging.INFO)
        self._phrases, self._tell = phrases, tell

    def emit(self, record: logging.LogRecord) -> None:
        """Forward a log record that is a refusal."""
        message = record.getMessage()
        if any(phrase in message for phrase in self._phrases):
            self._tell(message)


def watch_handshakes(audit_log: Path) -> None:
    """Start a process that reads this one's stderr from now on, and that of its job processes."""
    reader, writer = os.pipe()
    command = [sys.executable, "-m", handshakes.__name__, str(audit_log)]
    subprocess.Popen(command, stdin=reader, stdout=subprocess.DEVNULL)
    os.close(reader)
    os.dup2(writer, STDERR)
    os.close(writer)
