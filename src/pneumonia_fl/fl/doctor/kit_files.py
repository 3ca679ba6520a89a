"""The kit as files: unchanged since it was made, writable where it must be, closed to others."""

import os
import stat
import tempfile
from collections.abc import Iterator

from pneumonia_fl.findings import Finding
from pneumonia_fl.fl.kit.certificates import ASK_FOR_A_NEW_KIT
from pneumonia_fl.fl.kit.file_modes import change, lost_modes
from pneumonia_fl.fl.kit.startup_kit import Kit


def rights(kit: Kit) -> Iterator[Finding]:
    """Check that NVFlare can write where it must, and that others cannot."""
    lost = [Finding("warn", text) for text in lost_modes(kit)]
    findings = [*writable(kit), *_owner(kit), *lost, *_open_to_others(kit), *_umask()]
    yield from findings
    if not findings:
        yield Finding("ok", f"{kit.folder} is writable for you only")


def signature(kit: Kit) -> Iterator[Finding]:
    """Check that the files in `startup/` are still those that the Lead IT signed."""
    from pneumonia_fl.fl.provision.signing import is_signed, verify  # NVFlare's half second, in this thread

    wrong = verify(kit)
    if wrong:
        what = f"{kit.startup} is not as it was signed ({', '.join(wrong)})"
        yield Finding("fail", f"{what}; undo it or {ASK_FOR_A_NEW_KIT} (local/ is yours to edit)")
    elif is_signed(kit):
        yield Finding("ok", "startup/ is as the Lead IT signed it")
    else:
        yield Finding(
            "warn", "startup/ has no signature, as this kit's key was made here: an edit would go unnoticed"
        )


def writable(kit: Kit) -> Iterator[Finding]:
    """Find out whether this account can write into the kit's folder."""
    try:
        with tempfile.TemporaryFile(dir=kit.folder) as file:
            file.write(b"0")
    except OSError as error:
        cure = "NVFlare writes its logs and jobs there: free space, or start as the folder's owner"
        yield Finding("fail", f"cannot write to {kit.folder} ({error.strerror}); {cure}")


def _owner(kit: Kit) -> Iterator[Finding]:
    owner = kit.folder.stat().st_uid
    if owner != os.getuid():
        yield Finding(
            "warn", f"{kit.folder} belongs to user {owner}, you are {os.getuid()}; start as its owner"
        )


def _open_to_others(kit: Kit) -> Iterator[Finding]:
    for path in (
        kit.folder,
        kit.startup,
        kit.local,
        *sorted(kit.startup.iterdir()),
        *sorted(kit.local.iterdir()),
    ):
        if path.stat().st_mode & stat.S_IWOTH:
            yield Finding("fail", f"every user of this machine can change {path}; run {change('o-w', path)}")


def _umask() -> Iterator[Finding]:
    # It can only be read by setting it; the strict one harms no thread that writes in between.
    mask = os.umask(0o077)
    os.umask(mask)
    if not mask & stat.S_IWOTH:
        yield Finding("warn", f"umask {mask:04o} lets every user change what NVFlare writes; set `umask 027`")
