"""Signatures over a kit's `startup/`, made with the root key of the federation.

NVFlare 2.9 writes `signature.json` only for homomorphic encryption and confidential computing, but when it is
there, a server or site that starts checks its own settings, certificates and key against it, and ends with "The
following files are not secure content." It does not look at the start scripts, at an admin kit, or for a
`signature.json` that was taken away; `verify` does.
"""

from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature
from nvflare.lighter.utils import sign_folders, verify_content

from pneumonia_fl.errors import KitError
from pneumonia_fl.fl.kit.certificates import key_made_at_owner, load
from pneumonia_fl.fl.kit.startup_kit import Kit
from pneumonia_fl.inputs.json_files import read_json

SIGNATURE = "signature.json"


def sign(startup: Path, root_key: Any) -> None:
    """Sign every file in a kit's `startup` folder; an earlier signature is replaced."""
    sign_folders(str(startup), root_key, signature_file=SIGNATURE)


def is_signed(kit: Kit) -> bool:
    """Return True when there is a signature file."""
    return (kit.startup / SIGNATURE).is_file()


def verify(kit: Kit) -> list[str]:
    """List the files in `startup/` that were changed, added or removed since the kit was signed.

    A kit from which the signature was taken gives `["signature.json"]`; one whose key was made at its owner never
    had any.

    Raises:
        KitError: the signature or a certificate cannot be read.
    """
    if not is_signed(kit):
        return [] if key_made_at_owner(kit) else [SIGNATURE]
    signatures, public_key = _read(kit)
    present = {path.name for path in kit.startup.iterdir()} - {SIGNATURE}
    try:
        wrong = {name for name in present & signatures.keys() if not _fits(kit, name, signatures, public_key)}
    except OSError as error:
        raise KitError(
            f"{error.filename} cannot be read ({error.strerror}); start as the kit's owner"
        ) from None
    return sorted(wrong | (present ^ signatures.keys()))


def _read(kit: Kit) -> tuple[dict[str, str], Any]:
    root = load(kit.root_certificate)
    try:
        return dict(read_json(kit.startup / SIGNATURE)), root.public_key()
    except (OSError, ValueError) as error:
        raise KitError(
            f"the signature of {kit.folder} cannot be checked ({error}); ask for a new kit"
        ) from None


def _fits(kit: Kit, name: str, signatures: dict[str, str], public_key: Any) -> bool:
    path = kit.startup / name
    if not path.is_file() or path.is_symlink():
        return False
    try:
        verify_content(path.read_bytes(), signatures[name], public_key)
    except (InvalidSignature, ValueError):
        return False
    return True
