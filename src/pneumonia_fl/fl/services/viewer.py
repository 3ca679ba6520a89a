"""TensorBoard or MLflow on the records of one run: found, started, and shown when it answers."""

import contextlib
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pneumonia_fl.config.environment import LEAN_MLFLOW
from pneumonia_fl.errors import ConfigError, KitError, RunError, TimeLimitError
from pneumonia_fl.fl.kit.startup_kit import SITE_STATE_FOLDER
from pneumonia_fl.runs.folder import (
    GLOBAL,
    RunFolder,
    records_elsewhere,
    tensorboard_command,
    ui_command,
)
from pneumonia_fl.runs.mlflow_files import is_read_only, place_of_run, point_artifacts, read_status
from pneumonia_fl.runs.processes.process_group import run_until_stopped

Tool = Literal["tensorboard", "mlflow"]
NAMES: dict[Tool, str] = {"tensorboard": "TensorBoard", "mlflow": "MLflow"}
PORTS: dict[Tool, int] = {"tensorboard": 6006, "mlflow": 5000}
READY: dict[Tool, str] = {"tensorboard": "data/plugins_listing", "mlflow": "health"}
"""What a tool answers as soon as its pages work."""
READY_SECONDS = 120.0
POLL_SECONDS = 0.2

Say = Callable[[str], None]


@dataclass(frozen=True)
class View:
    """A program to start, and the page to look at."""

    tool: Tool
    command: list[str]
    url: str
    page: str


def show(tool: Tool, folder: Path, port: int | None, host: str, say: Say) -> int:
    """Run a tool on a run, a sweep or a server's kit until it is stopped; return its exit code.

    Args:
        tool: which program.
        folder: what to look at; nothing in it is made or changed but the artifact paths of a folder that was moved.
        port: None: the tool's usual one, or a free one when that is taken.
        host: address to listen on.
        say: told what happens, and the address once it answers.

    Raises:
        RunError: there are no such records, or the tool does not start.
        ConfigError: the port is taken.
    """
    with _view(tool, folder, _port(tool, port, host), host, say) as view, tempfile.TemporaryFile() as log:
        say(f"starting {NAMES[tool]} …")

        def wait(process: "subprocess.Popen[bytes]") -> None:
            if _answers(view, process):
                say(f"{view.url}{view.page}   (Ctrl-C ends it)")

        code = run_until_stopped(view.command, wait, log, **LEAN_MLFLOW)
        if code:
            log.seek(0)
            raise RunError(f"{NAMES[tool]} ended with code {code}: {_last_line(log.read())}")
        return code


@contextlib.contextmanager
def _view(tool: Tool, folder: Path, port: int, host: str, say: Say) -> Iterator[View]:
    url = f"http://{_named(host)}:{port}/"
    if (folder / "startup").is_dir():
        yield View(tool, tensorboard_command(_events_of_kit(folder), port, host), url, "")
        return
    run = RunFolder(folder)
    if tool == "tensorboard" or not run.mlflow_db.is_file():
        yield View(tool, ui_command(_opened(folder), tool, port, host), url, "")
        return
    if not run.mlflow_db.stat().st_size:  # older versions made one by looking for it
        raise RunError(records_elsewhere(run))
    with _database(run, say) as source:
        run_id = None
        with contextlib.suppress(RunError):  # the database alone will do
            run_id = read_status(run.mlflow_status).runs.get(GLOBAL)
        yield View(tool, ui_command(source, tool, port, host), url, place_of_run(source.mlflow_db, run_id))


@contextlib.contextmanager
def _database(run: RunFolder, say: Say) -> Iterator[RunFolder]:
    """Yield the folder whose database MLflow opens: the run's own, or a copy's when it is read-only."""
    if not is_read_only(run.mlflow_db):
        run.relocate_artifacts()
        yield run
        return
    say("the run is read-only: what is changed in MLflow's pages is not kept")
    with tempfile.TemporaryDirectory(prefix="pneumonia-fl-") as folder:
        copy = RunFolder(Path(folder))
        copy.mlflow_db.write_bytes(run.mlflow_db.read_bytes())
        point_artifacts(copy.mlflow_db, run.mlflow_artifacts)
        yield copy


def _opened(folder: Path) -> RunFolder:
    """Return a folder with records; that of a sweep has no state of a run."""
    run = RunFolder(folder)
    return run if run.tb_events.is_dir() else RunFolder.open(folder)


def _events_of_kit(folder: Path) -> Path:
    """Return the folder of a server's jobs, or of a site's own series of its jobs."""
    events = next(
        (folder / name for name in ("tensorboard", SITE_STATE_FOLDER) if (folder / name).is_dir()), None
    )
    if events is None:
        raise KitError(f"{folder} has no TensorBoard records; no job has written any here")
    return events


def _port(tool: Tool, wanted: int | None, host: str) -> int:
    """Return a port that is free now."""
    if wanted is not None:
        if not (found := _free(host, wanted)):
            raise ConfigError(
                f"port {wanted} of {host} is taken; give another --port, or none to get a free one"
            )
        return found
    return _free(host, PORTS[tool]) or _free(host, 0)


def _free(host: str, port: int) -> int:
    """Return `port` when it is free, any free one for 0; 0 when it is taken."""
    try:
        address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(address[0], socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address[4])
            return int(probe.getsockname()[1])
    except socket.gaierror:
        raise ConfigError(f"--host {host} is no address of this machine") from None
    except PermissionError:
        raise ConfigError(f"port {port} needs more rights; give a --port above 1023") from None
    except OSError:
        return 0


def _answers(view: View, process: "subprocess.Popen[bytes]") -> bool:
    """Wait until the tool answers; False when it has ended instead."""
    deadline = time.monotonic() + READY_SECONDS
    while process.poll() is None:
        with contextlib.suppress(urllib.error.URLError, OSError, ValueError):
            # Straight to this machine: a proxy in the environment is not for it.
            opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
            with opener.open(f"{view.url}{READY[view.tool]}", timeout=5):
                return True
        if time.monotonic() > deadline:
            raise TimeLimitError(f"{NAMES[view.tool]} does not answer after {READY_SECONDS:.0f} s")
        time.sleep(POLL_SECONDS)
    return False


def _named(host: str) -> str:
    """Return the host to open: this machine's own address for a tool that listens on all."""
    if host in ("0.0.0.0", "::", ""):  # noqa: S104
        return "127.0.0.1"
    return f"[{host}]" if ":" in host else host


def _last_line(output: bytes) -> str:
    lines = [line.strip() for line in output.decode(errors="replace").splitlines() if line.strip()]
    return lines[-1] if lines else "it says nothing"
