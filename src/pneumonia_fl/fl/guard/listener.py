"""The internal listener, over which a process speaks to the processes that it has started.

NVFlare's shakes hands in the thread that accepts connections, so that one account of the machine that connects and is
silent keeps all jobs out; and a handshake that fails is written nowhere.
"""

import os
import socket
import ssl
from pathlib import Path
from typing import Any

from nvflare.fuel.f3.drivers import tcp_driver
from nvflare.fuel.f3.drivers.tcp_driver import TcpStreamServer

from pneumonia_fl.fl.parent.audit_log import tell_refusal

HANDSHAKE_SECONDS = 10.0
ACTION = "internal_listener"
_SOCKETS = Path("/proc/net/tcp")
"""Linux: a line per TCP socket, with its owner."""
_ENDS, _OWNER = slice(1, 3), 7


class InternalListener(TcpStreamServer):
    """NVFlare's listener, with the handshake in each connection's own thread, and for this account alone."""

    daemon_threads = True

    def __init__(self, driver: Any, connector: Any) -> None:
        super().__init__(driver, connector)
        if self.ssl_context:
            self.socket.do_handshake_on_connect = False

    def finish_request(self, request: Any, client_address: Any) -> None:
        """Pass the connection to NVFlare once it is known to be ours; runs in a thread of its own."""
        owner = owner_of(client_address, request.getsockname())
        who = f"{client_address[0]}:{client_address[1]}" + ("" if owner is None else f" (uid {owner})")
        if owner not in (None, os.getuid()):
            return tell_refusal(who, ACTION, "another account of this machine")
        try:
            if self.ssl_context:
                request.settimeout(HANDSHAKE_SECONDS)
                request.do_handshake()
                request.settimeout(None)
        except (ssl.SSLError, OSError) as error:
            return tell_refusal(who, ACTION, f"no TLS handshake with a certificate of this kit ({error})")
        super().finish_request(request, client_address)


def owner_of(one_end: tuple[str, int], other_end: tuple[str, int]) -> int | None:
    """Return the account that owns this end of a loopback connection; None where the system does not tell."""
    wanted = [_as_listed(one_end), _as_listed(other_end)]
    try:
        lines = _SOCKETS.read_text(encoding="ascii").splitlines()[1:]
    except OSError:
        return None
    owners = (int(fields[_OWNER]) for fields in map(str.split, lines) if fields[_ENDS] == wanted)
    return next(owners, None)


def _as_listed(address: tuple[str, int]) -> str:
    return f"{socket.inet_aton(address[0])[::-1].hex().upper()}:{address[1]:04X}"


def install() -> None:
    """Make NVFlare create its internal listeners this way, in this process."""
    tcp_driver.TcpStreamServer = InternalListener
