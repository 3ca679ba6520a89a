"""Who speaks is known by the connection: what members, other hospitals and other accounts are refused, live."""

import contextlib
import os
import socket
import subprocess
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from federation import MEMBER, SERVER, SITES, Federation, until
from intruders import (
    ANSWER_SECONDS,
    CONNECT_SECONDS,
    REFUSED,
    SERVER_REQUESTS,
    SITE_COMMANDS,
    ask_server,
    ask_site,
    cell_of,
    handshake,
    internal_port,
    say_origin,
)
from refusals import Audit, audit_from_now, nobody_harmed

pytestmark = pytest.mark.e2e
SITE, OTHER_SITE = SITES[0], SITES[2]
NOBODY = 65534


@pytest.fixture
def audit(federation: Federation) -> Audit:
    """What the server's audit log says from here on."""
    return audit_from_now(federation)


@pytest.fixture(autouse=True)
def harmless(federation: Federation) -> Iterator[None]:
    with nobody_harmed(federation):
        yield


@pytest.fixture(scope="module", params=[MEMBER, OTHER_SITE], ids=["member", "hospital"])
def intruder(request: pytest.FixtureRequest, federation: Federation) -> Iterator[tuple[str, Any]]:
    """Somebody with a kit of this federation: the name in the certificate, and a connected cell."""
    with cell_of(federation.kit(request.param)) as cell:
        until(lambda: cell.core_cell.agents.get("server"), CONNECT_SECONDS, "a connection to the server")
        yield request.param, cell


@pytest.fixture(params=["honest", "forged"])
def origin(request: pytest.FixtureRequest, intruder: tuple[str, Any]) -> Iterator[str]:
    """Whether the message says who it is from."""
    core = intruder[1].core_cell
    if request.param == "forged":
        say_origin(intruder[1], "server")
    yield request.param
    core.out_req_filter_reg = type(core.out_req_filter_reg)()


def said_by(origin: str, honest: str) -> str:
    return "refused: speaks for server" if origin == "forged" else honest


@pytest.mark.parametrize("what", SITE_COMMANDS)
def test_a_command_to_a_hospitals_site(
    what: str, intruder: tuple[str, Any], origin: str, audit: Audit
) -> None:
    name, cell = intruder
    assert ask_site(cell, SITE, what) in REFUSED
    audit.tells(f"[U:{name}]", f"[A:admin/{what} to {SITE}]", said_by(origin, "says nothing to a site"))


@pytest.mark.parametrize("what", SERVER_REQUESTS)
def test_what_only_the_servers_own_jobs_may_ask(
    what: str, intruder: tuple[str, Any], origin: str, audit: Audit
) -> None:
    name, cell = intruder
    assert ask_server(cell, what, str(uuid.uuid4())) in REFUSED
    action = f"[A:server_parent_listener/{SERVER_REQUESTS[what][0]} to server]"
    audit.tells(f"[U:{name}]", action, said_by(origin, "may not ask this of the server"))


def test_a_site_that_says_it_is_a_person(federation: Federation, audit: Audit) -> None:
    with cell_of(federation.kit(OTHER_SITE), f"_admin_{uuid.uuid4()}") as cell:
        until(lambda: cell.core_cell.agents.get("server"), CONNECT_SECONDS, "a connection to the server")
        assert ask_server(cell, "tokens", "x") in REFUSED
    audit.tells(f"[U:{OTHER_SITE}]", "refused: says that it is a person")


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
    done = subprocess.run(["bash", "-c", script], user=NOBODY, capture_output=True, timeout=30, check=False)
    assert done.stdout == b""
    log.tells(f"(uid {NOBODY})", "[A:internal_listener]", "another account of this machine")


def test_a_connection_that_is_silent_keeps_nobody_out(federation: Federation) -> None:
    port = internal_port(federation.kit(SITE))
    with contextlib.ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(socket.create_connection(("127.0.0.1", port)))
        assert handshake(port, federation.kit(SITE), CONNECT_SECONDS).startswith("TLS")


def test_another_hospitals_certificate_is_no_credential_at_a_site(federation: Federation) -> None:
    from nvflare.fuel.f3.cellnet.cell import Cell

    from intruders import credentials
    from pneumonia_fl.fl.kits import open_kit

    log, port = listener_log(federation, SITE), internal_port(federation.kit(SITE))
    name = f"{SITE}.{uuid.uuid4()}"
    cell = Cell(
        fqcn=name, root_url=None, secure=True, parent_url=f"stcp://localhost:{port}",
        credentials=credentials(open_kit(federation.kit(OTHER_SITE))),
    )  # fmt: skip
    cell.start()
    try:
        assert ask_site(cell, SITE, "shell") in REFUSED
    finally:
        cell.stop()
    log.tells(f"[U:{OTHER_SITE}]", "refused: ")


def test_its_own_it_has_no_shell_at_a_strict_site(federation: Federation) -> None:
    from pneumonia_fl.fl.admin.session import login

    log = listener_log(federation, SITE)
    with login(federation.kit(f"it@{SITE}.org")) as person:
        answer = str(person._session.api.server_execute(f"ls {SITE}"))
    assert "not authorized for 'ls'" in answer
    log.tells(f"[U:it@{SITE}.org]", "[A:ls]", "not authorized")
