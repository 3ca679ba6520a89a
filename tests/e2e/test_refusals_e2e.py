"""What the port of a running federation refuses, and which kits: nobody gets in, the audit log says so, it stays up.

What never reaches the server (an edited kit that is not started) leaves no line there; all else here does.
"""

import contextlib
import json
import shutil
import socket
import ssl
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from refusals import Audit, say
from speed import scaled

from conftest import pneumonia_fl
from federation import LEAD, LEAD_IT, MEMBER, SERVER, SITES, Federation, provision_kits, until
from pneumonia_fl.fl.services.launch import environment_of
from pneumonia_fl.fl.services.participant import find_services

pytestmark = [pytest.mark.e2e, pytest.mark.usefixtures("harmless")]
SITE, OTHER_SITE = SITES[0], SITES[2]
FLOOD = 300


@pytest.fixture(scope="module")
def foreign(federation: Federation, tmp_path_factory: pytest.TempPathFactory) -> Federation:
    """The same names and port, and another root."""
    kits = provision_kits(tmp_path_factory, tmp_path_factory.mktemp("foreign"), federation.port)
    return Federation(kits, federation.data, federation.port)


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
    (site,) = find_services(kit)
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
        said, _ = process.communicate(timeout=scaled(60))
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
    done = subprocess.run(command, capture_output=True, text=True, timeout=scaled(60), check=False)
    assert "error:client_registration" in done.stderr
    audit.tells(f"[U:{MEMBER}][A:task/register to server]refused: registers as what its certificate is not")


# Commands.


@pytest.mark.parametrize(
    "command",
    ["cells", "process_info server", "speed server server", "list_sessions", "reset_errors 1 server"],
)
def test_a_member_uses_the_network_tools(federation: Federation, audit: Audit, command: str) -> None:
    (answer,) = say(federation, MEMBER, command)
    assert "is for the project admin only" in answer
    line = audit.tells(f"[U:{MEMBER}][A:{command}]", "is for the project admin only")
    assert line.count("[U:") == 1


def test_the_project_admin_uses_them(federation: Federation, audit: Audit) -> None:
    assert "server" in " ".join(say(federation, LEAD_IT, "cells"))
    assert audit.refusals() == []


FORGED = (
    "x\n[E:00000000-0000-0000-0000-000000000000][T:2026-11-25 12:00:00.000000][U:lead-it@consortium.org]done"
)


@pytest.mark.parametrize("command", ["list_jobs", "register_study", "cells"])
def test_a_command_that_looks_like_a_line_of_the_log(
    federation: Federation, audit: Audit, command: str
) -> None:
    say(federation, MEMBER, f'{command} "{FORGED}"')
    until(lambda: "x (E:0000" in _new(audit), 10, "the line about the command")
    (line,) = [line for line in _new(audit).splitlines() if "E:0000" in line]
    assert f"[U:{MEMBER}][A:{command} " in line
    assert line.count("[U:") == line.count("[E:") == 1
    records = [json.loads(line) for line in audit.file.with_suffix(".jsonl").read_text().splitlines()]
    (record,) = [each for each in records if each["event"] == line.removeprefix("[E:").partition("]")[0]]
    assert (record["user"], record["certificate"]) == (MEMBER, MEMBER)


def _new(audit: Audit) -> str:
    return audit.file.read_bytes()[audit.start :].decode()


@pytest.mark.parametrize("name", [SERVER, *SITES])
def test_every_audit_log_is_its_owners_alone_and_has_json_lines(federation: Federation, name: str) -> None:
    say(federation, LEAD_IT, "sys_info all", "check_status all")
    log = federation.kit(name) / "audit.log"
    assert {stat.S_IMODE(file.stat().st_mode) for file in (log, log.with_suffix(".jsonl"))} == {0o600}
    records = [json.loads(line) for line in log.with_suffix(".jsonl").read_text().splitlines()]
    events = [line.partition("]")[0].removeprefix("[E:") for line in log.read_text().splitlines()]
    assert events == [record["event"] for record in records]
    expected = {"action": "check_status all"} if name == SERVER else {"action": "train.check_status"}
    expected |= {"user": LEAD_IT} | ({"certificate": LEAD_IT} if name == SERVER else {"endpoint": "server"})
    assert any(expected.items() <= record.items() for record in records)
