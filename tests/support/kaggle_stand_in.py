"""A stand-in for Kaggle on 127.0.0.1: answers what the real client asks, and breaks off where told to."""

import json
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

ETAG = '"version-1"'
STORAGE = "/storage/archive.zip"


@dataclass
class Behaviour:
    """What the stand-in does, and what it was asked."""

    archive: bytes = b""
    statuses: list[int] = field(default_factory=list)
    break_after: int | None = None
    token_is_active: bool = True
    hang: threading.Event | None = None
    requests: list[str] = field(default_factory=list)
    ranges: list[str | None] = field(default_factory=list)
    authorizations: list[str] = field(default_factory=list)


class StandIn(ThreadingHTTPServer):
    """Serve as the client's HTTP proxy, so that requests for http://localhost/api/… arrive here."""

    daemon_threads = True

    def __init__(self, behaviour: Behaviour) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.behaviour = behaviour
        self.thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02})

    def __enter__(self) -> "StandIn":
        self.thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.shutdown()
        self.thread.join()
        self.server_close()

    def environment(self, home: Path) -> dict[str, str]:
        return environment(home, self.server_address[1])


def environment(home: Path, port: int) -> dict[str, str]:
    """Return variables that lead the real client to `port`, without any credentials."""
    proxy = f"http://127.0.0.1:{port}"
    return {
        "HOME": str(home),
        "KAGGLE_API_ENVIRONMENT": "LOCALHOST",
        "http_proxy": proxy,
        "HTTP_PROXY": proxy,
        "PATH": "/usr/bin:/bin",
    }


class _Handler(BaseHTTPRequestHandler):
    server: StandIn
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        behaviour = self.server.behaviour
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        behaviour.requests.append(self.path)
        behaviour.authorizations.append(self.headers.get("Authorization", ""))
        if self.path.endswith("/IntrospectToken"):
            self._json(200, {"active": behaviour.token_is_active, "username": "ada"})
        elif behaviour.statuses:
            status = behaviour.statuses.pop(0)
            self._json(status, {"code": status, "message": "no"})
        else:
            self._redirect(f"http://localhost{STORAGE}")

    def do_GET(self) -> None:
        behaviour = self.server.behaviour
        if behaviour.hang:
            behaviour.hang.wait(30)
            return
        behaviour.ranges.append(self.headers.get("Range"))
        start = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").rstrip("-"))
        body = behaviour.archive[start:]
        self.send_response(206 if start else 200)
        self.send_header("Content-Type", "application/zip")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("ETag", ETAG)
        self.send_header("Last-Modified", "Sat, 24 Mar 2018 19:41:59 GMT")
        self.end_headers()
        self.wfile.write(body[: behaviour.break_after])
        if behaviour.break_after is not None:
            self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:
        """Stay silent."""

    def _redirect(self, address: str) -> None:
        self.send_response(302)
        self.send_header("Location", address)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _json(self, status: int, values: dict[str, Any]) -> None:
        body = json.dumps(values).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
