"""The command line run as a user runs it, in processes forked from one that has imported all of it (fork_server.py).

A command in a fresh Python spends most of its time with imports. Which command may take the short way, and which must
be the installed script, `pneumonia_fl` of conftest.py decides.
"""

import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import IO

OF_EACH_TEST = "PYTEST_CURRENT_TEST"
"""The one variable that changes by itself; pytest sets it."""
AT_ONCE = 1 << 16


class ForkServer:
    """The process from which commands are forked; it ends with this one, or when it is closed."""

    def __init__(self) -> None:
        self.environment = surroundings()
        self._channel, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        words = [sys.executable, str(Path(__file__).with_name("fork_server.py")), str(other.fileno())]
        nothing = subprocess.DEVNULL
        with other:
            self.process = subprocess.Popen(words, stdin=nothing, stdout=nothing, pass_fds=[other.fileno()])
        ready = self._channel.recv(AT_ONCE)
        assert ready, f"the fork server has ended with exit code {self.process.wait()}"

    def close(self) -> None:
        """End the process; commands that run go on."""
        self._channel.close()
        self.process.wait()

    def run(
        self, function: str, words: list[str], folder: Path | None, seconds: float
    ) -> "subprocess.CompletedProcess[str]":
        """Call a function as `subprocess.run` runs a program, with `capture_output`, `text` and `timeout`.

        Args:
            function: `module:function`, which takes nothing, as for a console script.
            words: the program's path, for error messages, and its arguments.
            folder: working directory; the caller's own if None.
            seconds: after these the process is killed.

        Raises:
            subprocess.TimeoutExpired: it was.
        """
        command = {"function": function, "program": words, "folder": str(folder or Path.cwd())}
        message = json.dumps(command | {"environment": dict(os.environ)}).encode()
        with ExitStack() as stack:
            streams = output, errors, reply = _Stream(stack), _Stream(stack), _Stream(stack)
            socket.send_fds(self._channel, [message], [0, *(stream.theirs.fileno() for stream in streams)])
            for stream in streams:
                stream.theirs.close()
            try:
                _read(streams, time.monotonic() + seconds)
            except BaseException as error:
                _kill(reply)
                if isinstance(error, TimeoutError):
                    raise subprocess.TimeoutExpired(words, seconds, output.said, errors.said) from None
                raise
        _, code = reply.said.split()
        return subprocess.CompletedProcess(words, int(code), output.said.decode(), errors.said.decode())


class _Stream:
    """A pipe, and what has come out of it."""

    def __init__(self, stack: ExitStack) -> None:
        ours, theirs = os.pipe()
        self.ours: IO[bytes] = stack.enter_context(os.fdopen(ours, "rb", buffering=0))
        self.theirs: IO[bytes] = stack.enter_context(os.fdopen(theirs, "wb", buffering=0))
        self.said = b""

    def read(self) -> bool:
        """Whether more may come."""
        part = os.read(self.ours.fileno(), AT_ONCE)
        self.said += part
        return part != b""


def _read(streams: tuple[_Stream, ...], deadline: float) -> None:
    """Read until all ends are closed; TimeoutError when they are not in time."""
    with selectors.DefaultSelector() as waiting:
        for stream in streams:
            waiting.register(stream.ours, selectors.EVENT_READ, stream)
        while waiting.get_map():
            ready = waiting.select(max(0.0, deadline - time.monotonic()))
            if not ready:
                raise TimeoutError
            for key, _ in ready:
                if not key.data.read():
                    waiting.unregister(key.fileobj)


def _kill(reply: _Stream) -> None:
    """End the command, if it still runs, and wait until it is gone."""
    while not reply.said.endswith(b"\n") and reply.read():
        """Its process id is still to come."""
    if len(reply.said.split()) == 1:
        os.kill(int(reply.said), signal.SIGKILL)
        reply.read()


def surroundings() -> dict[str, str]:
    """The environment of this process, without what each test has for itself."""
    return {name: value for name, value in os.environ.items() if name != OF_EACH_TEST}


@cache
def fork_server() -> ForkServer | None:
    """The server of this process, started when it is first needed; none on a system that cannot wait for it."""
    return ForkServer() if hasattr(os, "pidfd_open") else None
