"""Run a program and count what it costs, with all that it starts. Linux only.

CPU seconds are those of `getrusage`: this process adopts what the program leaves behind (a subreaper, prctl(2)), so
every process is counted when it ends, however it was started. The machine's own count (/proc/stat) says what else ran
meanwhile: with much of it, wall times mean nothing.
"""

import contextlib
import ctypes
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
CLI = Path(sys.executable).with_name("pneumonia-fl")
PR_SET_CHILD_SUBREAPER = 36
POLL_SECONDS = 0.01
LEFT_SECONDS = 60.0
"""How long processes may outlive the program that started them."""


@dataclass(frozen=True)
class Cost:
    """Seconds: the clock when a program was started, until it ended, its CPU time, CPU time of all else meanwhile."""

    begun: float
    wall: float
    cpu: float
    other: float

    @property
    def ended(self) -> float:
        """Return the clock when the program ended."""
        return self.begun + self.wall


def measured(words: Sequence[object]) -> tuple[Cost, str]:
    """Run a program in the root of the repository to its end; return its cost and what it printed.

    Its processes that live on are waited for: their CPU time counts, their wall time does not.
    """
    adopt()
    machine, ours, own = _machine_seconds(), children_seconds(), time.process_time()
    begun, start = time.time(), time.perf_counter()
    output = _output(words)
    wall = time.perf_counter() - start
    _reap_all()
    cpu = children_seconds() - ours
    other = _machine_seconds() - machine - cpu - (time.process_time() - own)
    return Cost(begun, wall, cpu, max(0.0, other)), output


def cli(*words: object) -> str:
    """Run a command of pneumonia-fl that is not measured; return what it printed."""
    return _output([CLI, *words])


def _output(words: Sequence[object]) -> str:
    """Run a program in the root of the repository and return what it printed.

    Meanwhile what this process has adopted is waited for as soon as it ends: the program may itself wait until they are
    gone.
    """
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as problems:
        process = subprocess.Popen([str(word) for word in words], cwd=ROOT, stdout=out, stderr=problems)
        while process.returncode is None:
            ended, status = os.waitpid(-1, os.WNOHANG)
            if ended == process.pid:
                process.returncode = os.waitstatus_to_exitcode(status)
            elif not ended:
                time.sleep(POLL_SECONDS)
        out.seek(0), problems.seek(0)
        if process.returncode:
            sys.exit(f"{words[0]} failed: {problems.read().decode().strip()[-2000:]}")
        return out.read().decode()


@contextlib.contextmanager
def few_cores(count: int) -> Iterator[None]:
    """Let this process and its children use at most `count` cores: more would give sites several threads."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(allowed)[:count])
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


def adopt() -> None:
    """Have processes whose parent ends become children of this one."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _reap_all() -> None:
    """Wait for every process that the program left behind."""
    deadline = time.monotonic() + LEFT_SECONDS
    while time.monotonic() < deadline:
        try:
            ended, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if not ended:
            time.sleep(0.05)
    print(f"  (processes still run {LEFT_SECONDS:.0f} s after the program's end: not in its CPU seconds)")


def children_seconds() -> float:
    """Return the CPU seconds of all processes below this one that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _machine_seconds() -> float:
    """Return the CPU seconds that the machine has worked, for whomever."""
    user, nice, system, _, _, interrupts, soft, stolen = map(
        int, Path("/proc/stat").read_text(encoding="ascii").split("\n", 1)[0].split()[1:9]
    )
    return (user + nice + system + interrupts + soft + stolen) / os.sysconf("SC_CLK_TCK")
