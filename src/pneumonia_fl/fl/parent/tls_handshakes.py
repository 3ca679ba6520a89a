"""Reads what a server's process writes to stderr, and puts refused TLS handshakes into its audit log.

gRPC's C core does not tell Python of a connection that it refuses: it has no certificate, one of a foreign root, or
is no TLS at all. It only writes to stderr, and says from where only with `GRPC_TRACE=handshaker`. This is a process of
its own, because a thread of the server would wait for the very lock that a writing C core may hold, and because the
last words of a server that crashes must still arrive.

    python -m pneumonia_fl.fl.parent.tls_handshakes AUDIT_LOG < what the server writes

Everything else is written to stderr unchanged. Needs the standard library only (and so does `parent/audit_lines.py`).
"""

import contextlib
import re
import signal
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import unquote

from pneumonia_fl.fl.parent.audit_lines import AuditFiles, Entry

ACTION = "tls_handshake"
QUIET_SECONDS = 60.0
"""An address gets one line per reason in this time; what comes in between is counted."""
MOST_LINES = 100
"""Lines in that time: a flood that fills no disk, 36 MB a day at worst."""

_GRPC = re.compile(r"^[IWEF]\d{4} [\d:.]+ +\d+ (?P<file>[\w.]+):\d+\] (?P<text>.*)")
_TRACED = {"handshaker.cc", "channel_trace.h"}
_REST = re.compile(r"^(=== Source Location Trace: ===|src/core/\S+:\d+| shutdown=.*|)\s*$")
"""Further lines of a trace; only the last of them says who was at the other end."""
_ERROR = re.compile(r"CallNextHandshakerLocked: error=(?P<error>.+?)(?: shutdown=|$)")
_PEER = re.compile(r"endpoint_peer_address=(?P<peer>[^,}]+)")
_SERVER_SIDE = "grpc.internal.server_credentials="
_UNTRACED = re.compile(r"Handshake failed with error (?P<error>.+)")


class Limiter:
    """Lets one message per key and time through, and counts the others.

    Memory is bounded: beyond `most` keys all others are one.
    """

    def __init__(self, seconds: float = QUIET_SECONDS, most: int = MOST_LINES) -> None:
        self._seconds, self._most = seconds, most
        self._quiet_until: dict[str, float] = {}
        self._held = 0

    def admit(self, key: str, now: float) -> str | None:
        """Return the suffix of the message ("" or the count of suppressed ones); None: suppress this one too."""
        self._quiet_until = {each: end for each, end in self._quiet_until.items() if end > now}
        if len(self._quiet_until) >= self._most and key not in self._quiet_until:
            key = "others"
        if key in self._quiet_until:
            self._held += 1
            return None
        self._quiet_until[key] = now + self._seconds
        held, self._held = self._held, 0
        return f"; {held} like it or from elsewhere were not written since the last line" if held else ""


class Handshakes:
    """Takes gRPC's lines out of a stream of lines."""

    def __init__(self) -> None:
        self._error: str | None = None
        self._inside = self._traced = False

    def take(self, line: str) -> tuple[bool, tuple[str, str] | None]:
        """Return True for a line of gRPC's, and address and reason once a refusal is complete."""
        found = _GRPC.match(line)
        if found is None:
            if not (self._inside and _REST.match(line)):
                self._inside = False
                return False, None
            return True, self._complete(line)
        self._inside = found["file"] in _TRACED
        self._traced = self._traced or self._inside
        if failed := _UNTRACED.search(found["text"]):
            return True, None if self._traced else ("", failed["error"])
        if not self._inside:
            return False, None
        failed = _ERROR.search(found["text"])
        if failed and failed["error"] != "OK":
            self._error = failed["error"]
        return True, self._complete(line)

    def _complete(self, line: str) -> tuple[str, str] | None:
        peer = _PEER.search(line)
        if self._error is None or "args={" not in line:
            return None
        error, self._error = self._error, None
        # Jobs on the server connect to others, and write to the same place.
        return (unquote(peer["peer"]) if peer else "", error) if _SERVER_SIDE in line else None


def meaning_of(error: str) -> str:
    """Explain gRPC's error to the reader of the audit log."""
    meanings = {
        "PEER_DID_NOT_RETURN_A_CERTIFICATE": "no client certificate",
        "HTTP_REQUEST": "not TLS",
        "WRONG_VERSION_NUMBER": "not TLS",
        "CERTIFICATE_VERIFY_FAILED": "a certificate of another root",
        "certificate signature failure": "a certificate of another root",
        "Socket closed": "left before the handshake was done: a look at the port, or a kit of another root",
    }
    return next((text for key, text in meanings.items() if key in error), "handshake failed")


def follow(lines: Iterable[bytes], audit: Path) -> None:
    """Sort the lines until there are no more."""
    handshakes, limiter, files = Handshakes(), Limiter(), None
    for raw in lines:
        ours, refusal = handshakes.take(raw.decode("utf-8", "replace").rstrip("\n"))
        if not ours:
            _pass_on(raw)
        if refusal is None:
            continue
        peer, error = refusal
        meaning = meaning_of(error)
        more = limiter.admit(f"{peer.rpartition(':')[0]} {meaning}", time.monotonic())
        if more is None:
            continue
        entry = Entry(ACTION, peer, f"refused: {meaning} ({error.strip()}){more}", endpoint=peer)
        try:
            files = files or AuditFiles(audit)
            files.write(entry)
        except OSError as problem:  # a full disk: the server's own words must still arrive
            _pass_on(f"not in the audit log ({problem}): {entry.text()}\n".encode())


def _pass_on(line: bytes) -> None:
    """Write to stderr; while that fails, the server must neither wait for us nor get an error."""
    with contextlib.suppress(OSError):
        sys.stderr.buffer.write(line)
        sys.stderr.buffer.flush()


if __name__ == "__main__":
    # Everybody in a federation is told to end at once; this one ends at the end of its input.
    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, signal.SIG_IGN)
    follow(sys.stdin.buffer, Path(sys.argv[1]))
