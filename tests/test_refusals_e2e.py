"""What a running federation refuses: in words to whoever tried, with a line in the server's audit log, and it stays up.

What never reaches the server (an edited kit that is not started) leaves no line there; all else here does.
"""

import contextlib
import json
import shutil
import socket
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from conftest import pneumonia_fl, read_json
from federation import (
    LEAD,
    MEMBER,
    SERVER,
    SITES,
    Federation,
    provision_kits,
    until,
)
from pneumonia_fl.config import load_job
from pneumonia_fl.fl.federation.launch import environment_of
from pneumonia_fl.fl.federation.participant import find_participants
from pneumonia_fl.fl.federation.status import status
from pneumonia_fl.fl.jobs import export_job
from pneumonia_fl.jobfiles import find_job

pytestmark = pytest.mark.e2e
SITE, OTHER_SITE = SITES[0], SITES[2]
SECOND_LEAD = "second@consortium.org"
SMOKE = ("rounds=1", "train.local_epochs=1", "preprocess.size=32")
FLOOD = 300
Done = subprocess.CompletedProcess[str]


@dataclass(frozen=True)
class Audit:
    """The server's audit log from some moment on."""

    file: Path
    start: int

    def refusals(self) -> list[str]:
        """The lines about what was refused."""
        text = self.file.read_bytes()[self.start :].decode()
        return [line for line in text.splitlines() if "refused: " in line]

    def tells(self, *parts: str) -> str:
        """Wait for the line with all these parts."""
        return str(until(lambda: self._find(parts), 10, f"a refusal with {parts} in {self.file}"))

    def _find(self, parts: tuple[str, ...]) -> str:
        return next((line for line in self.refusals() if all(part in line for part in parts)), "")


@pytest.fixture
def audit(federation: Federation) -> Audit:
    """What the audit log says from here on."""
    file = federation.kit(SERVER) / "audit.log"
    return Audit(file, file.stat().st_size)


@pytest.fixture(autouse=True)
def nobody_is_harmed(federation: Federation) -> Iterator[None]:
    """After each refusal the server and its sites are the same processes as before."""
    before = ready(federation)
    assert len(before) == 1 + len(SITES)
    yield
    assert ready(federation) == before


def ready(federation: Federation) -> dict[str, int]:
    return {entry["name"]: entry["pid"] for entry in status(federation.kits) if entry["ready"]}


@pytest.fixture(scope="module")
def foreign(federation: Federation, tmp_path_factory: pytest.TempPathFactory) -> Federation:
    """The same names and port, and another root."""
    kits = provision_kits(tmp_path_factory.mktemp("foreign"), federation.port)
    return Federation(kits, federation.data, federation.port)


@pytest.fixture(scope="module")
def second_lead(federation: Federation) -> Path:
    """A lead who joins while everything runs."""
    project = federation.kits.parent / "project.yml"
    words = f"{SECOND_LEAD}:consortium:lead"
    done = pneumonia_fl("provision", project, "--out", federation.kits, "--add-user", words)
    assert done.returncode == 0, done.stderr
    return federation.kit(SECOND_LEAD)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A good job of one round as an NVFlare job folder."""
    job = load_job(find_job("smoke"), SMOKE)
    return export_job(job, SITES, tmp_path_factory.mktemp("exported"))


def refused(done: Done, *parts: str) -> None:
    """One line with these parts, and the exit code of a refusal."""
    assert done.returncode == 4, done.stdout + done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert all(part in line for part in parts), line
    assert "Traceback" not in done.stderr


# The port.


def connect(federation: Federation, source: str) -> socket.socket:
    """A connection from an address of loopback of its own: the log is quiet about one that it named just now."""
    return socket.create_connection(("127.0.0.1", federation.port), timeout=5, source_address=(source, 0))


def shake_hands(federation: Federation, source: str, certificate: Path | None) -> bytes:
    """What the server says after TLS, under which it has proved to be who it is."""
    context = ssl.create_default_context(cafile=federation.kit(SITE) / "startup" / "rootCA.pem")
    context.set_alpn_protocols(["h2"])
    if certificate:
        context.load_cert_chain(certificate, certificate.with_suffix(".key"))
    with connect(federation, source) as plain, context.wrap_socket(plain, server_hostname=SERVER) as tls:
        try:
            return tls.recv(1024)
        except (ssl.SSLError, ConnectionError):
            return b""


def test_bytes_that_are_no_tls(federation: Federation, audit: Audit) -> None:
    with connect(federation, "127.0.0.11") as plain:
        plain.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        with contextlib.suppress(ConnectionError):
            assert plain.recv(1024) == b""
    audit.tells("[U:ipv4:127.0.0.11:", "[A:tls_handshake]", "not TLS")


def test_tls_without_a_certificate(federation: Federation, audit: Audit) -> None:
    assert shake_hands(federation, "127.0.0.12", None) == b""
    audit.tells("[U:ipv4:127.0.0.12:", "[A:tls_handshake]", "no client certificate")


def test_tls_with_a_certificate_of_another_root(
    federation: Federation, foreign: Federation, audit: Audit
) -> None:
    certificate = foreign.kit(SITE) / "startup" / "client.crt"
    assert shake_hands(federation, "127.0.0.13", certificate) == b""
    audit.tells("[U:ipv4:127.0.0.13:", "[A:tls_handshake]", "another root")
    own = federation.kit(SITE) / "startup" / "client.crt"
    assert shake_hands(federation, "127.0.0.14", own) != b"", "the same with a certificate of this root"
    assert not any("127.0.0.14" in line for line in audit.refusals())


def test_a_flood_fills_no_log(federation: Federation, audit: Audit) -> None:
    logs = [federation.kit(SERVER) / name for name in ("audit.log", "startup.log", "log.txt")]
    before = sum(log.stat().st_size for log in logs)
    for _ in range(FLOOD):
        with connect(federation, "127.0.0.15") as plain:
            plain.sendall(b"\0" * 64)
            with contextlib.suppress(ConnectionError):
                plain.recv(1)
    audit.tells("[U:ipv4:127.0.0.15:")
    assert len([line for line in audit.refusals() if "127.0.0.15" in line]) <= 2
    assert sum(log.stat().st_size for log in logs) - before < 20_000


# Kits.


def test_a_site_of_another_root(federation: Federation, foreign: Federation, audit: Audit) -> None:
    done = pneumonia_fl("up", foreign.kit(SITE), "--data", foreign.data, "--timeout", 12)
    assert done.returncode == 3
    assert f"no connection to localhost:{federation.port}" in done.stderr
    assert federation.sites() == sorted(SITES)
    # Its own side refuses the server first, and hangs up; the server cannot tell that from a look at its port.
    whole = Audit(audit.file, 0)
    whole.tells("[A:tls_handshake]", "or a kit of another root")


def test_a_person_of_another_root(federation: Federation, foreign: Federation) -> None:
    done = pneumonia_fl("submit", "smoke", "--kit", foreign.kit(LEAD))
    assert done.returncode == 1, "refused by the kit itself: it is not its server"
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert "is not of this kit's root" in line


def nvflare_site(kit: Path, uid: str) -> "subprocess.Popen[str]":
    """NVFlare's own site process, as `sub_start.sh` starts it."""
    (site,) = find_participants(kit)
    command = [sys.executable, "-u", "-m", "nvflare.private.fed.app.client.client_train", "-m", str(kit)]
    command += ["-s", "fed_client.json", "--set", "secure_train=true", f"uid={uid}", "org=us_hospital"]
    return subprocess.Popen(
        [*command, "config_folder=config"],
        env=environment_of(site, {}), cwd=kit, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


@pytest.fixture
def copied_kit(federation: Federation, tmp_path: Path) -> Path:
    """A site's kit as it was provisioned, for one test to spoil."""
    for part in ("startup", "local"):
        shutil.copytree(federation.kit(OTHER_SITE) / part, tmp_path / "kit" / part)
    return tmp_path / "kit"


@pytest.mark.parametrize("name", ["fed_client.json", "start.sh", "client.key"])
def test_an_edited_kit_is_refused_before_it_starts(
    copied_kit: Path, federation: Federation, name: str
) -> None:
    with (copied_kit / "startup" / name).open("a") as file:
        file.write("\n")
    up = pneumonia_fl("up", copied_kit, "--data", federation.data)
    assert (up.returncode, f"is not as it was signed ({name})" in up.stderr) == (1, True), up.stderr
    doctor = pneumonia_fl("doctor", copied_kit, "--json")
    failed = [entry["message"] for entry in json.loads(doctor.stdout)["findings"] if entry["level"] == "fail"]
    assert doctor.returncode == 1
    assert any(name in message for message in failed), failed


def test_nvflare_itself_does_not_start_with_edited_settings(copied_kit: Path) -> None:
    with (copied_kit / "startup" / "fed_client.json").open("a") as file:
        file.write("\n")
    with nvflare_site(copied_kit, OTHER_SITE) as process:
        said, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "The following files are not secure content.\nfed_client.json" in said


def test_a_site_under_another_sites_name(copied_kit: Path, audit: Audit) -> None:
    # Nobody checks the start scripts' content when NVFlare is started by hand: the certificate has to.
    with nvflare_site(copied_kit, SITE) as process:
        try:
            audit.tells("[A:register]", f"authenticated as '{OTHER_SITE}' but claimed endpoint '{SITE}'")
        finally:
            process.kill()


LOGIN = """
import sys
from nvflare.fuel.flare_api.flare_api import new_secure_session
new_secure_session(sys.argv[1], sys.argv[2], timeout=5)
"""


def test_a_person_under_another_persons_name(federation: Federation, audit: Audit) -> None:
    command = [sys.executable, "-c", LOGIN, LEAD, str(federation.kit(MEMBER))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert "error:client_registration" in done.stderr
    audit.tells(f"[U:{LEAD}][A:register]", "failed to verify client identity: CNMismatch")


# People.


def test_a_member_submits(federation: Federation, audit: Audit) -> None:
    kit = federation.kit(MEMBER)
    refused(pneumonia_fl("submit", "smoke", "--kit", kit), f"{MEMBER} (member) may not submit jobs")
    audit.tells(f"[U:{MEMBER}][A:job_mgmt.submit_job ", "is not authorized for 'submit_job'")


@pytest.fixture(scope="module")
def leads_job(federation: Federation, exported: Path) -> str:
    """A job of the lead's; waiting for a fourth site, so that it costs nothing."""
    words = ("submit", "smoke", "--kit", federation.kit(LEAD), "--min-sites", 4, "--json")
    done = pneumonia_fl(*words)
    assert done.returncode == 0, done.stderr
    return str(json.loads(done.stdout)["id"])


@pytest.mark.parametrize(
    ("command", "may_not", "right"),
    [
        ("abort", "abort this job", "abort_job"),
        ("download", "download this job", "download_job"),
        ("logs", "read this job's log", "get_job_log"),
        ("delete", "delete this job", "delete_job"),
    ],
)
def test_a_lead_meddles_with_another_leads_job(
    leads_job: str, second_lead: Path, audit: Audit, command: str, may_not: str, right: str, tmp_path: Path
) -> None:
    done = pneumonia_fl(command, leads_job, "--kit", second_lead, cwd=tmp_path)
    refused(done, f"{SECOND_LEAD} (lead) may not {may_not}")
    audit.tells(f"[U:{SECOND_LEAD}]", f"{right} {leads_job}", "not authorized")


def test_a_lead_resumes_another_leads_job(leads_job: str, second_lead: Path, federation: Federation) -> None:
    ended = pneumonia_fl("abort", leads_job, "--kit", federation.kit(LEAD))
    assert ended.returncode == 0, ended.stderr
    done = pneumonia_fl("resume", leads_job, "--kit", second_lead)
    refused(done, f"{LEAD}'s; only they can resume it")


# Jobs.


def submit(federation: Federation, job: Path | str, *words: object) -> Done:
    kit = federation.kit(LEAD)
    return pneumonia_fl("submit", job, "--kit", kit, "--wait", "--timeout", 2, *words)


def test_shipped_code_at_strict_sites(federation: Federation, audit: Audit) -> None:
    done = submit(federation, "smoke", "--ship-code")
    refused(done, "site policy 'strict' refuses a job that ships code; submit it without --ship-code")
    for site in SITES:
        audit.tells(
            f"[U:{LEAD}][A:deploy ", f"{site}: ", "site policy 'strict' refuses a job that ships code"
        )


def executor(path: str, **arguments: Any) -> Callable[[Any, Any], None]:
    def change(site: Any, server: Any) -> None:
        site["executors"][0]["executor"] = {"path": path, "args": arguments}

    return change


def trainer(**arguments: Any) -> Callable[[Any, Any], None]:
    return lambda site, server: site["executors"][0]["executor"]["args"].update(arguments)


def on_server(path: str, **arguments: Any) -> Callable[[Any, Any], None]:
    return lambda site, server: server["components"].append({"id": "x", "path": path, "args": arguments})


SHELL = "nvflare.app_common.executors.client_api_executor.ClientAPIExecutor"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (executor(SHELL, command="touch MARK"), f"site policy 'strict' refuses a job that uses {SHELL}, which"),
        (trainer(command="touch MARK"), "site policy 'strict' refuses a job that sets command of the trainer"),
        (trainer(settings=["data=/etc"]), "site policy 'strict' refuses a job that names the path /etc"),
        (on_server("subprocess.Popen", args=["touch", "MARK"]), "server refuses a job that uses subprocess.Popen"),
        (
            on_server("pneumonia_fl.fl.processes.run_until_stopped", command=["touch", "MARK"]),
            "server refuses a job that uses pneumonia_fl.fl.processes.run_until_stopped",
        ),
        (
            on_server("pneumonia_fl.fl.receivers.TensorBoardReceiver", resume_from="../startup"),
            "server refuses a job that names the path ../startup",
        ),
    ],
    ids=["class", "command", "path", "server class", "server function", "server path"],
)  # fmt: skip
def test_a_job_that_wants_more_than_it_may(
    federation: Federation, exported: Path, audit: Audit, tmp_path: Path, change: Any, reason: str
) -> None:
    mark = tmp_path / "mark"
    job = shutil.copytree(exported, tmp_path / "greedy")
    site, server = (job / "app" / "config" / f"config_fed_{who}.json" for who in ("client", "server"))
    values = read_json(site), read_json(server)
    change(*values)
    for file, value in zip((site, server), values, strict=True):
        file.write_text(json.dumps(value).replace("MARK", str(mark) if "subprocess" in reason else "mark"))
    refused(submit(federation, job), reason)
    audit.tells(f"[U:{LEAD}][A:deploy ", reason)
    assert not mark.exists()
    assert not [path for kit in (SERVER, *SITES) for path in federation.kit(kit).rglob("mark")]


TAMPERED = """
import sys
from pathlib import Path
from nvflare.fuel.flare_api.flare_api import new_secure_session
from nvflare.fuel.hci.client.file_transfer import _FileSender
from nvflare.fuel.utils.zip_utils import zip_directory_to_file
from nvflare.lighter.utils import load_private_key_file, sign_folders

name, kit, job = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
sign_folders(str(job), load_private_key_file(str(kit / "startup/client.key")), str(kit / "startup/client.crt"))
config = job / "app/config/config_fed_client.json"
config.write_text(config.read_text().replace("train.local_epochs=1", "train.local_epochs=2"))
zip_directory_to_file(str(job.parent), job.name, str(job.parent / "job.zip"))
session = new_secure_session(name, str(kit), timeout=10)
try:
    command = f"job_mgmt.submit_job {job.name}"
    context = session.api._new_command_context(command, command.split(), None)
    context.set_requester(_FileSender(str(job.parent / "job.zip")))
    print(session.api.server_execute(command, cmd_ctx=context)["meta"]["job_id"])
finally:
    session.close()
"""
"""What NVFlare's client does to submit a job, with a change between signing and sending."""


def test_a_job_that_was_changed_after_it_was_signed(
    federation: Federation, exported: Path, audit: Audit, tmp_path: Path
) -> None:
    job, kit = shutil.copytree(exported, tmp_path / "smoke"), federation.kit(LEAD)
    command = [sys.executable, "-c", TAMPERED, LEAD, str(kit), str(job)]
    sent = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert sent.returncode == 0, sent.stderr
    job_id = sent.stdout.split()[-1]
    refused(
        pneumonia_fl("watch", job_id, "--kit", kit, "--timeout", 1), "does not pass signature verification"
    )
    audit.tells(f"[A:deploy {job_id}]", "does not pass signature verification")


def test_a_good_job_still_runs(federation: Federation, exported: Path, audit: Audit) -> None:
    done = submit(federation, exported)
    assert done.returncode == 0, done.stderr
    assert [line for line in audit.refusals() if "[A:tls_handshake]" not in line] == []
    assert federation.sites() == sorted(SITES)
