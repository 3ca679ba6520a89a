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
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from multiprocessing import forkserver, resource_tracker, util
from multiprocessing.connection import wait
from multiprocessing.context import ForkServerProcess, SpawnProcess
from multiprocessing.process import BaseProcess
from multiprocessing.reduction import DupFd
from pathlib import Path
from types import ModuleType
from typing import Any

from setproctitle import setproctitle

from pneumonia_fl.config.environment import child_environment, replace_variables, variables

NVIDIA_DEVICE = Path("/dev/nvidiactl")
ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1"}
"""For the fork server: NumPy's library would start its threads when it is imported."""
ROOM = " " * 1500
"""At the end of the fork server's command line: that of a process that is forked from it can be no longer."""
STOCK, OURS = "multiprocessing.forkserver import main", f"{__name__} import serve as main"
"""In the line of Python that a fork server runs."""
DEATH_SIGNAL = 1
"""PR_SET_PDEATHSIG of Linux's <sys/prctl.h>."""
ENDS = {signal.SIGTERM}
"""Signals that a fork server does not take, and its children do."""
GONE_SECONDS = 0.5
"""How long a process takes to end once its files are closed."""
UNKNOWN_END = 255
"""What `multiprocessing` gives as exit code when the fork server was killed, and its children with it."""
_starting = threading.Lock()


def can_fork() -> bool:
    """Return True where processes are forked; False: each imports its modules anew."""
    return sys.platform == "linux" and not NVIDIA_DEVICE.exists()


def warm_up(modules: Sequence[str], environment: Mapping[str, str] | None = None, **more: str) -> None:
    """Start the fork server of this process unless it lives; returns at once, before it has imported `modules`.

    Args:
        modules: what it imports; a module that cannot be imported is left to those that need it.
        environment: all of its environment, also when it is started again; None: this process's as it is now. /proc
            shows it, and that of every process that is forked from it, which gets its own: no secrets.
        more: variables on top of it, for example how many threads OpenMP may use: what a library reads when it is
            loaded.
    """
    if can_fork() and not is_forked():
        forkserver.set_forkserver_preload(list(modules))
        given = {**(child_environment() if environment is None else environment), **ONE_THREAD, **more}
        server: Any = forkserver._forkserver
        server.ensure_running = lambda: _ensure_running(given)
        server.ensure_running()
        atexit.unregister(_end_fork_server)
        atexit.register(_end_fork_server)


def serve(listener: int, *arguments: Any, **options: Any) -> None:
    """Be a fork server, say so in `ps`, and remove the folder of the socket when the process that started it is gone.

    That may have had no time for it. Asked to end (SIGTERM) together with all others, it waits for them.
    """
    starter = os.getppid()
    _show_as(["pneumonia-fl", "fork", "server"])
    signal.pthread_sigmask(signal.SIG_BLOCK, ENDS)
    with socket.socket(fileno=os.dup(listener)) as copy:
        folder = Path(copy.getsockname()).parent
    try:
        forkserver.main(listener, *arguments, **options)
    finally:
        deadline = time.monotonic() + GONE_SECONDS
        while os.getppid() == starter and time.monotonic() < deadline:
            time.sleep(GONE_SECONDS / 50)
        if os.getppid() != starter:
            shutil.rmtree(folder, ignore_errors=True)


def is_forked() -> bool:
    """Return True in a process that was forked from a fork server: what it starts may be forked from it as well."""
    return forkserver.get_inherited_fds() is not None


def _ensure_running(environment: Mapping[str, str]) -> None:
    """Start the fork server unless it lives. `multiprocessing` would hand on all of this process's environment."""

    def spawn(path: bytes, args: Sequence[Any], passfds: Sequence[int]) -> int:
        command = [os.fsdecode(word).replace(STOCK, OURS) for word in (path, *args[1:])]
        process = subprocess.Popen([*command, ROOM], pass_fds=passfds, env=environment)
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
    signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDS)
    _show_as(words)
    replace_variables(environment)
    if folder is not None:
        os.chdir(folder)
    for number, ours in streams.items():
        os.dup2(ours, number)
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


def _show_as(words: Sequence[str]) -> None:
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
