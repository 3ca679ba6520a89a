"""Reading how a participant's start went from what it has printed."""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

import psutil

from pneumonia_fl.fl.kit.grpc_proxy import proxy_for
from pneumonia_fl.fl.services.participant import Participant

ATTEMPT = "new pid "
"""NVFlare's restart loop prints it each time it starts the server or site."""
GAVE_UP = "System is in trouble"
CHATTER = (ATTEMPT, GAVE_UP, "WORKSPACE set to", "PYTHONPATH is", "start fl because", "Gracefully shutdown")
"""What the loop itself says."""
TOO_EARLY = "RuntimeError: Login failed."
"""NVFlare's server opens its port a tenth of a second before it can check anybody; the loop starts that site again."""
READY = {"server": "Server started", "site": "Successfully registered client:"}
NO_CONNECTION = "Not Connected] is closed"
_LOGGED = re.compile(r" - (?:ERROR|CRITICAL) - (?:\S* - )?(?P<text>.+)")
_RAISED = re.compile(r"(?P<text>[\w.]*(?:Error|Exception|NotAuthenticated)\b: .+)")


@dataclass(frozen=True)
class Startup:
    """How far a participant has come."""

    ready: bool
    """Server: it serves; site: it is registered."""
    died: bool
    """Its process has ended at least once since it was started."""
    error: str
    """The last error that it printed, else what keeps it waiting."""


def read_startup(participant: Participant) -> Startup:
    """What the startup log says; nothing is known before there is one."""
    text = _read(participant.startup_log)
    attempts = text.split(ATTEMPT)[1:]
    if attempts and TOO_EARLY in attempts[0]:
        del attempts[0]
    current = attempts[-1] if attempts else ""
    died = len(attempts) > 1 or GAVE_UP in text or not _lives(participant, current)
    return Startup(
        ready=READY[participant.kit.kind] in current,
        died=died,
        error=last_error(text) or (died and last_words(text)) or _obstacle(participant, text),
    )


def _lives(participant: Participant, current: str) -> bool:
    """Whether the process that the log says was started, or the loop that is to start one, is there."""
    if started := re.match(r"\d+\n", current):
        return _is_process(int(started[0]))
    return participant.starting() or participant.running()


def _is_process(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def last_words(text: str) -> str:
    """The last line of a log that says more than what NVFlare's restart loop does; "" when there is none."""
    said = [line.strip() for line in text.splitlines() if not line.startswith(CHATTER)]
    return next((line for line in reversed(said) if line), "")


def last_error(text: str) -> str:
    """The last error in a log, without its time and origin; "" when there is none."""
    for line in reversed(text.splitlines()):
        if found := _LOGGED.search(line) or _RAISED.match(line):
            return found["text"].strip()
    return ""


def _obstacle(participant: Participant, text: str) -> str:
    kit = participant.kit
    what = f"no connection to {kit.host}:{kit.port}" if NO_CONNECTION in text else "no error so far"
    if proxy := proxy_for(kit.host):
        what = f"{what}, through the proxy {proxy} that {proxy.variable} names; {proxy.cure(kit.host)}"
    return f"{what}; `pneumonia-fl doctor {shlex.quote(str(kit.folder))}` may know why"


def rotate(log: Path) -> None:
    """Keep the last start's log as `NAME.1`, and begin a new one."""
    if log.exists():
        log.replace(log.with_name(f"{log.name}.1"))
    log.touch()


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return ""
