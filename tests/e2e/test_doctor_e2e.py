"""`pneumonia-fl doctor` as a user types it, beside NVFlare's own server."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from doctor_kits import PERSON, SERVER, SITE, Project, provision
from speed import scaled

from conftest import pneumonia_fl
from pneumonia_fl.config.environment import child_environment
from pneumonia_fl.fl.kit.startup_kit import Kit, open_kit
from pneumonia_fl.runs.processes.process_group import RUN_MARK, end_marked

pytestmark = pytest.mark.e2e

CHECKS = {
    SERVER: ["software", "disk", "clock", "certificate", "key", "signature", "files", "instance", "network",
             "port", "tracking", "policy", "guards"],
    SITE: ["software", "disk", "clock", "certificate", "key", "signature", "files", "instance", "network",
           "data", "tracking", "policy", "guards"],
    PERSON: ["software", "disk", "clock", "certificate", "key", "signature", "files", "network", "runs"],
}  # fmt: skip
MARK = "doctor-e2e"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return provision(tmp_path_factory.mktemp("kits") / "ours")


@pytest.fixture(scope="module")
def server(project: Project) -> Iterator[Kit]:
    """NVFlare's server, started as startup/sub_start.sh does it, with its stores inside the kit."""
    kit = open_kit(project.kits / SERVER)
    resources = (kit.local / "resources.json.default").read_text()
    (kit.local / "resources.json").write_text(resources.replace("/tmp/nvflare", str(kit.folder)))
    words = [
        "-m",
        "nvflare.private.fed.app.server.server_train",
        "-m",
        str(kit.folder),
        "-s",
        "fed_server.json",
    ]
    options = ["--set", "secure_train=true", "org=consortium", "config_folder=config"]
    with (kit.folder / "out.log").open("w") as output:
        process = subprocess.Popen(
            [sys.executable, *words, *options],
            stdout=output,
            stderr=output,
            env=child_environment(**{RUN_MARK: MARK}),
        )
    try:
        yield kit
    finally:
        end_marked(MARK)
        process.wait(scaled(10))


def doctor(kit: Path) -> tuple[int, dict[str, list[tuple[str, str]]]]:
    """The exit code, and by check its (level, message) pairs."""
    done = pneumonia_fl("doctor", kit, "--json", timeout=60)
    answer = json.loads(done.stdout)
    assert answer["ok"] is (done.returncode == 0)
    found: dict[str, list[tuple[str, str]]] = {}
    for finding in answer["findings"]:
        assert finding["level"] in ("ok", "warn", "fail")
        found.setdefault(finding["check"], []).append((finding["level"], finding["message"]))
    return done.returncode, found


@pytest.mark.parametrize("name", [SERVER, SITE, PERSON])
def test_before_anything_is_started_every_check_speaks(project: Project, tmp_path: Path, name: str) -> None:
    code, found = doctor(project.copy(name, tmp_path).folder)
    assert list(found) == CHECKS[name]
    failing = {check for check, findings in found.items() if any(level == "fail" for level, _ in findings)}
    # The kits are NVFlare's own, without what `pneumonia-fl provision` lays over them.
    assert failing == {SITE: {"data", "guards"}, SERVER: {"guards"}, PERSON: set()}[name]
    assert code == bool(failing)


def test_the_terminal_shows_a_line_for_each_finding(project: Project) -> None:
    done = pneumonia_fl("doctor", project.kits / PERSON)
    assert done.returncode == 0
    assert "ok   certificate lead@asia.org is signed by the root 'pneumonia_fl'" in done.stdout
    assert "warn network     nothing listens at localhost:" in done.stdout
    assert "Traceback" not in done.stderr


def test_a_machine_without_a_kit() -> None:
    done = pneumonia_fl("doctor", "--json")
    answer = json.loads(done.stdout)
    assert answer["kit"] is None
    assert {finding["check"] for finding in answer["findings"]} == {"software", "disk"}


def test_a_folder_that_is_no_kit_is_one_line(tmp_path: Path) -> None:
    done = pneumonia_fl("doctor", tmp_path)
    assert done.returncode == 1
    assert done.stderr == f"error: no startup kits in {tmp_path}; make some with `pneumonia-fl provision`\n"


def test_a_real_server_takes_the_kits_certificate(project: Project, server: Kit) -> None:
    deadline = time.monotonic() + scaled(60)
    while True:
        _, found = doctor(project.kits / PERSON)
        if {level for level, _ in found["network"]} == {"ok"}:
            break
        assert time.monotonic() < deadline, found["network"]
    assert "server 'localhost' of consortium took this kit's certificate" in found["network"][2][1]
    _, of_server = doctor(server.folder)
    assert "it runs from this kit, process" in of_server["instance"][0][1]
    assert of_server["port"] == [("ok", f"this server listens at port {server.port}")]
    assert {level for level, _ in of_server["network"]} == {"ok"}
