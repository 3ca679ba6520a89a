"""Proxies: whether gRPC goes through one is told as gRPC itself decides it, with the variable and the remedy."""

import os
import select
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import grpc
import pytest
from doctor_kits import (
    PERSON,
    SERVER,
    SITE,
    Project,
    free_port,
    listening,
    plain_server,
    said,
    tls_server,
)

from conftest import pneumonia_fl
from pneumonia_fl.fl.doctor import network
from pneumonia_fl.fl.kit.grpc_proxy import LOOPBACK, proxy_for, with_loopback

P = "http://127.0.0.1:PORT"
NOT_THERE = {"https_proxy": "http://127.0.0.1:9"}
RULES = [
    ({}, "localhost", ""),
    ({"https_proxy": P}, "localhost", "https_proxy"),
    ({"http_proxy": P}, "localhost", "http_proxy"),
    ({"grpc_proxy": P}, "localhost", "grpc_proxy"),
    ({"HTTPS_PROXY": P}, "localhost", ""),
    ({"HTTP_PROXY": P, "ALL_PROXY": P, "all_proxy": P}, "localhost", ""),
    ({"grpc_proxy": "", "https_proxy": P}, "localhost", ""),
    ({"https_proxy": "", "http_proxy": P}, "localhost", ""),
    ({"https_proxy": "https://127.0.0.1:PORT"}, "localhost", ""),
    ({"https_proxy": "socks5://127.0.0.1:PORT"}, "localhost", ""),
    ({"https_proxy": "127.0.0.1:PORT"}, "localhost", ""),
    ({"https_proxy": "http://user:p%40ss@127.0.0.1:PORT/"}, "localhost", "https_proxy"),
    ({"https_proxy": P, "no_proxy": "localhost"}, "localhost", ""),
    ({"https_proxy": P, "no_proxy": "x.org, LOCALHOST"}, "localhost", ""),
    ({"https_proxy": P, "no_proxy": ".localhost"}, "localhost", ""),
    ({"https_proxy": P, "no_proxy": "host"}, "localhost", "https_proxy"),
    ({"https_proxy": P, "no_proxy": "*"}, "localhost", "https_proxy"),
    ({"https_proxy": P, "no_proxy": "127.0.0.1"}, "localhost", "https_proxy"),
    ({"https_proxy": P, "no_proxy": "127.0.0.0/8"}, "127.0.0.1", ""),
    ({"https_proxy": P, "NO_PROXY": "localhost"}, "localhost", "https_proxy"),
    ({"https_proxy": P, "no_grpc_proxy": "localhost"}, "localhost", ""),
    ({"https_proxy": P, "no_grpc_proxy": "x", "no_proxy": "localhost"}, "localhost", "https_proxy"),
]


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)


def connects_to(address: str, listeners: dict[int, str]) -> str:
    """Which of the listeners gRPC's own client calls first."""
    with grpc.insecure_channel(address) as channel:
        call = channel.unary_unary("/any/call").future(b"", timeout=10)
        ready, _, _ = select.select(list(listeners), [], [], 10)
        call.cancel()
        return listeners[ready[0]]


@pytest.mark.parametrize(("variables", "host", "expected"), RULES)
def test_the_rules_are_grpcs_own(
    variables: dict[str, str], host: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ExitStack() as stack:
        proxy, server = (stack.enter_context(listening()) for _ in range(2))
        for name, value in variables.items():
            monkeypatch.setenv(name, value.replace("PORT", str(proxy.getsockname()[1])))
        found = proxy_for(host)
        assert (found.variable if found else "") == expected
        way = connects_to(
            f"{host}:{server.getsockname()[1]}", {proxy.fileno(): "proxy", server.fileno(): "server"}
        )
        assert way == ("proxy" if expected else "server")


@pytest.fixture
def kit_behind_a_proxy(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[list[bytes]]:
    """A proxy that asks for a password; what it was told."""
    told: list[bytes] = []

    def answer(client: socket.socket) -> None:
        told.append(client.recv(4096))
        with socket.create_connection(("127.0.0.1", int(told[-1].split()[1].rpartition(b":")[2]))) as server:
            client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            pump(client, server)

    with plain_server(answer) as port:
        monkeypatch.setenv("https_proxy", f"http://user:p%40ss@127.0.0.1:{port}")
        yield told


def pump(one: socket.socket, other: socket.socket) -> None:
    ways = {one: other, other: one}
    while True:
        for source in select.select([one, other], [], [], 5)[0]:
            data = source.recv(4096)
            if not data:
                return
            ways[source].sendall(data)


def test_a_proxy_that_leads_to_the_server_is_fine(
    project: Project, tmp_path: Path, kit_behind_a_proxy: list[bytes]
) -> None:
    with tls_server(project.copy(SERVER, tmp_path)) as port:
        findings = list(network.network(replace(project.copy(SITE, tmp_path), port=port)))
    assert {finding.level for finding in findings} == {"ok"}
    assert f"https_proxy sends gRPC to localhost:{port} through the proxy 127.0.0.1:" in findings[0].message
    assert "p@ss" not in findings[0].message
    assert "took this kit's certificate" in findings[1].message
    assert b"Proxy-Authorization: Basic dXNlcjpwQHNz\r\n" in kit_behind_a_proxy[0]


@pytest.mark.parametrize(
    ("said_first", "reason"),
    [
        (b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n", "refuses: HTTP 407 Proxy Authentication"),
        (b"220 mail.example.org ESMTP\r\n\r\n", "does not answer as a proxy does"),
    ],
)
def test_a_proxy_that_refuses_is_named_with_the_remedy(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said_first: bytes, reason: str
) -> None:
    with plain_server(lambda client: client.sendall(said_first)) as port:
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{port}")
        failure = said(network.network(project.copy(SITE, tmp_path)), "fail")
    assert failure.startswith("http_proxy sends gRPC to localhost:")
    assert reason in failure
    assert 'go straight: `export no_proxy="$no_proxy,localhost"`, or unset http_proxy' in failure


def test_variables_that_grpc_does_not_read_are_told(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    kit = replace(project.copy(SITE, tmp_path), port=free_port())
    assert "HTTPS_PROXY does not count: gRPC reads https_proxy" in said(network.network(kit), "ok")


def test_a_server_that_does_not_run_yet_tells_of_the_proxy(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("https_proxy", NOT_THERE["https_proxy"])
    assert "https_proxy sends sites and people" in said(
        network.network(project.copy(SERVER, tmp_path)), "warn"
    )


def test_processes_of_the_server_reach_this_machine_without_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    assert with_loopback() == LOOPBACK
    monkeypatch.setenv("NO_PROXY", "x.org")
    assert with_loopback() == f"x.org,{LOOPBACK}"


def test_a_person_is_told_which_variable_is_in_the_way(project: Project, tmp_path: Path) -> None:
    person = project.copy(PERSON, tmp_path)
    done = pneumonia_fl("submit", "fedavg", "--kit", person.folder, env={**os.environ, **NOT_THERE})
    assert done.returncode == 3
    assert "error: https_proxy sends gRPC to localhost:" in done.stderr
    assert "no_proxy" in done.stderr
