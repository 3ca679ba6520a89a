"""What `make test` prints at its end: CPU seconds of all processes, also of those that nobody waited for."""

import os
import re
import signal
import subprocess
import sys

import psutil
from speed import scaled

from conftest import ROOT, alive

COUNT = [sys.executable, str(ROOT / "tests" / "support" / "cpu_seconds.py")]
SECONDS = 1.5
BUSY = f"import time\nwhile time.process_time() < {SECONDS}: pass"
ORPHAN = f"import subprocess, sys\nsubprocess.Popen([sys.executable, '-c', {BUSY!r}], start_new_session=True)"


def counted(code: str) -> "tuple[subprocess.CompletedProcess[str], float]":
    """What running some Python comes to, and the CPU seconds that are said of it."""
    words = [*COUNT, sys.executable, "-c", code]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=scaled(60))
    said = re.search(r"^(\d+) CPU seconds in all processes", done.stdout, re.MULTILINE)
    assert said is not None, done.stdout + done.stderr
    return done, float(said[1])


def test_a_process_that_outlives_its_parent_is_counted() -> None:
    done, seconds = counted(ORPHAN)
    assert done.returncode == 0, done.stdout
    assert seconds >= round(SECONDS)


def test_a_killed_process_is_counted_and_the_commands_exit_code_is_ours() -> None:
    done, seconds = counted(f"{BUSY}\nimport os; os.kill(os.getpid(), 9)")
    assert done.returncode == 128 + signal.SIGKILL
    assert seconds >= round(SECONDS)


def test_what_the_command_leaves_running_is_named_ended_and_a_failure() -> None:
    done, _ = counted("import subprocess; print(subprocess.Popen(['setsid', 'sleep', '600']).pid)")
    assert done.returncode == 1
    assert "left running, ended now: " in done.stdout
    assert "sleep 600" in done.stdout
    assert not psutil.pid_exists(int(done.stdout.split()[0]))


def test_a_request_to_end_reaches_the_command() -> None:
    code = "import signal\nprint('ready', flush=True)\nsignal.pause()"
    with subprocess.Popen(
        [*COUNT, sys.executable, "-c", code], stdout=subprocess.PIPE, text=True
    ) as counting:
        assert counting.stdout is not None
        assert counting.stdout.readline() == "ready\n"
        family = psutil.Process(counting.pid).children()
        os.kill(counting.pid, signal.SIGTERM)
        assert counting.wait(scaled(30)) == 128 + signal.SIGTERM
    assert not alive(family)
