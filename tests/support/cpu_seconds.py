"""Run a command; say at the end how many CPU seconds it and all that it started took, and end what it left running.

`time` counts a process when its parent has waited for it. To most processes of a federation that never happens: they
have sessions of their own, outlive who started them, or are killed with their parents. On Linux this program adopts
them (`man 2 PR_SET_CHILD_SUBREAPER`) and so waits for each.

    python tests/support/cpu_seconds.py python -m pytest
"""

import contextlib
import ctypes
import os
import resource
import signal
import subprocess
import sys
import time
from types import FrameType

import psutil

CHILD_SUBREAPER = 36
"""PR_SET_CHILD_SUBREAPER of Linux's <sys/prctl.h>."""
PATIENCE = 10.0
"""Seconds for what ends by itself once the command has ended."""


def run(words: list[str]) -> int:
    """Run a command to its end; return its exit code, or 1 where that is 0 and something was left running."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(CHILD_SUBREAPER, 1, 0, 0, 0)
    begun = time.monotonic()
    command = subprocess.Popen(words)
    _pass_signals_on(command.pid)
    while (ended := os.waitpid(-1, 0))[0] != command.pid:
        """That was one whose parent had ended before."""
    command.returncode = code = os.waitstatus_to_exitcode(ended[1])
    left = [] if _all_end() else _kill_all()
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    for one in left:
        print(f"left running, ended now: {one}")
    print(
        f"{used.ru_utime + used.ru_stime:.0f} CPU seconds in all processes ({used.ru_utime:.0f} user, "
        f"{used.ru_stime:.0f} system), {time.monotonic() - begun:.0f} s",
        flush=True,
    )
    return (128 - code if code < 0 else code) or int(bool(left))


def _pass_signals_on(command: int) -> None:
    def pass_on(number: int, frame: FrameType | None) -> None:
        os.kill(command, number)

    signal.signal(signal.SIGTERM, pass_on)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to the command as well


def _all_end() -> bool:
    """Wait for all that are ours by now; False when some live on."""
    deadline = time.monotonic() + PATIENCE
    try:
        while time.monotonic() < deadline:
            if os.waitpid(-1, os.WNOHANG)[0] == 0:
                time.sleep(0.05)
    except ChildProcessError:
        return True
    return False


def _kill_all() -> list[str]:
    """Kill all that are ours and return their command lines."""
    left = []
    while living := psutil.Process().children(recursive=True):
        for process in living:
            with contextlib.suppress(psutil.Error):
                left.append(f"{process.pid} {' '.join(process.cmdline())}")
                process.kill()
        with contextlib.suppress(ChildProcessError):
            os.waitpid(-1, 0)
    return left


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
