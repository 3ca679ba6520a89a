"""The process from which others are forked: Python's own fork server, as long-lived programs need it.

`import torch` takes seconds, and each site of a federation would pay for it. This server pays once: it imports what all
of them need, stays single-threaded, opens no file and computes nothing.
"""

import atexit
import contextlib
import importlib
import multiprocessing
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from multiprocessing import forkserver, resource_tracker, util
from pathlib import Path
from typing import Any

from pneumonia_fl.runs.processes.title import show_as

NVIDIA_DEVICE = Path("/dev/nvidiactl")
ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1"}
"""For the fork server: NumPy's library would start its threads when it is imported."""
TITLE_ROOM = " " * 1500
"""At the end of the fork server's command line: that of a process that is forked from it can be no longer."""
STOCK, OURS = "multiprocessing.forkserver import main", f"{__name__} import serve as main"
"""In the line of Python that a fork server runs."""
NOT_FOR_SERVER = {signal.SIGTERM}
"""Signals that a fork server does not take, and its children do."""
GONE_SECONDS = 0.5
"""How long a process takes to end once its files are closed."""
_starting = threading.Lock()


def can_fork() -> bool:
    """Return True where processes are forked; False: each imports its modules anew."""
    return sys.platform == "linux" and not NVIDIA_DEVICE.exists()


def warm_up(modules: Sequence[str], environment: Mapping[str, str]) -> None:
    """Start the fork server of this process unless it lives; returns at once, before it has imported `modules`.

    Args:
        modules: what it imports, and with `module:function` calls; a module that cannot be imported is left to those
            that need it.
        environment: all of its environment, also when it is started again: what libraries read when they are loaded,
            for example how many threads OpenMP may use. /proc shows it for every process that is forked from it, which
            gets its own: no secrets.
    """
    if can_fork() and not is_forked():
        forkserver.set_forkserver_preload(list(modules))
        given = {**environment, **ONE_THREAD}
        server: Any = forkserver._forkserver
        server.ensure_running = lambda: _ensure_running(given)
        server.ensure_running()
        atexit.unregister(_end_fork_server)
        atexit.register(_end_fork_server)


def serve(listener: int, alive: int, names: Sequence[str], **options: Any) -> None:
    """Be a fork server, say so in `ps`, and remove the folder of the socket when the process that started it is gone.

    That may have had no time for it. Asked to end (SIGTERM) together with all others, it waits for them.
    """
    starter = os.getppid()
    show_as(["pneumonia-fl", "fork", "server"])
    signal.pthread_sigmask(signal.SIG_BLOCK, NOT_FOR_SERVER)
    with socket.socket(fileno=os.dup(listener)) as copy:
        folder = Path(copy.getsockname()).parent
    try:
        _load(names)
        forkserver.main(listener, alive, [], **options)
    finally:
        deadline = time.monotonic() + GONE_SECONDS
        while os.getppid() == starter and time.monotonic() < deadline:
            time.sleep(GONE_SECONDS / 50)
        if os.getppid() != starter:
            shutil.rmtree(folder, ignore_errors=True)


def _load(names: Sequence[str]) -> None:
    for name in names:
        module, _, function = name.partition(":")
        with contextlib.suppress(ImportError):
            loaded = importlib.import_module(module)
            if function:
                getattr(loaded, function)()


def is_forked() -> bool:
    """Return True in a process that was forked from a fork server: what it starts may be forked from it as well."""
    return forkserver.get_inherited_fds() is not None


def _ensure_running(environment: Mapping[str, str]) -> None:
    """Start the fork server unless it lives. `multiprocessing` would hand on all of this process's environment."""

    def spawn(path: bytes, args: Sequence[Any], passfds: Sequence[int]) -> int:
        command = [os.fsdecode(word).replace(STOCK, OURS) for word in (path, *args[1:])]
        process = subprocess.Popen([*command, TITLE_ROOM], pass_fds=passfds, env=environment)
        process.returncode = 0  # `multiprocessing` waits for it
        return process.pid

    with _starting:
        stock, util.spawnv_passfds = util.spawnv_passfds, spawn
        try:
            forkserver.ForkServer.ensure_running(forkserver._forkserver)
        finally:
            util.spawnv_passfds = stock


def _end_fork_server() -> None:
    """End what `multiprocessing` keeps for this process, and wait for it: with the process, all of it is gone."""
    server: Any = forkserver._forkserver
    if server._forkserver_pid is not None:
        os.kill(server._forkserver_pid, signal.SIGKILL)  # what it has forked is killed by that
        server._stop()
    tracker: Any = resource_tracker._resource_tracker
    tracker._stop()


def share_fork_server() -> None:
    """Let this process start others, from the same fork server, and hold nothing that keeps that alive.

    Python's fork server (3.11 to 3.14) is made for a tree in which everybody keeps it alive, and a child starts
    another fork server. Here it has to end with the process that called `warm_up`.
    """
    multiprocessing.current_process().daemon = False
    server: Any = forkserver._forkserver
    if server._forkserver_alive_fd is not None:
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, server._forkserver_alive_fd)
        os.close(nothing)
        server.ensure_running = lambda: None
