"""Find the HTTP proxy that gRPC uses to reach a server; its rules differ from those of other programs.

Tried with grpcio 1.76: the first of `grpc_proxy`, `https_proxy` and `http_proxy` that is set counts, in lower case, and
only with `http://`; not `all_proxy`. Of `no_grpc_proxy` and `no_proxy`, the first that is set: names with what ends in
them, and for an address also networks (`10.0.0.0/8`); not `*`, not a port. Loopback is no exception.
"""

import base64
import contextlib
import ipaddress
import socket
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

from pneumonia_fl.config.environment import proxy_variables

VARIABLES, EXCEPTIONS = ("grpc_proxy", "https_proxy", "http_proxy"), ("no_grpc_proxy", "no_proxy")
LOOPBACK = "localhost,127.0.0.1,::1"
_MAX_ANSWER = 10_000


class ProxyRefusal(OSError):
    """A proxy does not lead to the server; `status` is that of its answer, 0 when there was none."""

    def __init__(self, reason: str, status: int = 0) -> None:
        super().__init__(reason)
        self.strerror, self.status = reason, status


@dataclass(frozen=True)
class Proxy:
    """Proxy setting of one environment variable."""

    variable: str
    host: str
    port: int
    login: str = field(default="", repr=False)
    """USER:PASSWORD."""

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"

    def way(self, host: str, port: int) -> str:
        """Describe how the variable routes connections to a server."""
        return f"{self.variable} sends gRPC to {host}:{port} through the proxy {self}"

    def cure(self, host: str) -> str:
        """Describe how to have gRPC connect to `host` directly."""
        exception = next((name for name in EXCEPTIONS if name in proxy_variables()), "no_proxy")
        return f'go straight: `export {exception}="${exception},{host}"`, or unset {self.variable}'

    def connect(self, host: str, port: int, seconds: float) -> socket.socket:
        """Connect to a server through the proxy, as gRPC does.

        Raises:
            ProxyRefusal: it does not.
        """
        try:
            connection = socket.create_connection((self.host, self.port), seconds)
        except OSError as error:
            raise ProxyRefusal(f"does not answer ({error.strerror or error})") from None
        try:
            connection.sendall(self._request(f"{host}:{port}"))
            _check(_answer(connection))
        except BaseException as error:
            connection.close()
            if isinstance(error, OSError) and not isinstance(error, ProxyRefusal):
                raise ProxyRefusal(
                    f"takes the connection and then says nothing ({error.strerror or error})"
                ) from None
            raise
        return connection

    def _request(self, where: str) -> bytes:
        lines = [f"CONNECT {where} HTTP/1.1", f"Host: {where}"]
        if self.login:
            lines.append(f"Proxy-Authorization: Basic {base64.b64encode(self.login.encode()).decode()}")
        return "\r\n".join([*lines, "", ""]).encode()


def proxy_for(host: str) -> Proxy | None:
    """Return the proxy through which gRPC reaches `host`; None for a direct connection."""
    variables = proxy_variables()
    name = next((name for name in VARIABLES if name in variables), "")
    exceptions = next((variables[name] for name in EXCEPTIONS if name in variables), "")
    try:
        url = urlsplit(variables.get(name, ""))
        port = url.port or 80
    except ValueError:
        return None
    if url.scheme != "http" or not url.hostname or any(_excepts(one, host) for one in exceptions.split(",")):
        return None
    login = f"{unquote(url.username)}:{unquote(url.password or '')}" if url.username else ""
    return Proxy(name, url.hostname, port, login)


def ignored() -> list[str]:
    """List the variables that name a proxy for other programs but not for gRPC."""
    variables = proxy_variables()
    others = [
        name for name in variables if name.lower() in (*VARIABLES, "all_proxy") and name not in VARIABLES
    ]
    return [] if any(name in variables for name in VARIABLES) else sorted(others)


def with_loopback() -> str:
    """Return `no_proxy` with loopback added, for processes that connect to others on this machine."""
    variables = proxy_variables()
    return ",".join(filter(None, [variables.get("no_proxy") or variables.get("NO_PROXY"), LOOPBACK]))


def _excepts(entry: str, host: str) -> bool:
    entry, host = entry.strip().lower().removeprefix("."), host.lower()
    if not entry:
        return False
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host) in ipaddress.ip_network(entry, strict=False)
    return host == entry or host.endswith(f".{entry}")


def _answer(connection: socket.socket) -> bytes:
    """Read the head of the proxy's answer, no byte more: the server's bytes follow."""
    head = b""
    while not head.endswith(b"\r\n\r\n") and len(head) < _MAX_ANSWER and (byte := connection.recv(1)):
        head += byte
    return head


def _check(head: bytes) -> None:
    words = head.split(b"\r\n", 1)[0].decode("ascii", "replace").split(None, 2)
    status = int(words[1]) if len(words) > 1 and words[1].isdecimal() else 0
    if not words or not words[0].startswith("HTTP/"):
        raise ProxyRefusal("does not answer as a proxy does")
    if status != 200:
        raise ProxyRefusal(f"refuses: HTTP {' '.join(words[1:])[:60]}", status)
