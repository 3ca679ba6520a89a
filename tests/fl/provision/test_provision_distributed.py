"""A private key that never leaves its site; and what a strict site says to code from outside: real processes."""

import json
import os
import re
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from provisioning import SERVER, Kits
from speed import scaled

from conftest import pneumonia_fl
from pneumonia_fl.errors import ConfigError
from pneumonia_fl.fl.doctor.kit_files import signature
from pneumonia_fl.fl.kit.certificates import key_made_at_owner
from pneumonia_fl.fl.kit.startup_kit import open_kit
from pneumonia_fl.fl.provision.csr import approve
from pneumonia_fl.fl.provision.signing import is_signed, verify

SITE = "africa-hospital"
LEAD = "lead@consortium.org"
PORT = 8290
SECONDS = 60.0


def nvflare(*words: object, cwd: Path) -> str:
    """One of NVFlare's own commands, as a site would type it."""
    done = subprocess.run(
        [Path(sys.executable).with_name("nvflare"), *map(str, words)],
        capture_output=True, text=True, timeout=scaled(60), check=False, cwd=cwd, stdin=subprocess.DEVNULL,
        env={**os.environ, "HOME": str(cwd)},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def ask_for_certificate(folder: Path) -> Path:
    """The site's first step: its key and its request."""
    folder.mkdir()
    site = f"name: pneumonia_fl\nparticipants:\n  - {{name: {SITE}, type: client, org: africa_hospital}}\n"
    (folder / "site.yml").write_text(site)
    nvflare("cert", "request", "-p", "site.yml", cwd=folder)
    return folder / SITE / f"{SITE}.request.zip"


@pytest.fixture(scope="module")
def federation_with_guest(original_kits: Kits, tmp_path_factory: pytest.TempPathFactory) -> tuple[Kits, Path]:
    """Central kits on another port, and the kit of a site that made its own key."""
    folder = tmp_path_factory.mktemp("distributed")
    kits = original_kits.copy(folder)
    kits.project.write_text(
        kits.project.read_text().replace("fed_learn_port: 8002", f"fed_learn_port: {PORT}")
    )
    kits.made()
    site = folder / "site"
    request = ask_for_certificate(site)
    key = (site / SITE / f"{SITE}.key").read_bytes()
    answer = json.loads(kits.provision("--approve", request, "--json").stdout)
    with zipfile.ZipFile(answer["signed"]) as signed:
        assert not [name for name in signed.namelist() if b"PRIVATE" in signed.read(name)]
    assert not [path for path in kits.out.rglob("*") if path.is_file() and key in path.read_bytes()]
    nvflare("package", answer["signed"], "--fingerprint", answer["root_fingerprint"], "-w", "ws", cwd=site)
    kit = site / "ws" / "pneumonia_fl" / "prod_00" / SITE
    done = pneumonia_fl("provision", "--finish", kit, "--wheel", kits.wheel)
    assert done.returncode == 0, done.stderr
    return kits, kit


def test_such_a_kit_has_our_policy_and_the_same_root(federation_with_guest: tuple[Kits, Path]) -> None:
    kits, folder = federation_with_guest
    kit = open_kit(folder)
    assert kit.name == SITE
    assert kit.port == PORT
    assert kit.root_certificate.read_bytes() == (kits.out / SERVER / "startup" / "rootCA.pem").read_bytes()
    said = json.loads(pneumonia_fl("authz", "--kit", folder, "--json").stdout)
    assert (said["policy"], said["org"]) == ("strict", "africa_hospital")
    assert (folder / "install.sh").exists()
    assert kit.private_key.stat().st_mode & 0o077 == 0


def test_such_a_kit_is_known_by_its_certificate_and_needs_no_signature(
    federation_with_guest: tuple[Kits, Path],
) -> None:
    kits, folder = federation_with_guest
    kit, central = open_kit(folder), open_kit(kits.out / "asia-hospital")
    assert (is_signed(kit), key_made_at_owner(kit), verify(kit)) == (False, True, [])
    assert [(finding.level, "key was made here" in finding.message) for finding in signature(kit)] == [
        ("warn", True)
    ]
    assert (is_signed(central), key_made_at_owner(central)) == (True, False)


def test_finishing_is_for_such_kits_only(kits: Kits) -> None:
    done = kits.provision("--finish", kits.out / "asia-hospital")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "is finished already" in done.stderr


def test_a_request_that_was_changed_is_refused(kits: Kits, tmp_path: Path) -> None:
    request = ask_for_certificate(tmp_path / "site")
    changed = tmp_path / "changed.request.zip"
    with zipfile.ZipFile(request) as source, zipfile.ZipFile(changed, "w") as target:
        for name in source.namelist():
            target.writestr(name, source.read(name).replace(b"africa_hospital", b"asia_hospital"))
    done = kits.provision("--approve", changed)
    assert done.returncode == 4
    assert done.stderr.startswith(f"error: {changed} was not approved")
    assert done.stderr.count("\n") == 1
    assert not list(tmp_path.glob("*.signed.zip"))


def test_a_request_for_someone_of_the_project_is_refused(kits: Kits, tmp_path: Path) -> None:
    request = ask_for_certificate(tmp_path / "site")
    kits.made("--add-site", f"{SITE}:africa_hospital")
    done = kits.provision("--approve", request)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert f"{SITE} is in" in done.stderr


@pytest.mark.parametrize("name", ["-rf", "Server", "global", "../x", "-x@y.org", SERVER.upper()])
def test_a_request_for_a_name_that_no_participant_may_have_is_refused(
    kits: Kits, tmp_path: Path, name: str
) -> None:
    request = tmp_path / "bad.request.zip"
    with zipfile.ZipFile(request, "w") as archive:
        archive.writestr("request.json", json.dumps({"name": name}))
    with pytest.raises(ConfigError, match=re.escape(name)):
        approve(request, kits.project, kits.out)


def test_a_request_needs_a_root(kits: Kits, tmp_path: Path) -> None:
    done = pneumonia_fl("provision", kits.project, "--out", tmp_path / "none", "--approve", kits.project)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "has no root yet" in done.stderr


def poll(condition: Callable[[], Any], what: str) -> Any:
    deadline = time.monotonic() + scaled(SECONDS)
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(0.2)
    pytest.fail(f"no {what} after {SECONDS:.0f} s")


@contextmanager
def started(*kits: Path) -> Iterator[None]:
    """Run kits by NVFlare's own script; at the end no process of theirs is left."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path}
    running = []
    try:
        for kit in kits:
            with (kit / "said.txt").open("w") as said:
                words = [str(kit / "startup" / "sub_start.sh"), "--once"]
                running.append(psutil.Popen(words, stdout=said, stderr=said, env=environment))
        yield
    finally:
        family = [member for process in running for member in [process, *process.children(recursive=True)]]
        for process in family:
            if process.is_running():
                process.kill()
        psutil.wait_procs(family, timeout=scaled(10))


def job_with_code(folder: Path) -> Path:
    """An NVFlare job that brings a Python file along."""
    (folder / "app" / "config").mkdir(parents=True)
    (folder / "app" / "custom").mkdir()
    (folder / "app" / "custom" / "mine.py").write_text("print('hello from outside')\n")
    meta = {"name": "outside", "min_clients": 1, "resource_spec": {}, "deploy_map": {"app": ["@ALL"]}}
    (folder / "meta.json").write_text(json.dumps(meta))
    for side, what in (("server", "workflows"), ("client", "executors")):
        config = {"format_version": 2, what: [], "components": []}
        (folder / "app" / "config" / f"config_fed_{side}.json").write_text(json.dumps(config))
    return folder


# In a process of its own: NVFlare leaves open the files that it reads at login.
SUBMIT = """
import json, sys, time
from nvflare.fuel.flare_api.flare_api import new_secure_session
person, kit, folder, site, seconds = sys.argv[1:]
session, deadline = new_secure_session(person, kit, timeout=float(seconds)), time.monotonic() + float(seconds)
while [one.name for one in session.get_system_info().client_info] != [site]:
    assert time.monotonic() < deadline, "the site did not join"
    time.sleep(0.2)
job = session.submit_job(folder)
while not (details := session.get_job_meta(job).get("job_deploy_detail")):
    assert time.monotonic() < deadline, "the sites did not answer"
    time.sleep(0.2)
session.close()
print(json.dumps([job, *details]))
"""


@pytest.mark.e2e
def test_the_guest_joins_and_its_strict_policy_refuses_code_in_words(
    federation_with_guest: tuple[Kits, Path], tmp_path: Path
) -> None:
    kits, guest = federation_with_guest
    kits.made("--policy", f"{SERVER}=relaxed")
    server = kits.out / SERVER
    words = [LEAD, kits.out / LEAD, job_with_code(tmp_path / "job"), SITE, scaled(SECONDS)]
    with started(server, guest):
        poll(lambda: "Server started" in (server / "said.txt").read_text(), "server")
        done = subprocess.run(
            [sys.executable, "-c", SUBMIT, *map(str, words)],
            capture_output=True, text=True, timeout=scaled(2 * SECONDS), check=False,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    job, *details = json.loads(done.stdout.splitlines()[-1])
    assert (server / "jobs-storage" / job).is_dir(), "the job store is inside the kit"
    (answer,) = [text for text in details if text.startswith(SITE)]
    assert "site policy 'strict' refuses a job that ships code" in answer
    assert "--ship-code" in answer
