"""Finding and ending every process of one run.

NVFlare starts its processes in sessions of their own, so that neither a process group nor the tree reaches them
all once a parent is gone. A mark in the environment does: children inherit it. A process that was forked from a warm
one shows that one's environment; it has its mark in its command line.
"""

import contextlib
import os
import subprocess
import uuid
from collections.abc import Callable, Iterable, Iterator
from typing import IO

import psutil

from pneumonia_fl.config.environment import RUN_VARIABLE, child_environment

RUN_MARK = RUN_VARIABLE
MARK_WORD = "--mark"
"""In a command line, the word before the mark."""
TERM_SECONDS = 5.0


def marked_processes(*marks: str) -> Iterator[psutil.Process]:
    """Yield the living processes, but this one, whose environment or command line carries one of `marks`."""
    ends = tuple(f" {MARK_WORD} {mark}" for mark in marks)
    for process in psutil.process_iter():
        try:
            if process.pid == os.getpid():
                continue
            marked = process.environ().get(RUN_MARK) in marks or _line(process).endswith(ends)
            if marked and process.status() != psutil.STATUS_ZOMBIE:
                yield process
        except (psutil.Error, OSError):
            continue


def _line(process: psutil.Process) -> str:
    """Return its command line as one text; that of a forked process ends with empty words."""
    return " ".join(process.cmdline()).rstrip()


def end_marked(*marks: str) -> None:
    """End all processes of these runs: politely, then for good."""
    end_all(lambda: marked_processes(*marks))


def end_all(living: Callable[[], Iterable[psutil.Process]]) -> None:
    """End all processes that `living` finds: politely, then for good."""
    processes = list(living())
    for process in processes:
        _quietly(process.terminate)
    psutil.wait_procs(processes, timeout=TERM_SECONDS)
    # A process may have been born in between: ask again for who is left.
    for process in list(living()):
        _quietly(process.kill)


def run_until_stopped(
    command: list[str], started: Callable[["subprocess.Popen[bytes]"], None], log: IO[bytes], **values: str
) -> int:
    """Run a server in the foreground; when it ends or we are stopped, nothing that it started stays behind.

    (MLflow's server leaves its job runners running when it is ended.)

    Args:
        command: what to run.
        started: called once the process is there; what it raises ends the process.
        log: gets what it prints.
        values: variables on top of this process's environment.
    """
    mark = uuid.uuid4().hex
    try:
        environment = child_environment(**values, **{RUN_MARK: mark})
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
        started(process)
        return process.wait()
    finally:
        end_marked(mark)


def kill_marked(*marks: str) -> None:
    """End all processes of these runs for good, and wait until they are gone."""
    processes = list(marked_processes(*marks))
    for process in processes:
        _quietly(process.kill)
    psutil.wait_procs(processes, timeout=TERM_SECONDS)


def _quietly(action: Callable[[], None]) -> None:
    """Run an action; ignore that a process is gone already."""
    with contextlib.suppress(psutil.Error):
        action()
