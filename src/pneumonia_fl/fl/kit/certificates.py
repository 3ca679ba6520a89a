"""Read a certificate of the federation: whose it is, with which role and org, for which hosts, and who signed it."""

from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.x509.oid import NameOID

from pneumonia_fl.errors import KitError
from pneumonia_fl.fl.kit.startup_kit import Kit

ROLES = ("project_admin", "org_admin", "lead", "member")
"""Roles of a person, as NVFlare's provisioning writes them into the certificate."""
LEAD_IT = "project_admin"
ASK_FOR_A_NEW_KIT = "ask the Lead IT for a new kit"


def load(path: Path) -> x509.Certificate:
    """Read a PEM certificate.

    Raises:
        KitError: it is missing or broken.
    """
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except (OSError, ValueError) as error:
        raise KitError(
            f"{path} is not a readable certificate ({reason_of(error)}); {ASK_FOR_A_NEW_KIT}"
        ) from None


def reason_of(error: Exception) -> str:
    """Shorten what reading a PEM file raised to the part that helps."""
    return getattr(error, "strerror", None) or str(error).split("(", 1)[0].strip().rstrip(".")


def common_name(certificate: x509.Certificate) -> str:
    """Return the name of its owner, "" when it has none."""
    return _field(certificate, NameOID.COMMON_NAME)


def organization(certificate: x509.Certificate) -> str:
    """Return the org of its owner, "" when it has none."""
    return _field(certificate, NameOID.ORGANIZATION_NAME)


def role(certificate: x509.Certificate) -> str:
    """Return the role of a person, "" in a server's or site's certificate."""
    return _field(certificate, NameOID.UNSTRUCTURED_NAME)


def role_of(kit: Kit) -> str:
    """Return the role of a kit's owner, "" for a server or site.

    Raises:
        KitError: its certificate cannot be read.
    """
    return role(load(kit.certificate))


def host_names(certificate: x509.Certificate) -> list[str]:
    """Return the names and addresses for which a server's certificate holds."""
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return [str(name.value) for name in names]


def fingerprint(certificate: x509.Certificate) -> str:
    """Return its SHA-256 as hex pairs, as `openssl x509 -fingerprint -sha256` prints it."""
    return certificate.fingerprint(hashes.SHA256()).hex(":").upper()


def issued(certificate: x509.Certificate, root: x509.Certificate) -> bool:
    """Return whether `root` signed `certificate`."""
    try:
        certificate.verify_directly_issued_by(root)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def key_made_at_owner(kit: Kit) -> bool:
    """Return whether the private key never left its owner, so that whoever has the root could not sign the kit.

    `nvflare cert approve` writes the purpose of the key into the certificate; central provisioning does not.

    Raises:
        KitError: the certificate cannot be read.
    """
    try:
        load(kit.certificate).extensions.get_extension_for_class(x509.ExtendedKeyUsage)
    except x509.ExtensionNotFound:
        return False
    return True


def _field(certificate: x509.Certificate, field: x509.ObjectIdentifier) -> str:
    found = certificate.subject.get_attributes_for_oid(field)
    return str(found[0].value) if found else ""
