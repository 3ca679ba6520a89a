"""Starting a kit with its own `startup/start.sh`, and ending everything that came of it."""

import contextlib
import json
import subprocess
import tempfile
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from pneumonia_fl.config.environment import (
    DATA_VARIABLE,
    SHARED_CORES,
    THREADS_VARIABLE,
    TRACKING_LOGIN,
    TRACKING_VARIABLE,
    child_environment,
)
from pneumonia_fl.errors import TimeLimitError
from pneumonia_fl.fl.kit.grpc_proxy import with_loopback
from pneumonia_fl.fl.kit.kit_processes import mark_of
from pneumonia_fl.fl.kit.startup_kit import kit_python
from pneumonia_fl.fl.services.participant import SHUTDOWN_FILE, Service
from pneumonia_fl.fl.services.startup_log import rotate
from pneumonia_fl.inputs.json_files import read_json
from pneumonia_fl.inputs.paths import LINKS, without_spaces
from pneumonia_fl.runs.processes.process_group import RUN_MARK, end_all

if TYPE_CHECKING:
    from pneumonia_fl.fl.services.preflight import SitePlan

RECORD = ".pneumonia_fl_up.json"
"""What `up` leaves in a kit for `down`: the folder with links, when the kit's path holds a space."""
POLL_SECONDS = 0.1
FOREIGN_SECONDS = 30.0
"""How long processes get that another account has started: NVFlare's loop needs 10 s to end them."""


def start_server(server: Service, tracking_uri: str, login: Mapping[str, str]) -> None:
    """Start a server; its jobs send their metrics to `tracking_uri`, with the variables of `login`."""
    values = {TRACKING_VARIABLE: tracking_uri, "no_proxy": with_loopback(), **login}
    # gRPC then says who was refused, and `fl/parent/tls_handshakes.py` puts that into the audit log.
    _start(server, {**values, "GRPC_TRACE": "handshaker"})


def start_site(site: Service, plan: "SitePlan") -> None:
    """Start a site with its data and threads."""
    _start(site, {DATA_VARIABLE: str(plan.data), THREADS_VARIABLE: f"{site.name}={plan.threads}"})


def environment_of(service: Service, values: dict[str, str]) -> dict[str, str]:
    """Return the environment of a service's processes: marked, with the kit's own Python first in PATH."""
    environment = child_environment()
    # NVFlare's scripts would put the first one before the kit's folder; only the server talks to MLflow.
    tracking = () if service.kit.kind == "server" else TRACKING_LOGIN
    for name in ("NVFL_WORKSPACE", TRACKING_VARIABLE, *tracking):
        environment.pop(name, None)
    binaries = _reachable(service, "python", kit_python(service.kit).parents[1]) / "bin"
    return {
        **environment,
        "PATH": f"{binaries}:{environment.get('PATH', '/usr/bin:/bin')}",
        **SHARED_CORES,
        RUN_MARK: mark_of(service.kit),
        **values,
    }


def end(services: Iterable[Service]) -> None:
    """End all processes of these kits and remove what would stop the next start.

    Raises:
        TimeLimitError: processes of another account do not end by themselves.
    """
    everybody = list(services)
    _forbid_restart(everybody)
    end_all(lambda: [process for one in everybody for process in one.processes()])
    deadline = time.monotonic() + FOREIGN_SECONDS
    while left := [one for one in everybody if one.running()]:
        if time.monotonic() > deadline:
            names = ", ".join(f"{one.name} (pid file in {one.kit.folder})" for one in left)
            raise TimeLimitError(f"still running after {FOREIGN_SECONDS:.0f} s: {names}; end them by hand")
        _forbid_restart(left)  # again: a server or site that starts removes the file
        time.sleep(POLL_SECONDS)
    for one in everybody:
        one.clear()
        _remove_links(one)


def _forbid_restart(services: Iterable[Service]) -> None:
    """Tell the restart loops to end with their process."""
    for one in services:
        if one.running():
            one.file(SHUTDOWN_FILE).touch()


def _start(service: Service, values: dict[str, str]) -> None:
    service.clear()
    rotate(service.startup_log)
    environment = environment_of(service, values)
    script = _reachable(service, "kit", service.kit.folder) / "startup" / "start.sh"
    with service.startup_log.open("ab") as log:
        subprocess.run(
            ["bash", str(script)],
            cwd=service.kit.folder,  # by which the processes are found again, wherever the kit is moved
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            check=True,
        )


def _reachable(service: Service, name: str, folder: Path) -> Path:
    """Return a path to `folder` without spaces, which NVFlare's scripts and command lines do not quote."""
    return without_spaces(folder, name, lambda: _link_folder(service) or _new_link_folder(service))


def _new_link_folder(service: Service) -> Path:
    """Make a temporary folder for links, since they must live as long as the processes; `end` removes it."""
    home = Path(tempfile.mkdtemp(prefix=LINKS))
    (service.kit.folder / RECORD).write_text(json.dumps({"links": str(home)}), encoding="utf-8")
    return home


def _link_folder(service: Service) -> Path | None:
    record = service.kit.folder / RECORD
    with contextlib.suppress(OSError, ValueError, KeyError):
        folder = Path(read_json(record)["links"])
        return folder if folder.is_dir() else None
    return None


def _remove_links(service: Service) -> None:
    if folder := _link_folder(service):
        for name in ("kit", "python"):
            if (folder / name).is_symlink():
                (folder / name).unlink()
        with contextlib.suppress(OSError):  # somebody else's files stay
            folder.rmdir()
    (service.kit.folder / RECORD).unlink(missing_ok=True)
