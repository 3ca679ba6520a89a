"""A program that has imported what commands need, and forks a process for each command that a test runs.

Started by warm_commands.py with a socket as its only argument. What it forks is what a new process of the console
script would be: its own words, environment, folder, pipes, signal handlers and random numbers, no file of anybody
else's. It ends when the other end of the socket is closed, which the end of the tests' process does.
"""

import atexit
import contextlib
import gc
import importlib
import io
import json
import os
import pkgutil
import selectors
import signal
import socket
import sys
import threading
from typing import Any

HEAVY = (
    "mlflow",
    "mlflow.tracking",
    "mlflow.artifacts",
    "torchvision.models",
    "scipy.stats",
    "scipy.optimize",
)
"""What commands import in their functions."""
LARGEST = 1 << 20
FILES = 4
"""Standard input, output and errors of the command, and the pipe for its process id and exit code."""


def preload() -> None:
    """Import what commands import, with no thread of Python's left running."""
    import pneumonia_fl
    from pneumonia_fl.config.environment import report_nothing

    before = dict(os.environ)
    report_nothing()
    for module in pkgutil.walk_packages(pneumonia_fl.__path__, "pneumonia_fl."):
        importlib.import_module(module.name)
    for name in HEAVY:
        importlib.import_module(name)
    _surround(before)
    assert threading.active_count() == 1, threading.enumerate()
    gc.collect()
    gc.freeze()  # a child that looks for garbage would copy every page


def serve(channel: socket.socket) -> dict[str, Any] | None:
    """Fork a process for each command that comes, and say when it has ended.

    Returns:
        In each of these processes: its command. In the server, once nobody sends commands any more: nothing.
    """
    with selectors.PollSelector() as waiting:
        waiting.register(channel, selectors.EVENT_READ)
        while True:
            for key, _ in waiting.select():
                if key.data is not None:
                    waiting.unregister(key.fd)
                    _tell_the_end(key.fd, *key.data)
                    continue
                message, files, _, _ = socket.recv_fds(channel, LARGEST, FILES)
                if not message:
                    return None
                pid = os.fork()
                if pid == 0:
                    _forget_the_server(files)
                    return dict(json.loads(message))
                _close(*files[:-1])
                os.write(files[-1], f"{pid}\n".encode())
                waiting.register(os.pidfd_open(pid), selectors.EVENT_READ, (pid, files[-1]))


def _tell_the_end(process: int, pid: int, reply: int) -> None:
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    with contextlib.suppress(BrokenPipeError):  # nobody waits for it any more
        os.write(reply, f"{code}\n".encode())
    _close(process, reply)


def _forget_the_server(files: list[int]) -> None:
    """Have no other files than a new process has, and no random numbers in common with another command."""
    for target, source in enumerate(files[:-1]):
        os.dup2(source, target)
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))
    sys.stdin, sys.stdout, sys.stderr = map(_reopened, (sys.stdin, sys.stdout, sys.stderr))
    # Python's own generator begins anew by itself.
    sys.modules["numpy"].random.seed()
    sys.modules["torch"].default_generator.seed()


def _reopened(stream: Any) -> io.TextIOWrapper:
    """Return a stream with the settings that Python gave it, for what its number stands for now: never a terminal."""
    file = open(stream.fileno(), stream.mode + "b", closefd=False)  # noqa: SIM115 - open until the process ends
    return io.TextIOWrapper(file, stream.encoding, stream.errors, write_through=stream.write_through)


def become(command: dict[str, Any]) -> None:
    """Take on everything that a new process is given."""
    _surround(command["environment"])
    os.chdir(command["folder"])
    program, *_ = sys.argv[:] = command["program"]
    sys.path[0] = os.path.dirname(program)
    sys.modules["__main__"].__file__ = program


def call(function: str) -> None:
    """Do what a console script does with `module:function`, and end."""
    module, _, name = function.partition(":")
    try:
        sys.exit(getattr(importlib.import_module(module), name)())
    except SystemExit as end:
        # As an interpreter ends, but without taking its modules apart: that costs more than most commands.
        threading._shutdown()
        atexit._run_exitfuncs()
        sys.stdout.flush()
        os._exit(end.code if isinstance(end.code, int) else 0)


def _surround(environment: dict[str, str]) -> None:
    os.environ.clear()
    os.environ.update(environment)


def _close(*files: int) -> None:
    for file in files:
        os.close(file)


def main() -> None:
    """Serve until nobody sends commands any more; in a child, run its command."""
    channel = socket.socket(fileno=int(sys.argv[1]))
    preload()
    channel.send(b"ready")
    interrupted = signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for pytest and for the commands
    command = serve(channel)
    if command is None:
        return
    channel.detach()  # its file is closed already
    signal.signal(signal.SIGINT, interrupted)
    become(command)
    call(command["function"])


if __name__ == "__main__":
    main()
