"""Reading how a service's start went from what it has printed."""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

import psutil

from pneumonia_fl.fl.kit.grpc_proxy import proxy_for
from pneumonia_fl.fl.kit.nvflare_log import (
    GAVE_UP,
    NO_CONNECTION,
    READY,
    attempts,
    last_error,
    last_words,
    read,
)
from pneumonia_fl.fl.services.participant import Service


@dataclass(frozen=True)
class Startup:
    """Startup progress of a service."""

    ready: bool
    """Server: it serves; site: it is registered."""
    died: bool
    """Its process has ended at least once since it was started."""
    error: str
    """The last error that it printed, else what keeps it waiting."""


def read_startup(service: Service) -> Startup:
    """Read the startup log; without one, nothing is known."""
    text = read(service.startup_log)
    starts = attempts(text)
    current = starts[-1] if starts else ""
    died = len(starts) > 1 or GAVE_UP in text or not _lives(service, current)
    return Startup(
        ready=READY[service.kit.kind] in current,
        died=died,
        error=last_error(text) or (died and last_words(text)) or _obstacle(service, text),
    )


def _lives(service: Service, current: str) -> bool:
    """Return True when the process that the log names, or the loop that restarts it, lives."""
    if started := re.match(r"\d+\n", current):
        return _is_process(int(started[0]))
    return service.starting() or service.running()


def _is_process(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def _obstacle(service: Service, text: str) -> str:
    kit = service.kit
    what = f"no connection to {kit.host}:{kit.port}" if NO_CONNECTION in text else "no error so far"
    if proxy := proxy_for(kit.host):
        what = f"{what}, through the proxy {proxy} that {proxy.variable} names; {proxy.cure(kit.host)}"
    return f"{what}; `pneumonia-fl doctor {shlex.quote(str(kit.folder))}` may know why"


def rotate(log: Path) -> None:
    """Rename the last start's log to `NAME.1`, and begin a new one."""
    if log.exists():
        log.replace(log.with_name(f"{log.name}.1"))
    log.touch()
