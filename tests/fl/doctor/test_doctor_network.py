"""What the doctor says about the way to the server, with real TLS servers at its other end."""

import shutil
import socket
import time
from dataclasses import replace
from pathlib import Path

import pytest
from doctor_kits import (
    PERSON,
    SERVER,
    SITE,
    Project,
    certify,
    free_port,
    listening,
    plain_server,
    said,
    tls_server,
)
from speed import scaled

from pneumonia_fl.errors import ConfigError, TimeLimitError
from pneumonia_fl.fl.doctor import network
from pneumonia_fl.fl.doctor import server_checks as server
from pneumonia_fl.fl.doctor.examine import DEADLINE_SECONDS, examine
from pneumonia_fl.fl.kit.startup_kit import Kit, open_kit


@pytest.fixture
def server_kit(project: Project, tmp_path: Path) -> Kit:
    return project.copy(SERVER, tmp_path)


@pytest.mark.parametrize("name", [SITE, PERSON])
def test_mutual_tls_with_the_kits_certificate(
    project: Project, server_kit: Kit, tmp_path: Path, name: str
) -> None:
    with tls_server(server_kit) as port:
        findings = list(network.network(replace(project.copy(name, tmp_path), port=port)))
    assert {finding.level for finding in findings} == {"ok"}
    text = said(iter(findings), "ok")
    assert "server 'localhost' of consortium took this kit's certificate" in text
    assert "its root is this kit's, SHA-256 " in text
    assert "certificate of the server localhost" in text


def test_an_unknown_host_name(kit: Kit) -> None:
    failure = said(network.network(replace(kit, host="server.invalid")), "fail")
    assert "server server.invalid is unknown here" in failure
    assert "/etc/hosts" in failure


def test_a_server_that_is_not_up_yet_is_a_warning(kit: Kit) -> None:
    port = free_port()
    findings = list(network.network(replace(kit, port=port)))
    assert [finding.level for finding in findings] == ["ok", "warn"]
    assert f"nothing listens at localhost:{port} yet" in findings[1].message


def test_a_port_that_takes_connections_and_says_nothing(kit: Kit) -> None:
    with listening() as black_hole:
        started = time.monotonic()
        findings = network.network(replace(kit, port=black_hole.getsockname()[1]))
        assert "takes the connection and then says nothing" in said(findings, "fail")
    assert time.monotonic() - started < network.TLS_SECONDS + scaled(1)


def test_a_port_that_drops_connections(kit: Kit) -> None:
    """A full backlog: the kernel drops what a firewall would."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full:
        port = full.getsockname()[1]
        waiting = [socket.socket() for _ in range(3)]
        for each in waiting:
            each.setblocking(False)
            each.connect_ex(("127.0.0.1", port))
        started = time.monotonic()
        failure = said(network.network(replace(kit, host="127.0.0.1", port=port)), "fail")
        for each in waiting:
            each.close()
    assert f"do the firewalls on both sides let TCP port {port} through?" in failure
    assert time.monotonic() - started < network.TCP_SECONDS + scaled(1)


def test_the_whole_doctor_ends_in_time_before_a_black_hole(kit: Kit) -> None:
    with listening() as black_hole:
        started = time.monotonic()
        results = examine(replace(kit, port=black_hole.getsockname()[1]))
    assert time.monotonic() - started < DEADLINE_SECONDS + scaled(1)
    assert "fail" in {
        finding.level for result in results if result.check == "network" for finding in result.findings
    }


def test_a_server_of_another_root(kit: Kit, stranger: Project, tmp_path: Path) -> None:
    with tls_server(stranger.copy(SERVER, tmp_path / "stranger")) as port:
        failure = said(network.network(replace(kit, port=port)), "fail")
    assert "signed by CN=stranger, is not" in failure


def test_a_kit_that_the_server_refuses(kit: Kit, server_kit: Kit, stranger: Project) -> None:
    for file in ("client.crt", "client.key"):
        shutil.copy(stranger.kits / SITE / "startup" / file, kit.startup)
    with tls_server(server_kit) as port:
        failure = said(network.network(replace(kit, port=port)), "fail")
    assert f"localhost:{port} refuses this kit's certificate (" in failure


def test_a_kit_whose_certificate_expired(kit: Kit, server_kit: Kit, project: Project) -> None:
    certify(kit, project, -1)
    with tls_server(server_kit) as port:
        failure = said(network.network(replace(kit, port=port)), "fail")
    assert "refuses this kit's certificate (" in failure


@pytest.mark.parametrize(
    ("days", "since", "hosts", "message"),
    [
        (-1, -400, (), "expired; the Lead IT renews it with `pneumonia-fl provision --renew localhost`"),
        (100, 2, (), "is not valid yet; set this machine's clock"),
        (
            100,
            -1,
            ("fl.example.org",),
            "is not for localhost; the Lead IT has to add localhost to host_names",
        ),
    ],
)
def test_a_server_certificate_that_is_not_valid(
    kit: Kit, server_kit: Kit, project: Project, days: int, since: int, hosts: tuple[str, ...], message: str
) -> None:
    certify(server_kit, project, days, since, hosts=hosts)
    with tls_server(server_kit) as port:
        assert message in said(network.network(replace(kit, port=port)), "fail")


def test_a_server_certificate_that_ends_soon(kit: Kit, server_kit: Kit, project: Project) -> None:
    certify(server_kit, project, 20.5)
    with tls_server(server_kit) as port:
        warning = said(network.network(replace(kit, port=port)), "warn")
    assert "`pneumonia-fl provision --renew localhost`" in warning


def test_another_program_at_the_port(kit: Kit) -> None:
    with plain_server(lambda client: client.sendall(b"220 mail.example.org ESMTP\r\n")) as port:
        assert f"localhost:{port} does not speak TLS (" in said(
            network.network(replace(kit, port=port)), "fail"
        )


@pytest.mark.parametrize(
    ("greeting", "protocol"), [(b"HTTP/1.1 ", "http/1.1"), (b"\x00\x00\x00\x07" * 3, "h2")]
)
def test_another_program_behind_tls(kit: Kit, server_kit: Kit, greeting: bytes, protocol: str) -> None:
    with tls_server(server_kit, greeting, protocol) as port:
        assert "speaks TLS but not gRPC" in said(network.network(replace(kit, port=port)), "fail")


def test_a_broken_kit_key_is_no_traceback(kit: Kit, server_kit: Kit) -> None:
    kit.private_key.write_bytes(b"no key")
    with tls_server(server_kit) as port:
        results = {result.check: result.findings for result in examine(replace(kit, port=port))}
    assert results["network"][-1].level == "fail"


def test_waiting_for_a_call_without_a_timeout_ends() -> None:
    with listening() as silent_port, pytest.raises(TimeLimitError):
        network.within(0.2, silent_port.accept)


# -- the server's own side


def test_a_free_port_before_start(server_kit: Kit) -> None:
    kit = replace(server_kit, port=free_port())
    assert said(server.port(kit), "ok") == f"port {kit.port} is free"
    assert "port and TLS are checked once the server runs" in said(network.network(kit), "ok")


def test_a_port_that_is_taken_names_the_program(server_kit: Kit) -> None:
    with listening() as other:
        kit = replace(server_kit, port=other.getsockname()[1])
        assert f"port {kit.port} is taken by process " in said(server.port(kit), "fail")


def test_a_server_name_that_only_the_server_does_not_know(server_kit: Kit) -> None:
    kit = replace(server_kit, host="server.invalid")
    assert "sites must find it in DNS" in said(network.network(kit), "warn")


@pytest.fixture
def tracked(server_kit: Kit) -> Kit:
    (server_kit.local / "pneumonia_fl.yml").write_text("tracking_uri: http://127.0.0.1:9/\n")
    return open_kit(server_kit.folder)


def test_without_a_tracking_server_each_job_keeps_its_own_metrics(server_kit: Kit) -> None:
    assert "starts an MLflow server here" in said(server.tracking(server_kit), "ok")


def test_the_environment_goes_before_the_kits_tracking_server(
    tracked: Kit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PNEUMONIA_FL_TRACKING_URI", "sqlite:////tmp/mlflow.db")
    assert said(server.tracking(tracked), "ok") == "metrics go to sqlite:////tmp/mlflow.db"


def test_a_tracking_server_that_does_not_answer(tracked: Kit) -> None:
    warning = said(server.tracking(tracked), "warn")
    assert "no MLflow server at http://127.0.0.1:9/ (" in warning


def test_a_tracking_address_with_a_login_is_refused_without_repeating_it(tracked: Kit) -> None:
    (tracked.local / "pneumonia_fl.yml").write_text("tracking_uri: http://user:secret@127.0.0.1:9/\n")
    with pytest.raises(ConfigError, match="set MLFLOW_TRACKING_USERNAME") as refusal:
        tracked.settings()
    assert "secret" not in str(refusal.value)


@pytest.mark.parametrize(("status", "level"), [(b"200 OK", "ok"), (b"404 Not Found", "warn")])
def test_what_answers_at_the_tracking_uri(server_kit: Kit, status: bytes, level: str) -> None:
    requests: list[bytes] = []

    def answer(client: socket.socket) -> None:
        requests.append(client.recv(4096))
        client.sendall(b"HTTP/1.1 " + status + b"\r\nContent-Length: 2\r\nConnection: close\r\n\r\nOK")

    with plain_server(answer) as port:
        (server_kit.local / "pneumonia_fl.yml").write_text(f"tracking_uri: http://127.0.0.1:{port}/ml\n")
        assert f"http://127.0.0.1:{port}/ml" in said(server.tracking(server_kit), level)
    assert requests[0].startswith(b"GET /ml/health ")
