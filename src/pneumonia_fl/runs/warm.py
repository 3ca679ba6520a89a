"""Processes that start warm: forked from one that has imported PyTorch and NVFlare already.

`import torch` takes seconds, and each site of a federation would pay for it. Python's own fork server pays once: it
imports what all of them need, stays single-threaded, opens no file and computes nothing; each process that is forked
from it has its own memory, environment, working directory, session and streams, as one that was executed, after
milliseconds. Where forking is not safe the same calls execute a new Python instead: systems other than Linux, and
machines with a CUDA device, which must not be initialised before a fork.
"""

import atexit
import contextlib
import ctypes
import gc
import importlib
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from multiprocessing import forkserver, resource_tracker
from multiprocessing.connection import wait
from multiprocessing.context import ForkServerProcess, SpawnProcess
from multiprocessing.process import BaseProcess
from multiprocessing.reduction import DupFd
from pathlib import Path
from types import ModuleType
from typing import Any

from setproctitle import setproctitle

from pneumonia_fl.config.environment import replace_variables, variables

NVIDIA_DEVICE = Path("/dev/nvidiactl")
ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1"}
"""For the fork server: NumPy's library would start its threads when it is imported."""
DEATH_SIGNAL = 1
"""PR_SET_PDEATHSIG of Linux's <sys/prctl.h>."""
UNKNOWN_END = 255
"""What `multiprocessing` gives as exit code when the fork server was killed, and its children with it."""


def can_fork() -> bool:
    """Return True where processes are forked; False: each imports its modules anew."""
    return sys.platform == "linux" and not NVIDIA_DEVICE.exists()


def warm_up(modules: Sequence[str], **environment: str) -> None:
    """Start the fork server of this process unless it lives; returns at once, before it has imported `modules`.

    Args:
        modules: what it imports; a module that cannot be imported is left to those that need it.
        environment: variables on top of this process's, for example how many threads OpenMP may use: what a library
            reads when it is loaded. A process that is forked gets its own; /proc shows these.
    """
    if can_fork():
        forkserver.set_forkserver_preload(list(modules))
        with variables({**ONE_THREAD, **environment}):
            resource_tracker.ensure_running()  # of `multiprocessing`; else it is started with the first process
            forkserver.ensure_running()
        atexit.register(_end_fork_server)


def _end_fork_server() -> None:
    """End what `multiprocessing` keeps for this process, and wait for it: with the process, all of it is gone."""
    server: Any = forkserver._forkserver
    server._stop()  # what it has forked is killed by that
    tracker: Any = resource_tracker._resource_tracker
    tracker._stop()


class WarmProcess:
    """A process that runs one function, with the methods of `subprocess.Popen` that its callers use.

    It leads a session of its own, and is killed when this process ends, however that ends.

    Args:
        function: `package.module:name`; imported in the process itself, after its environment is set.
        arguments: positional, pickled.
        environment: all of its environment.
        folder: where it works.
        streams: its file descriptors, each with one of ours: 0 standard input, else nothing; 1 and 2, else those of
            the process that called `warm_up`.
        words: its command line, as `sys.argv` and `ps` show it.
    """

    def __init__(
        self,
        function: str,
        arguments: tuple[Any, ...] = (),
        *,
        environment: Mapping[str, str],
        folder: Path | None = None,
        streams: Mapping[int, int] = {},
        words: Sequence[str] = (),
    ) -> None:
        kind = ForkServerProcess if can_fork() else SpawnProcess
        self.args = list(words)
        self._process: BaseProcess = kind(
            target=_run,
            args=(function, pickle.dumps(arguments), dict(environment), folder, _Streams(streams), self.args),
            daemon=True,
        )
        with _without_main():
            self._process.start()

    @property
    def pid(self) -> int:
        """Return the process id, which is also that of its session and process group."""
        assert self._process.pid is not None
        return self._process.pid

    @property
    def sentinel(self) -> int:
        """Return a handle for `multiprocessing.connection.wait`: ready when the process has ended."""
        return self._process.sentinel

    @property
    def returncode(self) -> int | None:
        """Return the exit code, negative for a signal; None while it lives."""
        return self.poll()

    def poll(self) -> int | None:
        """Return the exit code; None while it lives."""
        code = self._process.exitcode
        return -signal.SIGKILL if code == UNKNOWN_END else code

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end, in any thread, and return the exit code.

        Raises:
            subprocess.TimeoutExpired: it still lives after `timeout` seconds.
        """
        if not wait([self.sentinel], timeout) and timeout is not None:
            raise subprocess.TimeoutExpired(self.args, timeout)
        code = self.poll()
        assert code is not None
        return code

    def send_signal(self, number: int) -> None:
        """Send a signal unless it has ended."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def terminate(self) -> None:
        """Ask it to end."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it."""
        self.send_signal(signal.SIGKILL)


class _Streams:
    """File descriptors on their way into another process, which `multiprocessing` duplicates there."""

    def __init__(self, streams: Mapping[int, int]) -> None:
        self._streams = dict(streams)

    def __reduce__(self) -> tuple[Any, ...]:
        return _received, ({number: DupFd(ours) for number, ours in self._streams.items()},)


@contextlib.contextmanager
def _without_main() -> Iterator[None]:
    """Hide the program from `multiprocessing`, which would run it anew in each process that it starts."""
    program = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = program


def _received(streams: dict[int, Any]) -> dict[int, int]:
    return {number: duplicate.detach() for number, duplicate in streams.items()}


def _run(
    function: str,
    arguments: bytes,
    environment: dict[str, str],
    folder: Path | None,
    streams: dict[int, int],
    words: list[str],
) -> None:
    """Make a forked process like one that was executed, then run the function and what it left for the exit."""
    gc.freeze()  # what was imported is for good: a collection would copy its pages
    os.setsid()
    _end_with_starter()
    _be_no_child_of_multiprocessing()
    _name(words)
    replace_variables(environment)
    if folder is not None:
        os.chdir(folder)
    for number, ours in streams.items():
        os.dup2(ours, number)
        os.close(ours)
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    sys.argv = list(words) or sys.argv
    if "numpy.random" in sys.modules:
        sys.modules["numpy.random"].seed()  # else all forked processes draw the same
    module, _, name = function.partition(":")
    try:
        getattr(importlib.import_module(module), name)(*pickle.loads(arguments))  # noqa: S301 - of the process that started us
    finally:
        atexit._run_exitfuncs()  # multiprocessing leaves without


def _end_with_starter() -> None:
    """Have this process and its group killed when the one that started it ends, or the fork server."""
    starter = multiprocessing.parent_process()
    assert starter is not None
    if sys.platform == "linux" and multiprocessing.get_start_method() == "forkserver":
        # The kernel's way, which needs no thread of ours to be awake. (Of a `spawn` it would watch a thread.)
        ctypes.CDLL(None).prctl(DEATH_SIGNAL, signal.SIGKILL)

    def watch() -> None:
        starter.join()
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=watch, name="end with starter", daemon=True).start()


def _be_no_child_of_multiprocessing() -> None:
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


def _name(words: Sequence[str]) -> None:
    """Show `words` as the command line, and leave /proc's environment as it is: marks are looked up there."""
    if words:
        with variables({"SPT_NOENV": "1"}):
            setproctitle(" ".join(words))
        _separate(words)


def _separate(words: Sequence[str]) -> None:
    """Have /proc show a command line's words one by one, as of a process that was executed."""
    if sys.platform == "linux":
        fields = Path("/proc/self/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        begin, end = int(fields[45]), int(fields[46])  # `arg_start` and `arg_end`, proc(5)
        line = "\0".join(words).encode()
        if (
            len(line) < end - begin
        ):  # else there is no room for the 0 at the end by which the kernel knows words
            ctypes.memmove(begin, line, len(line))
