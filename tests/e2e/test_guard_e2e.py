"""Who speaks is known by the connection: what members, other hospitals and other accounts are refused, live."""

import contextlib
import os
import socket
import subprocess
import sys
import uuid
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from intruders import (
    ANSWER_SECONDS,
    CONNECT_SECONDS,
    REFUSED,
    SERVER_REQUESTS,
    SITE_COMMANDS,
    ask,
    handshake,
    internal_port,
    person,
)
from refusals import Audit, audit_from_now, nobody_harmed, say
from speed import scaled

from conftest import ROOT
from federation import MEMBER, SERVER, SITES, Federation

pytestmark = pytest.mark.e2e
SITE, OTHER_SITE = SITES[0], SITES[2]
NOBODY = 65534


@pytest.fixture(autouse=True)
def harmless(federation: Federation) -> Iterator[None]:
    with nobody_harmed(federation):
        yield


@dataclass(frozen=True)
class Attempt:
    """Somebody with a kit of this federation who has asked for everything."""

    who: str
    forged: bool
    answers: dict[str, str]
    audit: Audit

    def was_refused(self, what: str, target: str, honest_reason: str) -> None:
        assert self.answers[what] in REFUSED
        channel = "admin" if what in SITE_COMMANDS else "server_parent_listener"
        reason = "speaks for server" if self.forged else honest_reason
        self.audit.tells(f"[U:{self.who}][A:{channel}/{what} to {target}]refused: {reason}")


@pytest.fixture(
    scope="module",
    params=[(MEMBER, False), (MEMBER, True), (OTHER_SITE, False), (OTHER_SITE, True)],
    ids=["member", "member as the server", "hospital", "hospital as the server"],
)
def attempt(request: pytest.FixtureRequest, federation: Federation) -> Attempt:
    """A member or another hospital, honest about who it is or not."""
    who, forged = request.param
    audit = audit_from_now(federation)
    name = person() if "@" in who else f"{who}.{uuid.uuid4()}"
    url = f"grpc://localhost:{federation.port}"
    answers = ask(federation.kit(who), name, url, "server" if forged else "", SITE)
    return Attempt(who, forged, answers, audit)


@pytest.mark.parametrize("what", SITE_COMMANDS)
def test_a_command_to_another_hospitals_site(what: str, attempt: Attempt) -> None:
    speaker = "a person" if "@" in attempt.who else "a site's job"
    attempt.was_refused(what, SITE, f"{speaker} says nothing to a site")


@pytest.mark.parametrize("what", SERVER_REQUESTS)
def test_what_only_the_servers_own_jobs_may_ask(what: str, attempt: Attempt) -> None:
    speaker = "a person" if "@" in attempt.who else "a site's job"
    attempt.was_refused(what, "server", f"{speaker} may not ask this of the server")


def test_a_site_that_says_it_is_a_person(federation: Federation) -> None:
    audit = audit_from_now(federation)
    url = f"grpc://localhost:{federation.port}"
    answers = ask(federation.kit(OTHER_SITE), person(), url, "", SITE)
    assert set(answers.values()) <= REFUSED
    audit.tells(f"[U:{OTHER_SITE}]", "refused: says that it is a person")


CONNECTIONS = """
import sys, threading
import grpc
from nvflare.fuel.f3.drivers.grpc.streamer_pb2_grpc import StreamerStub
from intruders import credentials
from pathlib import Path
from pneumonia_fl.fl.kit.startup_kit import open_kit

kit, address, count = sys.argv[1:]
one = credentials(open_kit(Path(kit)))
root, key, own = (Path(one[name]).read_bytes() for name in ("ca_cert", "client_key", "client_cert"))
channel = grpc.secure_channel(address, grpc.ssl_channel_credentials(root, key, own))
over = threading.Event()
streams = [StreamerStub(channel).Stream(iter(over.wait, True)) for _ in range(int(count))]
print("opened", flush=True)
sys.stdin.read()
over.set()
"""


def test_a_member_with_many_connections_keeps_nobody_out(federation: Federation) -> None:
    audit = audit_from_now(federation)
    words = [federation.kit(MEMBER), f"localhost:{federation.port}", 120]
    command = [sys.executable, "-c", CONNECTIONS, *map(str, words)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, cwd=ROOT / "tests/support", text=True, **pipes) as crowd:
        assert crowd.stdout is not None
        assert crowd.stdout.readline() == "opened\n"
        audit.tells(f"[U:{MEMBER}][A:connection]refused: has 20 connections already")
        assert set(federation.sites()) == set(SITES)
        crowd.kill()


# The internal listeners.


def listener_log(federation: Federation, name: str) -> Audit:
    file = federation.kit(name) / "audit.log"
    return Audit(file, file.stat().st_size if file.exists() else 0)


@pytest.mark.parametrize("name", [SITE, SERVER])
def test_an_account_without_a_kit_does_not_reach_the_processes_of_one(
    name: str, federation: Federation
) -> None:
    log, port = listener_log(federation, name), internal_port(federation.kit(name))
    with socket.create_connection(("127.0.0.1", port), timeout=ANSWER_SECONDS) as plain:
        plain.sendall(b"\0" * 64)
        with contextlib.suppress(ConnectionError):
            assert b"\0" not in plain.recv(1024)
    log.tells("[U:127.0.0.1:", "[A:internal_listener]", "no TLS handshake with a certificate of this kit")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be another account")
def test_another_account_is_hung_up_on(federation: Federation) -> None:
    log, port = listener_log(federation, SITE), internal_port(federation.kit(SITE))
    script = f"exec 3<>/dev/tcp/127.0.0.1/{port}; cat <&3"
    done = subprocess.run(
        ["bash", "-c", script], user=NOBODY, capture_output=True, timeout=scaled(30), check=False
    )
    assert done.stdout == b""
    log.tells(f"(uid {NOBODY})", "[A:internal_listener]", "another account of this machine")


def test_a_connection_that_is_silent_keeps_nobody_out(federation: Federation) -> None:
    port = internal_port(federation.kit(SITE))
    with contextlib.ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(socket.create_connection(("127.0.0.1", port)))
        assert handshake(port, federation.kit(SITE), CONNECT_SECONDS).startswith("TLS")


def test_another_hospitals_certificate_is_no_credential_at_a_site(federation: Federation) -> None:
    log, port = listener_log(federation, SITE), internal_port(federation.kit(SITE))
    name = f"{SITE}.{uuid.uuid4()}"
    answers = ask(federation.kit(OTHER_SITE), name, f"stcp://localhost:{port}", "", SITE)
    assert set(answers.values()) <= REFUSED
    log.tells(f"[U:{OTHER_SITE}][A:internal_listener]refused: its certificate is not that of {name}")


def test_its_own_it_has_no_shell_at_a_strict_site(federation: Federation) -> None:
    log, own_it = listener_log(federation, SITE), f"it@{SITE}.org"
    (answer,) = say(federation, own_it, f"ls {SITE}")
    assert "not authorized for 'ls'" in answer
    log.tells(f"[U:{own_it}][A:ls]refused: not authorized")
