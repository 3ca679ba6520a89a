"""Real kits from NVFlare's provisioning, and what may go wrong with them."""

import json
import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509.oid import NameOID
from speed import scaled

from conftest import CLI
from pneumonia_fl.findings import Finding
from pneumonia_fl.fl.kit.startup_kit import Kit, open_kit
from pneumonia_fl.fl.provision.signing import sign

SERVER, SITE, PERSON = "localhost", "asia-hospital", "lead@asia.org"
PROJECT = """
api_version: 3
name: {name}
participants:
  - {{name: localhost, type: server, org: consortium, fed_learn_port: {port}, host_names: [127.0.0.1]}}
  - {{name: asia-hospital, type: client, org: asia_hospital}}
  - {{name: lead@asia.org, type: admin, org: asia_hospital, role: lead}}
builders:
  - path: nvflare.lighter.impl.workspace.WorkspaceBuilder
  - {{path: nvflare.lighter.impl.static_file.StaticFileBuilder, args: {{config_folder: config, scheme: grpc}}}}
  - {{path: nvflare.lighter.impl.cert.CertBuilder, args: {{root_valid_days: 3650}}}}
"""
SETTINGS_FRAME = b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"


@dataclass(frozen=True)
class Project:
    """A provisioned federation: its kits and its root's private key."""

    kits: Path
    root_key: Any

    def copy(self, name: str, folder: Path) -> Kit:
        """A kit that a test may spoil."""
        return open_kit(Path(shutil.copytree(self.kits / name, folder / name)))


def provision(folder: Path, name: str = "pneumonia_fl") -> Project:
    """Make the kits of one server, one site and one person with `nvflare provision`, and sign them."""
    folder.mkdir()
    (folder / "project.yml").write_text(PROJECT.format(name=name, port=free_port()))
    subprocess.run(
        [str(CLI.with_name("nvflare")), "provision", "-p", "project.yml", "-w", "workspace"],
        cwd=folder,
        check=True,
        capture_output=True,
        timeout=scaled(60),
    )
    state = json.loads((folder / "workspace" / name / "state" / "cert.json").read_text())
    key = serialization.load_pem_private_key(state["root_pri_key"].encode(), password=None)
    kits = folder / "workspace" / name / "prod_00"
    for kit in (SERVER, SITE, PERSON):
        sign(kits / kit / "startup", key)
    return Project(kits, key)


def certify(
    kit: Kit, project: Project, days: float, since: float = -400, name: str = "", hosts: Sequence[str] = ()
) -> None:
    """Give the kit a certificate of the project's root that is valid from `since` to `days` from now, days."""
    root = x509.load_pem_x509_certificate((project.kits / SITE / "startup" / "rootCA.pem").read_bytes())
    private = serialization.load_pem_private_key(kit.private_key.read_bytes(), password=None)
    now = datetime.now(UTC)
    names = [x509.DNSName(host) for host in hosts or (kit.name,)]
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name or kit.name)]))
        .issuer_name(root.subject)
        .public_key(private.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + timedelta(days=since))
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.SubjectAlternativeName([*names, x509.IPAddress(ip_address("127.0.0.1"))]), False)
    )
    signed = builder.sign(project.root_key, hashes.SHA256())
    kit.certificate.write_bytes(signed.public_bytes(serialization.Encoding.PEM))


def free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def listening(port: int = 0) -> Iterator[socket.socket]:
    """A port that is open, and behind which nobody answers."""
    with closing(socket.create_server(("127.0.0.1", port))) as listener:
        yield listener


@contextmanager
def tls_server(kit: Kit, greeting: bytes = SETTINGS_FRAME, protocol: str = "h2") -> Iterator[int]:
    """A server with this kit's certificate that wants one of the same root from its clients; yields its port."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(kit.certificate, kit.private_key)
    context.load_verify_locations(kit.root_certificate)
    context.verify_mode = ssl.CERT_REQUIRED
    context.set_alpn_protocols([protocol])
    with plain_server(lambda client: _greet(context, client, greeting)) as port:
        yield port


@contextmanager
def plain_server(answer: Any) -> Iterator[int]:
    """Hand every connection to `answer`; yields the port."""
    with listening() as listener:
        thread = threading.Thread(target=_serve, args=(listener, answer), daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(5)


def _serve(listener: socket.socket, answer: Any) -> None:
    while True:
        try:
            client, _ = listener.accept()
        except OSError:
            return
        with client:
            client.settimeout(5)
            answer(client)


def _greet(context: ssl.SSLContext, client: socket.socket, greeting: bytes) -> None:
    try:
        with context.wrap_socket(client, server_side=True) as tls:
            if greeting:
                tls.sendall(greeting)
            while tls.recv(1024):
                pass
    except OSError:
        return


def said(findings: Iterator[Finding], level: str) -> str:
    """The messages of one level, in lines."""
    return "\n".join(finding.message for finding in findings if finding.level == level)


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A federation's kits; do not change them."""
    return provision(tmp_path_factory.mktemp("kits") / "ours")


@pytest.fixture(scope="session")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Another federation, whose participants have the same names."""
    return provision(tmp_path_factory.mktemp("kits") / "theirs", "stranger")


@pytest.fixture
def kit(project: Project, tmp_path: Path) -> Kit:
    """The site's kit, to be spoilt."""
    return project.copy(SITE, tmp_path)
