"""Whether the kit runs already: from this folder, or the same identity from another one."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from pneumonia_fl.findings import Finding
from pneumonia_fl.fl.kits import Kit

DAEMON_PID = "daemon_pid.fl"
"""Written by startup/start.sh: the process that keeps NVFlare running."""
MODULES = {
    "server": "nvflare.private.fed.app.server.server_train",
    "site": "nvflare.private.fed.app.client.client_train",
}


@dataclass(frozen=True)
class Running:
    """A process of NVFlare's server or client, and the folder that it works in."""

    pid: int
    folder: Path


def instance(kit: Kit) -> Iterator[Finding]:
    """Judge what `daemon_pid.fl` and the machine's processes say about this kit."""
    if kit.kind == "admin":
        return
    yield from _elsewhere(kit)
    running = processes_of(kit)
    if running:
        yield Finding("ok", f"it runs from this kit, process {running[0].pid}; start.sh starts no second one")
        return
    yield from _pid_file(kit)
    yield Finding("ok", "it does not run from this kit")


def processes_of(kit: Kit) -> list[Running]:
    """The NVFlare server or client processes that run from this kit's folder."""
    folder = kit.folder.resolve()
    return [process for process in _processes(kit) if process.folder == folder]


def started_with(kit: Kit, variable: str) -> str | None:
    """The value of an environment variable in the running kit; None when it is not set or the kit does not run."""
    for running in processes_of(kit):
        with contextlib.suppress(psutil.Error, OSError):
            return psutil.Process(running.pid).environ().get(variable) or None
    return None


def _pid_file(kit: Kit) -> Iterator[Finding]:
    file = kit.folder / DAEMON_PID
    if not file.is_file():
        return
    text = file.read_text(encoding="utf-8", errors="replace").strip()
    pid = int(text) if text.isdecimal() else 0
    if not pid or not psutil.pid_exists(pid):
        yield Finding("warn", f"{file} is left over: its process {text} is gone; start.sh will remove it")
    elif _is_start_script(pid):
        yield Finding("warn", f"start.sh is starting it, process {pid}; look again in some seconds")
    else:
        cure = f"start.sh would not start beside it: remove {file}"
        yield Finding("fail", f"{file} names process {pid}, which is another program; {cure}")


def _is_start_script(pid: int) -> bool:
    return any("sub_start.sh" in word for word in _words(psutil.Process(pid)))


def _elsewhere(kit: Kit) -> Iterator[Finding]:
    """The same identity from another folder: the server would take turns between the two."""
    folder = kit.folder.resolve()
    for process in _processes(kit):
        if process.folder != folder and _same_certificate(kit, process.folder):
            what = f"{kit.name} runs already from {process.folder}, process {process.pid}"
            yield Finding("fail", f"{what}; stop it: it may run once only")


def _same_certificate(kit: Kit, folder: Path) -> bool:
    """Another project may have a participant of the same name, but not with the same certificate."""
    try:
        return (folder / "startup" / kit.certificate.name).read_bytes() == kit.certificate.read_bytes()
    except OSError:  # gone, or another user's kit, which only they can read
        return False


def _processes(kit: Kit) -> list[Running]:
    found: dict[Path, Running] = {}
    for process in psutil.process_iter():
        words = _words(process)
        if MODULES[kit.kind] in words and words.count("-m") > 1:
            folder = Path(words[len(words) - words[::-1].index("-m")]).resolve()
            # The youngest: before it stand those that only started it, such as `timeout` or `nohup`.
            found[folder] = Running(process.pid, folder)
    return list(found.values())


def _words(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []
