"""The MLflow server beside a federation's server: on loopback; SQLite, artifacts and login lie in the server's kit."""

import contextlib
import socket
import sqlite3
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pneumonia_fl.config.environment import LEAN_MLFLOW, TRACKING_LOGIN
from pneumonia_fl.errors import KitError
from pneumonia_fl.files import inner_folder
from pneumonia_fl.fl.doctor.server_checks import health
from pneumonia_fl.fl.kit.nvflare_log import last_error, last_words, read
from pneumonia_fl.fl.kit.startup_kit import open_kit
from pneumonia_fl.fl.services.launch import environment_of
from pneumonia_fl.fl.services.mlflow_login import APP, PASSWORD_FILE, USER, make_password
from pneumonia_fl.fl.services.participant import Service
from pneumonia_fl.fl.services.startup_log import rotate

HOST = "127.0.0.1"
FOLDER, PORT_FILE, DATABASE = "mlflow", "port", "mlflow.db"
SERVES = "startup complete"
"""In the log of an MLflow server that has made its database."""
HEALTH_SECONDS = 2.0
"""How long a health request may take."""


@dataclass(frozen=True)
class Tracking:
    """Tracking server of a server's jobs, and its process when it is ours."""

    uri: str
    login: Mapping[str, str] = field(repr=False)
    """Environment variables for whoever talks to it."""
    process: "subprocess.Popen[bytes] | None"
    log: Path | None

    def failed(self) -> str | None:
        """Return why our process has ended; None while it lives."""
        if self.process is None or self.log is None or self.process.poll() is None:
            return None
        text = read(self.log)
        return last_error(text) or last_words(text) or "no error in its log"


def start_tracking(server: Service) -> Tracking:
    """Start the server's MLflow, without waiting for it; nothing when its settings name another one.

    MLflow's own defaults refuse requests whose Host or Origin is not this machine, and so they stay.
    """
    if uri := server.kit.settings().tracking_uri:
        return Tracking(uri, {}, None, None)
    folder = inner_folder(server.kit.folder / FOLDER)
    login = dict(zip(TRACKING_LOGIN, (USER, make_password(folder)), strict=True))
    port = _choose_port(folder / PORT_FILE)
    log = folder / "log.txt"
    _remove_half_made(folder / DATABASE, log)
    rotate(log)
    environment = environment_of(server, {**LEAN_MLFLOW, **login})
    with log.open("ab") as output:
        process = subprocess.Popen(
            _command(folder, port),
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    return Tracking(f"http://{HOST}:{port}", login, process, log)


def tracking_uri_of(server: Service) -> str | None:
    """Return the address that the server's jobs send metrics to; None before the first start."""
    port = server.kit.folder / FOLDER / PORT_FILE
    own = f"http://{HOST}:{port.read_text().strip()}" if port.is_file() else None
    return server.kit.settings().tracking_uri or own


def address_and_login(folder: Path) -> tuple[str, str, Path | None]:
    """Return a server's MLflow address, its user, and the password file; no file for a remote MLflow.

    Raises:
        KitError: the kit is no server's, or was never started.
    """
    server = Service(open_kit(folder))
    uri = tracking_uri_of(server) if server.kit.kind == "server" else None
    if uri is None:
        raise KitError(f"{folder} has no MLflow; give a server's kit that `pneumonia-fl up` has started")
    own = server.kit.settings().tracking_uri is None
    return uri, USER, server.kit.folder / FOLDER / PASSWORD_FILE if own else None


def answers(uri: str) -> bool:
    """Return True when an MLflow server answers at the address."""
    if not uri.startswith(("http://", "https://")):
        return True  # a database file is always there
    try:
        return health(uri, HEALTH_SECONDS) == 200
    except (OSError, ValueError):
        return False


def _remove_half_made(database: Path, log: Path) -> None:
    """Remove a database whose first start was cut off, which would fail every later one; it holds no run yet."""
    if database.is_file() and SERVES not in read(log) and not _has_runs(database):
        for path in database.parent.glob(f"{DATABASE}*"):
            path.unlink()


def _has_runs(database: Path) -> bool:
    try:
        with contextlib.closing(sqlite3.connect(database)) as connection:
            return connection.execute("SELECT 1 FROM runs LIMIT 1").fetchone() is not None
    except sqlite3.OperationalError as error:
        return "no such table" not in str(error)


def _command(folder: Path, port: int) -> list[str]:
    """Build the command with relative paths: a URI may not be able to hold the path of `folder`."""
    command = ["python3", "-m", "mlflow", "server", "--host", HOST, "--port", str(port), "--workers", "1"]
    command += ["--app-name", APP]
    command += ["--backend-store-uri", f"sqlite:///{DATABASE}"]
    return [*command, "--serve-artifacts", "--artifacts-destination", str(folder / "artifacts")]


def _choose_port(record: Path) -> int:
    """Choose the last port when it is free, so that bookmarks stay valid; else any free one, recorded."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, int(record.read_text())))
        except (OSError, ValueError):
            probe.bind((HOST, 0))
        port = int(probe.getsockname()[1])
    record.write_text(str(port), encoding="utf-8")
    return port
