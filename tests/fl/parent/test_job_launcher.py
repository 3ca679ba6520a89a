"""The processes of jobs: what they are told of their parent's environment, and that an ended job stays ended."""

import json
import logging
import os
import shlex
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import pytest
from nvflare.apis.event_type import EventType
from nvflare.apis.fl_constant import FLContextKey, JobConstants
from nvflare.apis.fl_context import FLContext
from nvflare.apis.job_launcher_spec import JobProcessArgs
from nvflare.apis.workspace import Workspace
from speed import scaled

from pneumonia_fl.config.environment import QUIET
from pneumonia_fl.fl.parent.job_launcher import (
    JobLauncher,
    RestartingHandle,
    ServerJobLauncher,
    SiteJobLauncher,
)
from pneumonia_fl.runs.processes import fork_server

JOB = "11111111-2222-3333-4444-555555555555"
SECRETS = (
    "AWS_SECRET_ACCESS_KEY",
    "DATABASE_URL",
    "PNEUMONIA_FL_KIT",
    "GITHUB_TOKEN",
    "MLFLOW_TRACKING_PASSWORD_FILE2",
)
TRACKING = ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "PNEUMONIA_FL_TRACKING_URI")
SITE = (
    "PNEUMONIA_FL_DATA",
    "PNEUMONIA_FL_THREADS",
    "PNEUMONIA_FL_SITE_STATE",
    "PNEUMONIA_FL_KEEP_MODEL",
    "PNEUMONIA_FL_LIMITS",
)
BOTH = ("PNEUMONIA_FL_RUN", "CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "LC_ALL", "https_proxy")
TELL = (
    "import json, os, sys; found = {**os.environ, 'first': sys.path[1], 'words': sys.orig_argv}; "
    "print(json.dumps(found), file=open(sys.argv[1], 'w'))"
)


SHOW = """
import json, os, sys
from nvflare.fuel.f3.streaming.stream_utils import gen_stream_id
shown = {"words": sys.argv, "environment": dict(os.environ), "parent": os.getppid(), "stream": gen_stream_id()}
json.dump(shown, open(sys.argv[-1], "w"))
"""
forks = pytest.mark.skipif(
    not fork_server.can_fork(), reason="this machine does not fork (not Linux, or a GPU)"
)


@pytest.fixture
def own_fork_server() -> Iterator[None]:
    """The fork server of a test: no other test's, and ended with it."""
    forkserver._forkserver._stop()
    yield
    forkserver._forkserver._stop()


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    for name in ("startup", "local"):
        (tmp_path / "kit" / name).mkdir(parents=True)
    return Workspace(str(tmp_path / "kit"), "site")


def environment_in(
    launcher: JobLauncher, workspace: Workspace, out: Path, more: dict[str, tuple[str, str]] | None = None
) -> dict[str, Any]:
    """What a process that the launcher starts finds in its environment, first on its module path, and as its words."""
    context = FLContext()
    program = f"{shlex.quote(TELL)} {out}"
    words = {JobProcessArgs.EXE_MODULE: ("-c", program), **(more or {})}
    context.set_prop(FLContextKey.JOB_PROCESS_ARGS, words)
    context.get_prop(FLContextKey.JOB_PROCESS_ARGS)[JobProcessArgs.AUTH_TOKEN] = ("-t", "the-token")
    context.set_prop(FLContextKey.WORKSPACE_OBJECT, workspace)
    launcher.launch_job({JobConstants.JOB_ID: JOB}, context).wait()
    return dict(json.loads(out.read_text()))


@pytest.fixture
def everything(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*SECRETS, *TRACKING, *SITE, *BOTH):
        monkeypatch.setenv(name, "1")


@pytest.mark.usefixtures("everything")
def test_a_sites_job_gets_named_variables_only(workspace: Workspace, tmp_path: Path) -> None:
    found = environment_in(SiteJobLauncher(), workspace, tmp_path / "out")
    assert {"PATH", *SITE, *BOTH} <= found.keys()
    assert not {*SECRETS, *TRACKING} & found.keys()
    assert found["NVFLARE_JOB_AUTH_TOKEN"] == "the-token"


@pytest.mark.usefixtures("everything")
def test_only_the_servers_jobs_may_log_in_to_mlflow(workspace: Workspace, tmp_path: Path) -> None:
    found = environment_in(ServerJobLauncher(), workspace, tmp_path / "out")
    assert {"PATH", *TRACKING, *BOTH} <= found.keys()
    assert not {*SECRETS, *SITE} & found.keys()


@pytest.mark.parametrize("launcher", [SiteJobLauncher, ServerJobLauncher])
def test_a_process_list_shows_no_token(
    launcher: type[JobLauncher], workspace: Workspace, tmp_path: Path
) -> None:
    found = environment_in(launcher(), workspace, tmp_path / "out")
    assert found["NVFLARE_JOB_AUTH_TOKEN"] == "the-token"
    assert str(tmp_path / "out") in found["words"]
    assert not [word for word in found["words"] if "the-token" in word]


@pytest.mark.parametrize("launcher", [SiteJobLauncher, ServerJobLauncher])
def test_a_kit_may_lie_in_a_folder_with_spaces(
    launcher: type[JobLauncher], workspace: Workspace, tmp_path: Path
) -> None:
    kit, options = "/srv/the first kit's place", "a=1 b=2"
    more = {JobProcessArgs.WORKSPACE: ("-m", kit), JobProcessArgs.OPTIONS: ("--set", options)}
    words = environment_in(launcher(), workspace, tmp_path / "out", more)["words"]
    assert words[words.index(kit) - 1] == "-m"
    assert words[-3:] == ["--set", "a=1", "b=2"]


def test_a_site_that_is_called_like_a_number_keeps_its_name(workspace: Workspace, tmp_path: Path) -> None:
    module, out = "shows_its_words", tmp_path / "out"
    code = Path(workspace.get_root_dir()) / JOB / "app_site" / "custom"
    code.mkdir(parents=True)
    (code / f"{module}.py").write_text(
        f"import json, sys\nfrom nvflare.private.fed.app.fl_conf import parse_vars\n"
        f"json.dump(parse_vars(sys.argv[-2:]), open({str(out)!r}, 'w'))\n"
    )
    more = {JobProcessArgs.EXE_MODULE: ("-m", module), JobProcessArgs.OPTIONS: ("--set", "uid=007 org=no")}
    assert environment_in(SiteJobLauncher(), workspace, out, more) == {"uid": "007", "org": "no"}


@pytest.mark.parametrize("launcher", [SiteJobLauncher, ServerJobLauncher])
def test_the_process_of_a_job_reports_its_use_to_nobody(
    launcher: type[JobLauncher], workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "false")
    found = environment_in(launcher(), workspace, tmp_path / "out")
    assert QUIET.items() <= found.items()


def test_code_that_a_job_ships_is_found_first(workspace: Workspace, tmp_path: Path) -> None:
    shipped = Path(workspace.get_root_dir()) / JOB / "app_site" / "custom"
    shipped.mkdir(parents=True)
    found = environment_in(SiteJobLauncher(), workspace, tmp_path / "out")
    assert found["first"] == str(shipped)
    assert set(filter(None, sys.path)) <= set(found["PYTHONPATH"].split(":"))


def started(launcher: JobLauncher) -> JobLauncher:
    """A launcher as it is in the parent process once that is ready, with nothing to import."""
    launcher.modules = ()
    launcher.handle_event(EventType.SYSTEM_START, FLContext())
    return launcher


@forks
@pytest.mark.usefixtures("own_fork_server")
def test_a_job_is_forked_with_the_same_words_and_environment(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And it numbers its streams itself: receivers take streams of one number for the same."""
    (tmp_path / "shows.py").write_text(SHOW)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("GITHUB_TOKEN", "secret")
    more = {
        JobProcessArgs.EXE_MODULE: ("-m", "shows"),
        JobProcessArgs.JOB_ID: ("-n", f"{JOB} {tmp_path / 'out'}"),
    }
    launcher = started(SiteJobLauncher())
    found = [environment_in(launcher, workspace, tmp_path / "out", more) for _ in range(2)]
    assert found[0]["words"][1:] == ["-n", JOB, str(tmp_path / "out")]
    assert found[0]["environment"]["NVFLARE_JOB_AUTH_TOKEN"] == "the-token"
    assert "GITHUB_TOKEN" not in found[0]["environment"]
    assert found[0]["parent"] == found[1]["parent"] != os.getpid()
    assert found[0]["stream"] != found[1]["stream"]


@forks
@pytest.mark.usefixtures("own_fork_server")
def test_a_job_with_code_of_its_own_gets_a_new_python(
    workspace: Workspace, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (Path(workspace.get_root_dir()) / JOB / "app_site" / "custom").mkdir(parents=True)
    with caplog.at_level(logging.INFO):
        environment_in(started(SiteJobLauncher()), workspace, tmp_path / "out")
    assert f"job {JOB}: a new Python is started, since there is code on the module path" in caplog.text


def test_without_a_fork_server_a_job_gets_a_new_python(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(fork_server, "NVIDIA_DEVICE", tmp_path)  # there is one
    with caplog.at_level(logging.INFO):
        environment_in(started(SiteJobLauncher()), workspace, tmp_path / "out")
    assert "a new Python is started, since this system cannot fork, or has a graphics card" in caplog.text


@dataclass
class Process:
    """A job's process that dies at once, or lives until it is ended."""

    dies: bool
    ended: threading.Event = field(default_factory=threading.Event)

    @property
    def adapter(self) -> "Process":
        return self

    def poll(self) -> int:
        return -9

    def wait(self) -> None:
        assert self.dies or self.ended.wait(scaled(10)), "nobody ended it"

    def terminate(self) -> None:
        self.ended.set()


class Calls(logging.Handler):
    """Does something the moment that a message is logged."""

    def __init__(self, action: Callable[[], None]) -> None:
        super().__init__()
        self._action = action

    def emit(self, record: logging.LogRecord) -> None:
        self._action()


def test_a_job_ended_between_death_and_restart_is_not_started_again() -> None:
    launched: list[Process] = []

    def launch() -> Process:
        launched.append(Process(dies=not launched))
        return launched[-1]

    handle = RestartingHandle(launch)
    said = Calls(handle.terminate)
    logging.getLogger("pneumonia_fl.site").addHandler(said)
    try:
        handle.wait()
    finally:
        logging.getLogger("pneumonia_fl.site").removeHandler(said)
    assert len(launched) == 1


def test_a_job_ended_while_it_is_started_again_ends() -> None:
    launched: list[Process] = []
    terminators: list[threading.Thread] = []

    def launch() -> Process:
        if launched:
            terminators.append(threading.Thread(target=handle.terminate))
            terminators[-1].start()
        launched.append(Process(dies=not launched))
        return launched[-1]

    handle = RestartingHandle(launch)
    handle.wait()
    terminators[0].join(10)
    assert [process.ended.is_set() for process in launched] == [False, True]
