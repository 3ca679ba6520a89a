"""The MLflow beside a server answers nobody without the login that lies in the server's kit."""

import base64
import json
import os
import re
import stat
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest
from speed import scaled

from conftest import pneumonia_fl
from federation import SERVER, until
from pneumonia_fl.config.environment import TRACKING_LOGIN
from pneumonia_fl.errors import KitError
from pneumonia_fl.fl.kit.startup_kit import Kind, Kit
from pneumonia_fl.fl.services.launch import end, environment_of
from pneumonia_fl.fl.services.mlflow_login import PASSWORD_FILE, USER, create_app, make_password
from pneumonia_fl.fl.services.mlflow_server import Tracking, answers, start_tracking
from pneumonia_fl.fl.services.participant import Service

ROUTES = """
import json
from mlflow.server import app
from mlflow.server.fastapi_app import app as outer
native = [(method, route.path) for route in outer.routes for method in getattr(route, "methods", None) or ()]
print(json.dumps(native + [(method, rule.rule) for rule in app.url_map.iter_rules() for method in rule.methods]))
"""
"""Prints all routes that MLflow serves by itself."""


def participant(folder: Path, kind: Kind = "server") -> Service:
    (folder / "startup").mkdir(parents=True)
    file = {"servers": [{"admin_server": SERVER, "name": "p", "service": {"target": f"{SERVER}:1"}}]}
    (folder / "startup" / "fed_server.json").write_text(json.dumps(file))
    return Service(Kit(folder, kind, SERVER, "p", SERVER, 1))


INSIDE = """
import asyncio, base64, json, os
from pneumonia_fl.fl.services.mlflow_login import create_app

app = create_app()

def status(method, path, header, value):
    login = base64.b64encode(b"someone:secret").decode()
    headers = {"host": "127.0.0.1:5000", "authorization": f"Basic {login}", header: value}
    scope = {
        "type": "http", "http_version": "1.1", "method": method, "scheme": "http", "path": path, "query_string": b"",
        "root_path": "", "headers": [(name.encode(), text.encode()) for name, text in headers.items()],
        "raw_path": path.encode(), "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 5000),
    }
    said = []

    async def receive():
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message):
        said.append(message)

    asyncio.run(app(scope, receive, send))
    return int(said[0]["status"])

print(json.dumps([status(*request) for request in json.loads(os.environ["REQUESTS"])]))
"""
"""Asks MLflow's application for pages with the right login, without a server."""
LIST = "/api/2.0/mlflow-artifacts/artifacts"
ELSEWHERE = {
    "no artifact": (("GET", f"{LIST}/none", "accept", "*/*"), 404),
    "an artifact elsewhere": (("GET", f"{LIST}/../../secret", "accept", "*/*"), 400),
    "another host": (("GET", f"{LIST}/none", "host", "evil.example"), 403),
    "a page of another origin": (
        ("POST", "/api/2.0/mlflow/experiments/create", "origin", "http://evil.example"),
        403,
    ),
}


@dataclass(frozen=True)
class Beside:
    """A kit's MLflow that runs."""

    server: Service
    tracking: Tracking

    @property
    def password(self) -> str:
        return (self.server.kit.folder / "mlflow" / PASSWORD_FILE).read_text().strip()

    def ask(self, method: str, path: str, login: str | None = None) -> int:
        """The status of the answer."""
        connection = HTTPConnection(urlsplit(self.tracking.uri).netloc, timeout=20)
        headers = (
            {} if login is None else {"Authorization": f"Basic {base64.b64encode(login.encode()).decode()}"}
        )
        try:
            connection.request(method, path, headers=headers)
            return connection.getresponse().status
        finally:
            connection.close()


@pytest.fixture(scope="module")
def beside(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Beside]:
    server = participant(tmp_path_factory.mktemp("mlflow login") / "kit")
    tracking = start_tracking(server)
    try:
        until(lambda: answers(tracking.uri) or tracking.failed(), 90, "MLflow answers")
        assert tracking.failed() is None
        yield Beside(server, tracking)
    finally:
        end([server])
        assert tracking.process is not None
        tracking.process.wait(timeout=scaled(30))


def routes() -> list[tuple[str, str]]:
    done = subprocess.run([sys.executable, "-c", ROUTES], capture_output=True, text=True, check=True)
    found = {(method, re.sub("<[^>]*>|{[^}]*}", "1", path)) for method, path in json.loads(done.stdout)}
    return sorted(found - {("GET", "/health"), ("HEAD", "/health"), ("OPTIONS", "/health")})


@pytest.mark.e2e
def test_every_route_is_refused_without_the_login(beside: Beside) -> None:
    everything = [
        *routes(),
        ("POST", "/graphql"),
        ("GET", "/no/such/page"),
        ("GET", "//health"),
        ("GET", "/health/"),
    ]
    assert len(everything) > 200
    answered = {route: beside.ask(*route) for route in everything}
    assert {route: status for route, status in answered.items() if status != 401} == {}


@pytest.mark.e2e
@pytest.mark.parametrize("path", ["/", "/graphql", "/version", "/api/2.0/mlflow/experiments/search",
    "/api/2.0/mlflow-artifacts/artifacts", "/ajax-api/2.0/mlflow/runs/search", "/static-files/index.html"])  # fmt: skip
@pytest.mark.parametrize("login", ["admin:password", f"{USER}:", f"{USER}:wrong", ":", "no colon"])
def test_a_wrong_password_is_refused(beside: Beside, path: str, login: str) -> None:
    assert beside.ask("GET", path, login) == 401


@pytest.mark.e2e
def test_the_health_check_stays_open_and_the_login_opens_the_rest(beside: Beside) -> None:
    login = f"{USER}:{beside.password}"
    assert beside.ask("GET", "/health") == 200
    assert beside.ask("GET", "/version", login) == 200
    assert beside.ask("GET", "/api/2.0/mlflow/experiments/get-by-name?experiment_name=Default", login) == 200


@pytest.mark.e2e
def test_mlflows_client_takes_the_login_from_its_environment(
    beside: Beside, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from mlflow import MlflowClient

    for name, value in beside.tracking.login.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "note.txt").write_text("kept")
    client = MlflowClient(beside.tracking.uri)
    run = client.create_run(client.create_experiment("login"))
    client.log_metric(run.info.run_id, "auroc", 0.9)
    client.log_artifact(run.info.run_id, str(tmp_path / "note.txt"))
    assert [one.path for one in client.list_artifacts(run.info.run_id)] == ["note.txt"]
    assert client.create_registered_model("pneumonia-fl-login").name == "pneumonia-fl-login"


@pytest.mark.e2e
def test_the_password_stands_in_no_command_line_no_log_and_no_database(beside: Beside) -> None:
    words = [word for one in psutil.process_iter(["cmdline"]) for word in one.info["cmdline"] or ()]
    assert not [word for word in words if beside.password in word]
    files = [
        path for path in beside.server.kit.folder.rglob("*") if path.is_file() and path.name != PASSWORD_FILE
    ]
    assert not [path for path in files if beside.password.encode() in path.read_bytes()]
    assert beside.password not in repr(beside.tracking)


@pytest.mark.e2e
def test_ui_says_where_the_login_lies_and_not_the_password(beside: Beside) -> None:
    kit = beside.server.kit.folder
    done = pneumonia_fl("ui", "mlflow", kit)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        f"MLflow: {beside.tracking.uri}", f"user: {USER}", f"password: in {kit}/mlflow/{PASSWORD_FILE}",
    ]  # fmt: skip
    assert beside.password not in done.stdout + done.stderr


def test_the_password_is_made_once_for_its_owner_only(tmp_path: Path) -> None:
    first = make_password(tmp_path)
    assert len(first) >= 40
    assert make_password(tmp_path) == first
    assert stat.S_IMODE((tmp_path / PASSWORD_FILE).stat().st_mode) == 0o600


def test_without_a_login_mlflow_is_not_served(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(TRACKING_LOGIN[1], raising=False)
    with pytest.raises(KitError, match="no login"):
        create_app()


def test_hosts_origins_and_artifacts_elsewhere_are_refused_even_with_the_login(tmp_path: Path) -> None:
    environment = {
        **os.environ,
        **dict(zip(TRACKING_LOGIN, ("someone", "secret"), strict=True)),
        "REQUESTS": json.dumps([request for request, _ in ELSEWHERE.values()]),
        "_MLFLOW_SERVER_FILE_STORE": f"sqlite:///{tmp_path}/mlflow.db",
        "_MLFLOW_SERVER_SERVE_ARTIFACTS": "true",
        "_MLFLOW_SERVER_ARTIFACT_DESTINATION": str(tmp_path / "artifacts"),
    }
    command = [sys.executable, "-c", INSIDE]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [status for _, status in ELSEWHERE.values()]


def test_sites_do_not_get_the_servers_login(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in TRACKING_LOGIN:
        monkeypatch.setenv(name, "secret")
    assert "secret" in environment_of(participant(tmp_path / "server"), {}).values()
    assert "secret" not in environment_of(participant(tmp_path / "site", "site"), {}).values()


def test_a_kit_that_was_never_started_has_no_mlflow(tmp_path: Path) -> None:
    done = pneumonia_fl("ui", "mlflow", participant(tmp_path / "kit").kit.folder)
    assert done.returncode == 1
    assert "has no MLflow; give a server's kit that `pneumonia-fl up` has started" in done.stderr
