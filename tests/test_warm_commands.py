"""Commands that tests run are forked from a warm process: each is given what a new process would be given."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from speed import scaled
from warm_commands import ForkServer

from conftest import MAIN, ROOT, alive, pneumonia_fl
from federation import until

PROGRAM = ROOT / "tests" / "support" / "new_process.py"
TESTS = """import sys, time
sys.path.insert(0, {folder!r})
from warm_commands import ForkServer
print(ForkServer().process.pid, flush=True)
time.sleep(600)
"""


@pytest.fixture(scope="module")
def server() -> Iterator[ForkServer]:
    started = ForkServer()
    yield started
    started.close()


def said(done: "subprocess.CompletedProcess[str]") -> dict[str, Any]:
    assert (done.returncode, done.stderr) == (3, "and an error\n")
    values: dict[str, Any] = json.loads(done.stdout)
    return values


def test_a_forked_command_is_given_what_a_new_process_is(server: ForkServer, tmp_path: Path) -> None:
    words = [str(PROGRAM), "3", "a word", "ü"]
    # The environment is said: pytest imports readline, which gives LINES and COLUMNS to whoever inherits it unseen.
    kept = {"env": dict(os.environ), "capture_output": True, "text": True}
    new = said(subprocess.run([sys.executable, *words], cwd=tmp_path, check=False, **kept))
    forked = said(server.run("new_process:say", words, tmp_path, scaled(60)))
    assert forked.pop("drawn") != new.pop("drawn")
    assert forked == new


def test_the_environment_is_that_of_the_moment(server: ForkServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SINCE_THEN", "x")
    assert said(server.run("new_process:say", [str(PROGRAM), "3"], None, scaled(60)))["environment"] == {
        **os.environ
    }


def test_two_commands_draw_other_random_numbers(server: ForkServer) -> None:
    first, second = (
        said(server.run("new_process:say", [str(PROGRAM), "3"], None, scaled(60)))["drawn"] for _ in range(2)
    )
    assert not set(first) & set(second)


def test_a_command_that_takes_too_long_is_killed(server: ForkServer) -> None:
    with pytest.raises(subprocess.TimeoutExpired) as caught:
        server.run("new_process:wait", [str(PROGRAM)], None, 1)
    assert not psutil.pid_exists(int(caught.value.output))


def test_a_signal_is_an_exit_code_as_of_a_process_of_ones_own(server: ForkServer) -> None:
    ended = server.run("os:abort", [str(PROGRAM)], None, scaled(60))
    assert ended.returncode == -signal.SIGABRT


def test_the_script_and_the_forked_command_say_the_same(server: ForkServer, tmp_path: Path) -> None:
    for words in (
        ["--version"],
        ["--help"],
        ["bogus"],
        ["report", str(tmp_path / "none")],
        ["run", "--help"],
    ):
        script = pneumonia_fl(*words, env=dict(os.environ))
        forked = server.run(MAIN, script.args, None, scaled(60))
        assert (forked.returncode, forked.stdout, forked.stderr) == (
            script.returncode,
            script.stdout,
            script.stderr,
        )


def test_the_fork_server_ends_with_the_tests_however_they_end() -> None:
    code = TESTS.format(folder=str(PROGRAM.parent))
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as tests:
        assert tests.stdout is not None
        warm = psutil.Process(int(tests.stdout.readline()))
        tests.kill()
    until(lambda: not alive([warm]), 30, "the fork server ends")
