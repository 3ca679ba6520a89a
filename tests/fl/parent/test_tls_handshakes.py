"""gRPC's lines about handshakes, as 1.85 writes them, and the limit on lines in the audit log."""

import functools
import json
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from speed import scaled

from pneumonia_fl.fl.parent.tls_handshakes import Limiter, follow

HEAD = "I1122 11:39:16.679970   21407 handshaker.cc:155] CallNextHandshakerLocked: error="
ENDPOINT = "args={grpc.internal.endpoint_peer_address=ipv6:%5B::1%5D:38088, "
SERVER_SIDE = ENDPOINT + "grpc.internal.server_credentials=0x5621}, exit_early=0}"
TRACED = [
    "I1122 11:39:16.655662   21406 channel_trace.h:396] handshake manager 0x7f:  calling handshaker security",
    "I1122 11:39:16.655663   21406 ssl_transport_security.cc:2563] Handshake failed with error SSL_ERROR_SSL: x",
    f"{HEAD}UNAVAILABLE: Handshake read failed (Socket closed)",
    "=== Source Location Trace: === ",
    "src/core/util/status_helper.cc:124",
    f" shutdown=false index=2, {SERVER_SIDE}",
    "",
]
NO_CERTIFICATE = (
    "SSL_ERROR_SSL: error:100000c0:SSL routines:OPENSSL_internal:PEER_DID_NOT_RETURN_A_CERTIFICATE: x"
)
UNTRACED = f"I1122 11:34:29.842449   10356 ssl_transport_security.cc:2563] Handshake failed with error {NO_CERTIFICATE}"


def sort(lines: list[str], folder: Path, capsys: pytest.CaptureFixture[str]) -> tuple[str, str]:
    """What went on to stderr, and what stands in the audit log."""
    follow([f"{line}\n".encode() for line in lines], folder / "audit.log")
    log = folder / "audit.log"
    return capsys.readouterr().err, log.read_text() if log.exists() else ""


def test_a_traced_refusal_is_one_line_with_the_address(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    passed, audit = sort(["before", *TRACED, "after"], tmp_path, capsys)
    assert passed == "before\nafter\n"
    (line,) = audit.splitlines()
    assert "[U:ipv6:(::1):38088][A:tls_handshake]refused: left before the handshake was done" in line


def test_without_traces_a_refusal_has_no_address(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    passed, audit = sort([UNTRACED, "", "after"], tmp_path, capsys)
    assert passed == "\nafter\n"
    (line,) = audit.splitlines()
    assert "[U:?][A:tls_handshake]refused: no client certificate" in line


def test_an_address_is_one_field(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    forged = [line.replace("%5B::1%5D:38088", "%0A%5BE:1%5D%5BU:lead-it%5D") for line in TRACED]
    _, audit = sort(forged, tmp_path, capsys)
    (line,) = audit.splitlines()
    assert "[U:ipv6: (E:1)(U:lead-it)]" in line
    (record,) = (tmp_path / "audit.jsonl").read_text().splitlines()
    assert json.loads(record)["action"] == "tls_handshake"


def test_what_the_server_says_arrives_when_the_disk_is_full(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pneumonia_fl.fl.parent.tls_handshakes", str(tmp_path / "audit.log")]
    said = "".join(f"{line}\n" for line in ["before", UNTRACED, "after"])
    nothing_more = functools.partial(resource.setrlimit, resource.RLIMIT_FSIZE, (0, 0))
    done = subprocess.run(
        command,
        input=said,
        text=True,
        capture_output=True,
        preexec_fn=nothing_more,
        timeout=scaled(60),
        check=True,
    )
    before, problem, after = done.stderr.splitlines()
    assert (before, after) == ("before", "after")
    assert problem.startswith("not in the audit log (")
    assert "no client certificate" in problem


def test_handshakes_that_are_done_or_of_a_client_are_no_refusals(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    done = f"{HEAD}OK shutdown=false index=2, {SERVER_SIDE}"
    own = f"{HEAD}UNAVAILABLE: gone shutdown=false index=2, {ENDPOINT}x=1}}"
    assert sort([done, own], tmp_path, capsys) == ("", "")


def test_one_message_per_key_and_time_and_a_count_of_the_others() -> None:
    limiter = Limiter(seconds=60, most=2)
    assert limiter.admit("a", 0) == ""
    assert limiter.admit("a", 59) is None
    assert limiter.admit("b", 59) == "; 1 like it or from elsewhere were not written since the last line"
    assert limiter.admit("c", 59.5) == "", "the first of all others"
    assert limiter.admit("d", 59.6) is None
    assert str(limiter.admit("a", 120)).startswith("; 1 like it")
