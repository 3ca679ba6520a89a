"""Forked processes are processes: real ones, from a real fork server."""

import json
import os
import random
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from speed import scaled

from pneumonia_fl.config.environment import child_environment
from pneumonia_fl.errors import ConfigError, RunError
from pneumonia_fl.runs.processes import fork_server, warm_call
from pneumonia_fl.runs.processes.fork_server import can_fork, warm_up
from pneumonia_fl.runs.processes.warm import WarmProcess

pytestmark = pytest.mark.skipif(not can_fork(), reason="this machine does not fork (not Linux, or a GPU)")


def facts(file: str) -> None:
    """Leave word of what a process sees of itself."""
    found = {
        "argv": sys.argv,
        "folder": os.getcwd(),
        "environment": dict(os.environ),
        "session": os.getsid(0),
        "loaded": sorted(name for name in ("colorsys", "pytest") if name in sys.modules),
        "line": [word for word in psutil.Process().cmdline() if word],
    }
    Path(file).write_text(json.dumps(found))
    sys.stdout.write("to standard output\n")
    sys.stderr.write("to standard error\n")
    sys.exit(7)


def start_another(file: str) -> None:
    """Fork a second process from the same server, and end as that ended."""
    inner = WarmProcess(f"{__name__}:facts", (file,), environment={"DEPTH": "2"})
    sys.exit(inner.wait())


def sleep_beside(file: str) -> None:
    """Start a process that sleeps, say its number, and sleep as well."""
    inner = WarmProcess("time:sleep", (600,), environment={})
    Path(file).write_text(str(inner.pid))
    signal.pause()


@pytest.fixture(scope="module", autouse=True)
def server() -> None:
    warm_up(["colorsys"], child_environment(PNEUMONIA_FL_RUN="shown"))


def test_a_forked_process_has_its_own_environment_folder_session_and_streams(tmp_path: Path) -> None:
    file, output = tmp_path / "facts.json", tmp_path / "output.txt"
    words = ["pneumonia-fl", "-n", "a job"]
    with output.open("wb") as stream:
        process = WarmProcess(
            f"{__name__}:facts",
            (str(file),),
            environment={"PATH": "/bin", "PYTHONPATH": ""},
            folder=tmp_path,
            streams={1: stream.fileno(), 2: stream.fileno()},
            words=words,
        )
    assert process.wait(scaled(60)) == process.returncode == 7
    found = json.loads(file.read_text())
    assert (found["argv"], found["line"]) == (words, words)
    assert (Path(found["folder"]), found["session"]) == (tmp_path, process.pid)
    assert found["environment"] == {"PATH": "/bin", "PYTHONPATH": ""}
    assert "colorsys" in found["loaded"]
    assert sorted(output.read_text().splitlines()) == ["to standard error", "to standard output"]


def test_where_nothing_is_forked_a_new_python_does_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fork_server, "NVIDIA_DEVICE", tmp_path)  # there is one
    file, output = tmp_path / "facts.json", tmp_path / "output.txt"
    with output.open("wb") as stream:
        process = WarmProcess(
            f"{__name__}:facts",
            (str(file),),
            environment=dict(os.environ),
            folder=tmp_path,
            streams={1: stream.fileno(), 2: stream.fileno()},
            words=["pneumonia-fl", "-n", "a job"],
        )
    assert process.wait(scaled(60)) == 7
    assert Path(json.loads(file.read_text())["folder"]) == tmp_path
    assert sorted(output.read_text().splitlines()) == ["to standard error", "to standard output"]


def test_a_forked_process_forks_from_the_same_server(tmp_path: Path) -> None:
    file = tmp_path / "facts.json"
    process = WarmProcess(f"{__name__}:start_another", (str(file),), environment={})
    assert process.wait(scaled(60)) == 7
    found = json.loads(file.read_text())
    assert found["environment"] == {"DEPTH": "2"}
    assert "colorsys" in found["loaded"]


def test_the_server_is_single_threaded_with_what_a_site_needs_loaded() -> None:
    script = """
from multiprocessing import forkserver
import psutil
from pneumonia_fl.config.environment import child_environment
from pneumonia_fl.runs.processes.fork_server import warm_up
from pneumonia_fl.runs.processes.warm import WarmProcess
warm_up(["torch", "nvflare", "pneumonia_fl.fl.site.client"], child_environment())
assert WarmProcess("os:getpid", environment={}).wait() == 0
print(psutil.Process(forkserver._forkserver._forkserver_pid).num_threads())
"""
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("1\n", "")


def draw() -> None:
    """Print numbers of the generators that nobody has given a seed."""
    import numpy
    import torch

    sys.stdout.write(f"{random.random()} {numpy.random.rand()} {float(torch.rand(()))} ")


def test_no_two_processes_draw_the_same_random_numbers() -> None:
    script = f"""
import sys
sys.path[:] = {sys.path!r}
from pneumonia_fl.config.environment import child_environment
from pneumonia_fl.runs.processes.fork_server import warm_up
from pneumonia_fl.runs.processes.warm import WarmProcess
warm_up(["numpy.random", "torch"], child_environment())
for _ in range(2):
    assert WarmProcess("{__name__}:draw", environment={{}}).wait() == 0
"""
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert done.stderr == ""
    assert len(set(done.stdout.split())) == 6


def test_a_killed_server_takes_its_processes_along_and_is_started_again(tmp_path: Path) -> None:
    process = WarmProcess("time:sleep", (600,), environment={})
    server = psutil.Process(process.pid).parent()
    assert server is not None
    server.kill()
    assert process.wait(scaled(60)) == -signal.SIGKILL
    assert WarmProcess("os:getpid", environment={}).wait(scaled(60)) == 0


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_nothing_outlives_the_process_that_started_it(tmp_path: Path, number: int) -> None:
    file = tmp_path / "pid.txt"
    script = f"""
import signal
from pneumonia_fl.config.environment import child_environment
from pneumonia_fl.runs.processes.fork_server import warm_up
from pneumonia_fl.runs.processes.warm import WarmProcess
warm_up([], child_environment())
outer = WarmProcess("{__name__}:sleep_beside", ({str(file)!r},), environment={{}})
print(outer.pid, flush=True)
signal.pause()
"""
    temporary = tmp_path / "t"
    temporary.mkdir()
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "TMPDIR": str(temporary)}
    starter = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, env=environment
    )
    assert starter.stdout is not None
    left = [psutil.Process(int(starter.stdout.readline()))]
    server = left[0].parent()
    assert server is not None
    end = time.monotonic() + scaled(60)
    while not (file.is_file() and file.read_text()) and time.monotonic() < end:
        select.select([], [], [], 0.05)
    left += [psutil.Process(int(file.read_text())), server]
    starter.send_signal(number)
    starter.communicate()
    assert psutil.wait_procs(left, timeout=scaled(60))[1] == []
    assert list(temporary.iterdir()) == []


def process() -> int:
    return os.getpid()


def refuse(text: str) -> None:
    raise ConfigError(text)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_value_comes_from_another_process() -> None:
    assert warm_call.call(f"{__name__}:process") != os.getpid()


def test_an_error_is_raised_here() -> None:
    with pytest.raises(ConfigError, match="not so"):
        warm_call.call(f"{__name__}:refuse", "not so")


def test_a_killed_call_is_an_error() -> None:
    with pytest.raises(RunError, match="die was ended before it was done"):
        warm_call.call(f"{__name__}:die")


def test_where_nothing_is_forked_it_is_called_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warm_call, "can_fork", lambda: False)
    assert warm_call.call(f"{__name__}:process") == os.getpid()
