"""A real federation for end-to-end tests: kits from `provision`, processes from `up`, on loopback."""

import json
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
from once import made_once
from provisioning import keep_wheel
from speed import scaled

from conftest import ROOT, pneumonia_fl, prepare
from pneumonia_fl.config.environment import TRACKING_LOGIN
from pneumonia_fl.fl.services.mlflow_login import PASSWORD_FILE, USER
from pneumonia_fl.runs.processes.process_group import RUN_MARK

SERVER = "localhost"
SITES = ("asia-hospital", "europe-hospital", "us-hospital")
LEAD_IT, LEAD, MEMBER = "lead-it@consortium.org", "lead@consortium.org", "researcher@europe-hospital.org"


@dataclass(frozen=True)
class Federation:
    """Kits of one project on one port, and the sites' data; `up` makes them run."""

    kits: Path
    data: Path
    port: int

    def kit(self, name: str) -> Path:
        """The kit of a site, of the server, or of a person by e-mail address."""
        return self.kits / name

    def mlflow_login(self) -> dict[str, str]:
        """What the environment of MLflow's client needs to reach the MLflow beside the server."""
        password = (self.kit(SERVER) / "mlflow" / PASSWORD_FILE).read_text().strip()
        return dict(zip(TRACKING_LOGIN, (USER, password), strict=True))

    def up(self, *words: object) -> "subprocess.CompletedProcess[str]":
        return pneumonia_fl("up", self.kits, "--data", self.data, *words)

    def down(self) -> "subprocess.CompletedProcess[str]":
        return pneumonia_fl("down", self.kits, "--yes")

    def sites(self) -> list[str]:
        """Names of the sites that the server itself says are registered; none while it is away."""
        done = pneumonia_fl("status", self.kit(LEAD_IT), "--json")
        assert done.returncode in (0, 3, 4), done.stderr
        return list(json.loads(done.stdout)["sites"]) if done.returncode == 0 else []

    def processes(self) -> dict[int, str]:
        """Command lines of all living processes of these kits by process id."""
        return marked_below(self.kits)


def free_port() -> int:
    """A port of loopback that nobody has now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def until(
    condition: Callable[[], Any], seconds: float, what: str, evidence: Callable[[], str] = lambda: ""
) -> Any:
    """Poll until `condition` returns something true, and return that; fail the test after `seconds`.

    These are seconds of the reference machine (speed.py). A failure ends with the `evidence`.
    """
    patience = scaled(seconds)
    deadline = time.monotonic() + patience
    while not (value := condition()):
        if time.monotonic() >= deadline:
            raise AssertionError(f"not within {patience:.0f} s: {what}\n{evidence()}")
        time.sleep(0.2)
    return value


def marked_below(folder: Path) -> dict[int, str]:
    """Processes that were started from the kits in `folder`, also those whose parents are gone."""
    found = {}
    for process in psutil.process_iter():
        try:
            mark = process.environ().get(RUN_MARK, "")
            if mark.startswith(f"kit:{folder.resolve()}/") and process.status() != psutil.STATUS_ZOMBIE:
                found[process.pid] = " ".join(process.cmdline())
        except psutil.Error:
            continue
    return found


def provision_kits(factory: pytest.TempPathFactory, folder: Path, port: int, policy: str = "relaxed") -> Path:
    """Kits of the repository's own project.yml, on another port, in `folder/kits`.

    The server is relaxed, so that what is refused in most tests is refused by the sites.
    """
    folder.mkdir(parents=True, exist_ok=True)
    project = folder / "project.yml"
    text = (ROOT / "project.yml").read_text()
    assert text.count("fed_learn_port: 8002") == 1
    project.write_text(text.replace("fed_learn_port: 8002", f"fed_learn_port: {port}"))
    keep_wheel(factory, folder / "kits")
    done = pneumonia_fl("provision", project, "--out", folder / "kits", "--policy", f"{SERVER}={policy}")
    assert done.returncode == 0, done.stderr
    return folder / "kits"


@contextmanager
def running(federation: Federation) -> Iterator[Federation]:
    """`up`, then `down`; afterwards no process and no port is left."""
    done = federation.up()
    assert done.returncode == 0, done.stderr
    try:
        yield federation
    finally:
        ended = federation.down()
    assert ended.returncode == 0, ended.stderr
    assert federation.processes() == {}
    assert not listening(federation.port)


@pytest.fixture(scope="session")
def hospital_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small synthetic data for the three hospitals."""
    return made_once(tmp_path_factory, "data/hospitals", lambda out: prepare(out, 300, ",".join(SITES)))


@pytest.fixture(scope="session")
def federation(hospital_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    """The federation that many tests share: leave it as healthy as it was."""
    port = free_port()
    kits = provision_kits(tmp_path_factory, tmp_path_factory.mktemp("federation"), port)
    with running(Federation(kits, hospital_data, port)) as started:
        yield started
