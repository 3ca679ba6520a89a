"""Find the processes of this machine that belong to a kit.

They are told by identity and working directory, not by the place where they were started: a kit that is renamed or
moved while it runs takes its processes with it, and a copy of it has none.
"""

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import psutil

from pneumonia_fl.fl.kit.startup_kit import STARTUP_FILES, Kind, Kit
from pneumonia_fl.inputs.names import JOB_ID
from pneumonia_fl.runs.processes.process_group import RUN_MARK

MARK = "kit:"
LOOP_SCRIPT = "sub_start.sh"
"""NVFlare's restart loop."""
MODULES: dict[Kind, str] = {
    "server": "nvflare.private.fed.app.server.server_train",
    "site": "nvflare.private.fed.app.client.client_train",
}
"""What the process of a server or site runs; it works in the kit's folder."""
LOOP_FILE = "daemon_pid.fl"
"""In a kit: the process id of the restart loop, written by `startup/start.sh`."""
JOB_OPTION = "-n"
"""Precedes the job's id in the command line of NVFlare's job processes."""


@dataclass(frozen=True)
class KitProcess:
    """A process that was started from some kit."""

    process: psutil.Process
    words: list[str]
    """Its command line."""
    home: Path
    """The kit that it works in; the place where that was, when it is gone."""
    started: Path
    """Where the kit lay when it was started."""
    identity: str
    """Of the kit, as `up` knew it; "" when `up` did not start it."""

    @property
    def runs(self) -> Kind | None:
        """Return the kind of NVFlare process, server or site; None for any other."""
        return next((kind for kind, module in MODULES.items() if module in self.words), None)

    @property
    def job(self) -> str:
        """Return the id of the job for which it runs; "" for none."""
        return job_of(self.words)

    @property
    def is_loop(self) -> bool:
        """Return True for the restart loop."""
        return any(word.endswith(LOOP_SCRIPT) for word in self.words)


def job_of(words: list[str]) -> str:
    """Return the id of the job for which NVFlare runs a command line, "" for none."""
    named = words[words.index(JOB_OPTION) + 1] if JOB_OPTION in words[:-1] else ""
    return named if JOB_ID.fullmatch(named) else ""


def identity_of(kit: Kit) -> str:
    """Return what identifies all copies of a kit; "" when its certificate cannot be read."""
    try:
        return sha256(kit.certificate.read_bytes()).hexdigest()[:16]
    except OSError:
        return ""


def mark_of(kit: Kit) -> str:
    """Return the mark in the environment of every process started from a kit (`processes.RUN_MARK`)."""
    return f"{MARK}{kit.folder.resolve()}:{identity_of(kit)}"


def processes_of(kit: Kit, seen: Iterable[KitProcess] | None = None) -> list[KitProcess]:
    """List a kit's living processes, oldest first, with manually started ones and their children.

    Args:
        kit: the kit.
        seen: what `kit_processes` has just found, for many kits; None: look now.
    """
    folder, identity = kit.folder.resolve(), identity_of(kit)
    found = {
        one.process.pid: one
        for one in (kit_processes() if seen is None else seen)
        if one.home == folder or (one.identity == identity != "" and _kit_above(one.home) is None)
    }
    for one in [one for one in found.values() if not one.identity]:
        for child in _children(one.process):
            found.setdefault(child.pid, KitProcess(child, _words(child), folder, folder, ""))
    return sorted(found.values(), key=lambda one: one.process.create_time())


def running_jobs() -> set[str]:
    """Return the ids of all jobs that have a process on this machine, whoever started it."""
    return {job_of(_words(process)) for process in psutil.process_iter()} - {""}


def main_of(kit: Kit, seen: Iterable[KitProcess] | None = None) -> psutil.Process | None:
    """Return the kit's main process: the oldest, or the child of a `timeout` or `nohup`.

    (In a kit that was moved, NVFlare's loop starts others, which end at once.)
    """
    found = [one.process for one in processes_of(kit, seen) if one.runs == kit.kind]
    main = found[0] if found else None
    for one in found[1:]:
        with contextlib.suppress(psutil.Error):
            main = one if main and one.ppid() == main.pid else main
    return main


def kit_processes() -> Iterator[KitProcess]:
    """Yield all living processes of this machine that were started from a kit."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.status() != psutil.STATUS_ZOMBIE and (found := _look_at(process)):
                yield found


def _look_at(process: psutil.Process) -> KitProcess | None:
    words = _words(process)
    marked, _, identity = _mark(process).rpartition(":")
    named = marked.removeprefix(MARK) or _argument(words)
    if not named:
        return None
    by_hand = not marked and any(word.endswith(LOOP_SCRIPT) for word in words)
    # A loop that was started by hand works where the person was; what it guards works in the kit.
    works = [_work(one) for one in (_children(process) if by_hand else [process])]
    homes = [home for folder in works if (home := _kit_above(folder))]
    start = Path(named).resolve()
    return KitProcess(process, words, homes[0] if homes else start, start, identity)


def _mark(process: psutil.Process) -> str:
    """Return a process's mark; "" when it has none, or belongs to another user."""
    with contextlib.suppress(psutil.Error, OSError):
        mark: str = process.environ().get(RUN_MARK, "")
        return mark if mark.startswith(MARK) else ""
    return ""


def _argument(words: list[str]) -> str:
    """Return the kit in a command line of NVFlare: `bash KIT/startup/sub_start.sh`, `python3 -m … -m KIT`."""
    for word in words:
        if word.endswith(f"/startup/{LOOP_SCRIPT}"):
            return str(Path(word).parents[1])
    if words.count("-m") > 1 and any(module in words for module in MODULES.values()):
        return words[len(words) - words[::-1].index("-m")]
    return ""


def _work(process: psutil.Process) -> Path | None:
    """Return its working directory, which follows a renamed folder."""
    with contextlib.suppress(psutil.Error, OSError):
        return Path(process.cwd())
    return None


def _kit_above(folder: Path | None) -> Path | None:
    """Return the kit that a folder is or lies in."""
    if folder is None:
        return None
    for parent in (folder, *folder.parents):
        if any((parent / "startup" / file).is_file() for file in STARTUP_FILES.values()):
            return parent
    return None


def _children(process: psutil.Process) -> list[psutil.Process]:
    try:
        return list(process.children(recursive=True))
    except psutil.Error:
        return []


def _words(process: psutil.Process) -> list[str]:
    """Return its command line. That of a forked process is one text, which the kernel ends with nothing or zeros."""
    try:
        words = process.cmdline()
    except psutil.Error:
        return []
    return words[0].split() if words and not any(words[1:]) else list(words)
