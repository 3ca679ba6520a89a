"""Check the kit's identity: its certificate, its root, its private key, and the machine's clock."""

import os
from collections.abc import Iterator
from datetime import UTC, datetime

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from pneumonia_fl.findings import Finding
from pneumonia_fl.fl.kit.certificates import (
    ASK_FOR_A_NEW_KIT,
    common_name,
    fingerprint,
    issued,
    load,
    reason_of,
)
from pneumonia_fl.fl.kit.file_modes import change, open_key
from pneumonia_fl.fl.kit.startup_kit import Kit

RENEW_DAYS = 30
_PUBLIC = (serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def clock(kit: Kit) -> Iterator[Finding]:
    """Check that this machine's time lies inside the validity of the kit's certificates."""
    now = datetime.now(UTC)
    start = max(load(path).not_valid_before_utc for path in (kit.certificate, kit.root_certificate))
    text = f"this machine's time is {now:%Y-%m-%d %H:%M:%S} UTC"
    if now < start:
        yield Finding(
            "fail", f"{text}, but the kit is valid from {start:%Y-%m-%d %H:%M:%S} on; set the clock"
        )
    else:
        yield Finding("ok", f"{text}, after the kit's certificates were made")


def certificate(kit: Kit) -> Iterator[Finding]:
    """Check the kit's certificate: owner, signature of its root, and days left."""
    own, root = load(kit.certificate), load(kit.root_certificate)
    if common_name(own) != kit.name:
        whose = f"{kit.certificate.name} is of {common_name(own)!r}, but the kit is of {kit.name!r}"
        yield Finding("fail", f"{whose}; {ASK_FOR_A_NEW_KIT}")
    if issued(own, root):
        yield Finding(
            "ok", f"{kit.name} is signed by the root {common_name(root)!r}, SHA-256 {fingerprint(root)}"
        )
    else:
        yield Finding(
            "fail", f"{kit.root_certificate.name} did not sign {kit.certificate.name}; {ASK_FOR_A_NEW_KIT}"
        )
    yield days_left(own, kit.name, f"the Lead IT renews it with `pneumonia-fl provision --renew {kit.name}`")
    yield days_left(root, "the root", "the Lead IT has to make a new project and new kits for everybody")


def key(kit: Kit) -> Iterator[Finding]:
    """Check that the private key belongs to the certificate and is readable by its owner only."""
    yield from key_pair(kit)
    if kit.private_key.is_file():
        yield from _key_rights(kit)


def key_pair(kit: Kit) -> Iterator[Finding]:
    """Find out whether the private key belongs to the certificate."""
    try:
        private = serialization.load_pem_private_key(kit.private_key.read_bytes(), password=None)
    except (OSError, ValueError, TypeError) as error:
        yield Finding(
            "fail", f"{kit.private_key} is not a readable key ({reason_of(error)}); {ASK_FOR_A_NEW_KIT}"
        )
        return
    own = load(kit.certificate).public_key()
    if private.public_key().public_bytes(*_PUBLIC) == own.public_bytes(*_PUBLIC):
        yield Finding("ok", f"{kit.private_key.name} belongs to {kit.certificate.name}")
    else:
        wrong = f"{kit.private_key.name} does not belong to {kit.certificate.name}"
        yield Finding("fail", f"{wrong}; {ASK_FOR_A_NEW_KIT}")


def days_left(certificate: x509.Certificate, name: str, cure: str) -> Finding:
    """Check how long a certificate is still valid."""
    end = certificate.not_valid_after_utc
    days = (end - datetime.now(UTC)).days
    if days < 0:
        return Finding("fail", f"the certificate of {name} expired on {end:%Y-%m-%d}; {cure}")
    text = f"the certificate of {name} is valid until {end:%Y-%m-%d}, {days} days"
    return Finding("warn", f"{text}; {cure}") if days <= RENEW_DAYS else Finding("ok", text)


def _key_rights(kit: Kit) -> Iterator[Finding]:
    path, owner = kit.private_key, kit.private_key.stat().st_uid
    if mode := open_key(kit):
        yield Finding("fail", f"{path} can be read by others (mode {mode:04o}); run {change('600', path)}")
    elif owner != os.getuid():
        yield Finding("warn", f"{path} belongs to user {owner}, you are {os.getuid()}; start as its owner")
    else:
        yield Finding("ok", f"only you can read {path.name}")
