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
import time
from collections.abc import Iterator, Mapping, Sequence
from multiprocessing.connection import wait
from multiprocessing.context import ForkServerProcess, SpawnProcess
from multiprocessing.process import BaseProcess
from multiprocessing.reduction import DupFd
from pathlib import Path
from types import ModuleType
from typing import Any

from pneumonia_fl.config.environment import replace_variables
from pneumonia_fl.runs.processes.fork_server import (
    GONE_SECONDS,
    NOT_FOR_SERVER,
    can_fork,
    share_fork_server,
)
from pneumonia_fl.runs.processes.title import show_as

DEATH_SIGNAL = 1
"""PR_SET_PDEATHSIG of Linux's <sys/prctl.h>."""
UNKNOWN_END = 255
"""What `multiprocessing` gives as exit code when the fork server was killed, and its children with it."""
_hiding = threading.Lock()


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
        self._reading = threading.Lock()  # the exit code is read once
        with _without_main():
            self._start()

    def _start(self) -> None:
        try:
            self._process.start()
        except (ConnectionError, EOFError):  # the fork server has just died: another is started
            time.sleep(GONE_SECONDS)
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
        with self._reading:
            code = self._process.exitcode
        return -signal.SIGKILL if code == UNKNOWN_END else code

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end, in any thread, and return the exit code.

        Raises:
            subprocess.TimeoutExpired: it still lives after `timeout` seconds.
        """
        if not wait([self.sentinel], timeout) and timeout is not None:
            raise subprocess.TimeoutExpired(self.args, timeout)
        with self._reading:
            self._process.join()  # of one that was executed the sentinel is ready a moment before its end
        code = self.poll()
        assert code is not None
        return code

    def kill_group(self) -> None:
        """End it with all processes of its group."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                # Just forked, it may still be in the group of the fork server, and that is ours.
                (os.killpg if os.getpgid(self.pid) == self.pid else os.kill)(self.pid, signal.SIGKILL)

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
        # Each once: a process that is executed refuses to inherit one twice.
        return _received, (self._streams, {ours: DupFd(ours) for ours in set(self._streams.values())})


@contextlib.contextmanager
def _without_main() -> Iterator[None]:
    """Hide the program from `multiprocessing`, which would run it anew in each process that it starts."""
    with _hiding:
        program = sys.modules["__main__"]
        sys.modules["__main__"] = ModuleType("__main__")
        try:
            yield
        finally:
            sys.modules["__main__"] = program


def _received(streams: dict[int, int], duplicates: dict[int, Any]) -> dict[int, int]:
    arrived = {ours: duplicate.detach() for ours, duplicate in duplicates.items()}
    return {number: arrived[ours] for number, ours in streams.items()}


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
    share_fork_server()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, NOT_FOR_SERVER)
    show_as(words)
    replace_variables(environment)
    if folder is not None:
        os.chdir(folder)
    for number, ours in streams.items():
        os.dup2(ours, number)
    for ours in set(streams.values()) - streams.keys():
        os.close(ours)
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    sys.argv = list(words) or sys.argv
    _forget_random_numbers()
    module, _, name = function.partition(":")
    try:
        getattr(importlib.import_module(module), name)(*pickle.loads(arguments))  # noqa: S301 - of the process that started us
    finally:
        atexit._run_exitfuncs()  # multiprocessing leaves without


def _forget_random_numbers() -> None:
    """Begin anew, as each new process does; else all forked processes would draw the same.

    Python's own generator does so by itself. PyTorch's has a seed of its own in each process, too, until one is given.
    """
    if "numpy.random" in sys.modules:
        sys.modules["numpy.random"].seed()
    if "torch" in sys.modules:
        sys.modules["torch"].default_generator.seed()


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
