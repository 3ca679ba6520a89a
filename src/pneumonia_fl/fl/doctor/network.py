"""The way to the server: its name, its port, and TLS with the kit's own certificate, as NVFlare's gRPC does it."""

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import TypeVar

from cryptography import x509

from pneumonia_fl.errors import TimeLimitError
from pneumonia_fl.findings import Finding
from pneumonia_fl.fl.doctor.identity_checks import days_left
from pneumonia_fl.fl.kit.certificates import common_name, fingerprint, issued, load, organization
from pneumonia_fl.fl.kit.grpc_proxy import Proxy, ProxyRefusal, ignored, proxy_for
from pneumonia_fl.fl.kit.kit_processes import main_of
from pneumonia_fl.fl.kit.startup_kit import Kit

NAME_SECONDS = 3.0
TCP_SECONDS = 2.0
"""For each address that the name has, usually one or two."""
TLS_SECONDS = 2.5

T = TypeVar("T")

HTTP2 = "h2"
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"
"""How an HTTP/2 client begins (RFC 9113, 3.4): 24 fixed bytes and an empty SETTINGS frame."""
_FRAME_HEADER, _FRAME_TYPE, _SETTINGS = 9, 3, 4
_NOT_YET, _EXPIRED, _OTHER_NAME = 9, 10, 62
"""OpenSSL's X509_V_ERR_CERT_NOT_YET_VALID, _CERT_HAS_EXPIRED and _HOSTNAME_MISMATCH."""


@dataclass(frozen=True)
class Greeting:
    """Server's greeting: its certificate (DER), the protocol that was agreed on, its first bytes.

    `refusal` says why there were no first bytes.
    """

    certificate: bytes
    protocol: str | None
    version: str | None
    answer: bytes = b""
    refusal: str = ""


def network(kit: Kit) -> Iterator[Finding]:
    """Check name, port (or proxy) and TLS of the kit's server, in this order; end at the first failure."""
    if kit.kind == "server" and not main_of(kit):
        yield _own_name(kit)
        return
    steps = (_proxy, _tls) if proxy_for(kit.host) else (server_name, _port, _tls)
    for step in steps:
        finding = step(kit)
        yield from finding
        if any(each.level != "ok" for each in finding):
            return


def _own_name(kit: Kit) -> Finding:
    try:
        addresses = resolve(kit)
    except (OSError, TimeLimitError):
        return Finding(
            "warn", f"{kit.host} is unknown on this machine; sites must find it in DNS or /etc/hosts"
        )
    if proxy := proxy_for(kit.host):
        what = f"{proxy.variable} sends sites and people of this machine through the proxy {proxy}"
        return Finding("warn", f"{what}; {proxy.cure(kit.host)}")
    return Finding("ok", f"{kit.host} is {addresses}; port and TLS are checked once the server runs")


def server_name(kit: Kit) -> list[Finding]:
    """Find out whether the server's name is known here."""
    cure = "add it to DNS or /etc/hosts, or ask the Lead IT for its address"
    try:
        note = "".join(f"; {name} does not count: gRPC reads https_proxy" for name in ignored())
        return [Finding("ok", f"server {kit.host} is {resolve(kit)}{note}")]
    except TimeLimitError:
        return [Finding("fail", f"no answer from DNS about {kit.host} in {NAME_SECONDS:g} s; {cure}")]
    except OSError as error:
        return [Finding("fail", f"server {kit.host} is unknown here ({error.strerror}); {cure}")]


def resolve(kit: Kit) -> str:
    """Resolve the server's name to its addresses.

    Raises:
        OSError: its name is unknown.
        TimeLimitError: DNS does not answer; the system's own limit is longer than anybody waits.
    """
    found = within(NAME_SECONDS, lambda: socket.getaddrinfo(kit.host, kit.port, type=socket.SOCK_STREAM))
    return ", ".join(dict.fromkeys(str(entry[4][0]) for entry in found))


def _proxy(kit: Kit) -> list[Finding]:
    proxy = proxy_for(kit.host)
    assert proxy is not None
    way = proxy.way(kit.host, kit.port)
    try:
        with closing(_connect(kit)):
            return [Finding("ok", f"{way}, which lets it through")]
    except ProxyRefusal as error:
        return [Finding("fail", f"{way}, which {error.strerror}; {proxy.cure(kit.host)}")]


def _port(kit: Kit) -> list[Finding]:
    where = f"{kit.host}:{kit.port}"
    try:
        with closing(_connect(kit)):
            return [Finding("ok", f"port {where} is open")]
    except ConnectionRefusedError:
        cure = "start the server first, or ask the Lead IT whether it is up"
        return [Finding("warn", f"nothing listens at {where} yet; {cure}")]
    except TimeoutError:
        cure = f"is the machine up, and do the firewalls on both sides let TCP port {kit.port} through?"
        return [Finding("fail", f"no answer from {where}; {cure}")]
    except OSError as error:
        return [Finding("fail", f"no way to {where} ({error.strerror}); ask your network administrator")]


def _tls(kit: Kit) -> list[Finding]:
    where = f"{kit.host}:{kit.port}"
    try:
        return _judge(kit, greet(kit, verified=True))
    except ssl.SSLCertVerificationError as error:
        return [_distrust(kit, error)]
    except TimeoutError:
        cure = (
            "a firewall or proxy may hold TLS back, or the server hangs: ask the Lead IT to look at its log"
        )
        return [Finding("fail", f"{where} takes the connection and then says nothing; {cure}")]
    except (ConnectionError, ssl.SSLError) as error:
        return [_no_handshake(where, error)]


def greet(kit: Kit, verified: bool) -> Greeting:
    """Shake hands with the kit's own certificate and begin HTTP/2.

    With TLS 1.3 a server judges our certificate after the handshake: only its first bytes say that it took it.

    Args:
        kit: whose certificate and server.
        verified: whether the server must prove that it is the one of the kit's root.

    Raises:
        OSError: it did not work; ssl.SSLError where TLS is the reason.
    """
    with _context(kit, verified).wrap_socket(_connect(kit), server_hostname=kit.host) as tls:
        certificate = tls.getpeercert(binary_form=True) or b""
        answer, refusal = _first_bytes(tls) if verified else (b"", "")
        return Greeting(certificate, tls.selected_alpn_protocol(), tls.version(), answer, refusal)


def _first_bytes(tls: ssl.SSLSocket) -> tuple[bytes, str]:
    """Begin HTTP/2 and return what the server says, or why it does not."""
    try:
        tls.sendall(_PREFACE)
        return tls.recv(_FRAME_HEADER), "it closed the connection"
    except (ConnectionError, ssl.SSLError) as error:
        return b"", getattr(error, "reason", None) or error.strerror or str(error)


def _context(kit: Kit, verified: bool) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = verified
    context.verify_mode = ssl.CERT_REQUIRED if verified else ssl.CERT_NONE
    context.load_verify_locations(kit.root_certificate)
    context.load_cert_chain(kit.certificate, kit.private_key)
    context.set_alpn_protocols([HTTP2])
    return context


def _connect(kit: Kit) -> socket.socket:
    if proxy := proxy_for(kit.host):
        connection = through(proxy, kit)
    else:
        connection = socket.create_connection((kit.host, kit.port), TCP_SECONDS)
    connection.settimeout(TLS_SECONDS)
    return connection


def through(proxy: Proxy, kit: Kit) -> socket.socket:
    """Connect to the kit's server through a proxy."""
    try:
        return within(NAME_SECONDS + TCP_SECONDS, lambda: proxy.connect(kit.host, kit.port, TCP_SECONDS))
    except TimeLimitError as error:
        raise ProxyRefusal(f"is not found ({error})") from None


def _judge(kit: Kit, greeting: Greeting) -> list[Finding]:
    where = f"{kit.host}:{kit.port}"
    if not greeting.answer:
        return [_refused(where, greeting.refusal)]
    if greeting.protocol != HTTP2 or greeting.answer[_FRAME_TYPE] != _SETTINGS:
        return [
            Finding("fail", f"{where} speaks TLS but not gRPC; is another program or a proxy at this port?")
        ]
    server = x509.load_der_x509_certificate(greeting.certificate)
    renew = f"the Lead IT renews it with `pneumonia-fl provision --renew {common_name(server)}`"
    return [
        Finding(
            "ok", f"{_who(server)} took this kit's certificate ({greeting.version}, {greeting.protocol})"
        ),
        Finding("ok", f"its root is this kit's, SHA-256 {fingerprint(load(kit.root_certificate))}"),
        days_left(server, f"the server {common_name(server)}", renew),
    ]


def _distrust(kit: Kit, error: ssl.SSLCertVerificationError) -> Finding:
    """Explain why the server that answers is not accepted as the kit's server."""
    try:
        server = x509.load_der_x509_certificate(greet(kit, verified=False).certificate)
    except (OSError, ValueError):
        return Finding(
            "fail", f"the server's certificate is not valid ({error.verify_message}); tell the Lead IT"
        )
    if not issued(server, load(kit.root_certificate)):
        ours = fingerprint(load(kit.root_certificate))
        what = (
            f"{_who(server)}, signed by {server.issuer.rfc4514_string()}, is not of this kit's root ({ours})"
        )
        return Finding("fail", f"{what}; ask the Lead IT whether kit and server are of one project")
    renew = f"the Lead IT renews it with `pneumonia-fl provision --renew {common_name(server)}`"
    if error.verify_code == _EXPIRED:
        return Finding("fail", f"the certificate of {_who(server)} expired; {renew}")
    if error.verify_code == _NOT_YET:
        return Finding(
            "fail", f"the certificate of {_who(server)} is not valid yet; set this machine's clock"
        )
    if error.verify_code == _OTHER_NAME:
        cure = f"the Lead IT has to add {kit.host} to host_names in project.yml"
        return Finding("fail", f"the certificate of {_who(server)} is not for {kit.host}; {cure}")
    return Finding(
        "fail", f"the server's certificate is not valid ({error.verify_message}); tell the Lead IT"
    )


def _refused(where: str, reason: str) -> Finding:
    cure = "is the kit of the server's project, and not expired? Ask the Lead IT"
    return Finding("fail", f"{where} refuses this kit's certificate ({reason}); {cure}")


def _no_handshake(where: str, error: OSError) -> Finding:
    reason = getattr(error, "reason", None) or error.strerror or str(error)
    if "ALERT" in reason:
        return _refused(where, reason)
    return Finding(
        "fail", f"{where} does not speak TLS ({reason}); is another program or a proxy at this port?"
    )


def _who(certificate: x509.Certificate) -> str:
    of = organization(certificate)
    return f"server {common_name(certificate)!r}{of and f' of {of}'}"


def within(seconds: float, action: Callable[[], T]) -> T:
    """Return what `action` returns, for calls without a timeout of their own.

    Raises:
        TimeLimitError: it took longer than `seconds`; it continues in a thread that ends with the program.
    """
    results: list[T] = []
    errors: list[OSError] = []

    def run() -> None:
        try:
            results.append(action())
        except OSError as error:
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if errors:
        raise errors[0]
    if not results:
        raise TimeLimitError(f"no answer in {seconds:g} s")
    return results[0]
