"""The federation's secrets: NVFlare's `state/cert.json` with the root key and all keys that were made here."""

import json
from pathlib import Path
from typing import Any

from cryptography import x509
from nvflare.lighter.utils import load_private_key

from pneumonia_fl.errors import ConfigError, KitError
from pneumonia_fl.files import write_atomic
from pneumonia_fl.fl.kit.certificates import host_names, organization, role
from pneumonia_fl.fl.provision.project_file.project import Participant, Project


class State:
    """`state/cert.json` of one project; empty before the first provisioning."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.values: dict[str, Any] = self._read()

    def _read(self) -> dict[str, Any]:
        if not self.file.exists():
            return {}
        try:
            values = json.loads(self.file.read_text(encoding="utf-8"))
            x509.load_pem_x509_certificate(values["root_cert"].encode())
            return dict(values)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise KitError(
                f"{self.file} is broken ({error}); put your backup in its place: it holds the root key, and "
                f"without it every kit has to be made again"
            ) from None

    @property
    def root(self) -> x509.Certificate:
        """Return the root certificate."""
        return x509.load_pem_x509_certificate(self.values["root_cert"].encode())

    @property
    def root_key(self) -> Any:
        """Return the root's private key."""
        return load_private_key(self.values["root_pri_key"])

    def certificate(self, name: str) -> x509.Certificate | None:
        """Return a participant's certificate; None when this root has issued none."""
        entry = self.values.get(name)
        if not isinstance(entry, dict):
            return None
        return x509.load_pem_x509_certificate(entry["cert"].encode())

    def forget(self, name: str) -> None:
        """Drop a participant's key and certificate, so that the next provisioning makes new ones."""
        self.values.pop(name, None)
        write_atomic(self.file, json.dumps(self.values).encode())


def check_identities(project: Project, state: State, renew: set[str]) -> None:
    """Report where a certificate contradicts project.yml: NVFlare would keep it (hosts) or fail (roles).

    Raises:
        ConfigError: a role, an org or the server's host names have changed since the certificate was made.
    """
    for participant in project.participants:
        certificate = state.certificate(participant.name)
        if certificate is None or participant.name in renew:
            continue
        changed = _difference(certificate, participant)
        if participant.type == "server" and not set(project.server.hosts) <= set(host_names(certificate)):
            changed = "host names"
        if changed:
            raise ConfigError(
                f"{project.file}: the {changed} of {participant.name} changed, but its certificate says otherwise; "
                f"make a new one: pneumonia-fl provision --renew {participant.name}"
            )


def _difference(certificate: x509.Certificate, participant: Participant) -> str:
    if organization(certificate) != participant.org:
        return "org"
    return "role" if role(certificate) != participant.role else ""
