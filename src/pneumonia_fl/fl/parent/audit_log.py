"""The audit log of a process: NVFlare's own lines and ours go through one Auditor that cleans every field.

Stock NVFlare 2.9 writes users, actions and messages as they come, line breaks included, so that whoever may say
something can write lines that look like somebody else's.
"""

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nvflare.apis.fl_component import FLComponent
from nvflare.fuel.f3.drivers.driver_params import DriverParams
from nvflare.fuel.sec import audit
from nvflare.fuel.sec.audit import EXCLUDED_ACTIONS, Auditor, AuditService

from pneumonia_fl.fl.parent.audit_lines import UNKNOWN, AuditFiles, Entry, clean
from pneumonia_fl.fl.parent.tls_handshakes import Limiter

log = logging.getLogger("pneumonia_fl.audit")


@dataclass(frozen=True)
class Peer:
    """Peer at the other end of the connection of a request."""

    endpoint: str = ""
    """The name of the cell there; proved by the certificate for sites, never for people's sessions."""
    certificate: str = ""
    """The name in its certificate; empty where there is none, as between the processes of one machine."""


_NOBODY = Peer()
_PEER: ContextVar[Peer] = ContextVar("_PEER", default=_NOBODY)
_LIMITERS: dict[str, Limiter] = {}
"""One for each user, so that one user's flood does not hide the refusals of others."""
MOST_USERS = 1000
_LOCK = threading.Lock()


class CleanAuditor(Auditor):
    """NVFlare's Auditor with clean fields, and with JSON lines beside its log."""

    def __init__(self, audit_file_name: str) -> None:
        # Not NVFlare's: it opens the file with the process's own encoding and mode.
        self.audit_file: AuditFiles | None = AuditFiles(Path(audit_file_name).absolute())
        self._lock = threading.Lock()

    def add_event(self, user: str, action: str, ref: str = "", msg: str = "") -> str:
        """Write a line about a command; return its id, or "" for what NVFlare does not write."""
        if action in EXCLUDED_ACTIONS:
            return ""
        return self._write(Entry(action, _known(user), msg, ref, **vars(_PEER.get())))

    def add_job_event(
        self,
        job_id: str,
        scope_name: str = "",
        task_name: str = "",
        task_id: str = "",
        ref: str = "",
        msg: str = "",
    ) -> str:
        """Write a line about a job's task; return its id."""
        action = f"{task_name}#{task_id}" if task_name else ""
        return self._write(Entry(action, "", msg, ref, scope_name, job_id, **vars(_PEER.get())))

    def _write(self, entry: Entry) -> str:
        with self._lock:
            if self.audit_file is None:  # a request that came while the process ends
                return ""
            self.audit_file.write(entry)
        return entry.event


def install() -> None:
    """Make NVFlare write this process's audit log through `CleanAuditor`.

    For the constructors of components in `local/resources.json`: in a parent process NVFlare makes its Auditor after
    them, in a job process before; in both cases it is not in use yet.
    """
    audit.Auditor = CleanAuditor
    with AuditService._lock:
        stock = AuditService.the_auditor
        if type(stock) is Auditor:
            AuditService.the_auditor = CleanAuditor(stock.audit_file.name)
            stock.close()


def tell_refusal(user: str, action: str, reason: str) -> None:
    """Audit a refusal, unless there was a line like it a moment ago. Never raises.

    `user` is who the session belongs to, never who a request says it is from; "" for whom the connection belongs to.
    """
    user, action, reason = (
        clean(_known(user)) or UNKNOWN,
        clean(action),
        clean(reason, 500),
    )
    with _LOCK:
        more = _limiter(user).admit(f"{action} {reason}", time.monotonic())
    if more is None:
        return
    try:
        AuditService.add_event(user=user, action=action, msg=f"refused: {reason}{more}")
    except OSError as error:
        log.error("not in the audit log (%s): refused %s to %s: %s", error, action, user, reason)


def _known(user: str) -> str:
    """Return the user, or the connection's owner where NVFlare knows none: before a login."""
    return _PEER.get().certificate if user in ("", UNKNOWN) else user


def _limiter(user: str) -> Limiter:
    """Return the limiter of a user; addresses of one machine are one user."""
    name = user.partition(":")[0]
    return _LIMITERS.setdefault(name if len(_LIMITERS) < MOST_USERS or name in _LIMITERS else "", Limiter())


def peer_of(endpoint: str, connection: dict[str, Any]) -> Peer:
    """Identify the peer by the name of its cell and NVFlare's properties of the connection."""
    certificate = connection.get(DriverParams.PEER_CN.value)
    # NVFlare's drivers say "N/A" where they do not know.
    return Peer(endpoint, "" if certificate in (None, "N/A") else certificate)


@contextmanager
def on_behalf_of(peer: Peer) -> Iterator[None]:
    """Write lines with this peer until the end of the block."""
    token = _PEER.set(peer)
    try:
        yield
    finally:
        _PEER.reset(token)


class AuditLog(FLComponent):
    """A component of a site's `local/resources.json`: clean lines, from the first one on."""

    def __init__(self) -> None:
        super().__init__()
        install()
