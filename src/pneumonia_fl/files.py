"""Writing files for their owner only, and so that a reader meets the whole file or none.

X-rays, patients' ids and models are for the account that made them, whatever its umask: folders have mode 0700, files
0600. Whoever wants to share one opens it with `chmod`.
"""

import errno
import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from pneumonia_fl.errors import OutputError

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_REFUSED = {errno.EACCES, errno.EPERM, errno.EROFS}
PRIVATE_FILE, PRIVATE_FOLDER = 0o600, 0o700


def keep_files_private() -> None:
    """Set the umask of this process and its children to 077: new files are for their owner only."""
    os.umask(0o077)


@contextmanager
def output_errors(folder: Path) -> Iterator[None]:
    """Convert OS errors inside the block to one-line `OutputError`s about `folder`."""
    try:
        yield
    except OSError as error:
        raise OutputError(_explain(folder, error)) from None


def private(path: str, flags: int) -> int:
    """Open a file for `open(…, opener=private)`: a new one is for its owner only."""
    return os.open(path, flags, PRIVATE_FILE)


def private_folder(path: Path) -> None:
    """Make a folder that the user has named, and its missing parents, for the owner only.

    One that exists keeps its mode: it is the user's own, and a link to another disk is fine.

    Raises:
        OutputError: the folder cannot be made.
    """
    with output_errors(path):
        for folder in reversed([path, *path.parents]):
            if not folder.is_dir():
                folder.mkdir(PRIVATE_FOLDER, exist_ok=True)


def inner_folder(path: Path) -> Path:
    """Make a folder inside one that this program has made; one that exists is closed to others.

    Raises:
        OutputError: a link is in its place, or it cannot be made.
    """
    if path.is_symlink():
        raise OutputError(f"{path} is a link that leads elsewhere; remove it, then run again")
    with output_errors(path):
        path.mkdir(PRIVATE_FOLDER, exist_ok=True)
        path.chmod(PRIVATE_FOLDER)
    return path


def write_atomic(path: Path, content: bytes, mode: int = PRIVATE_FILE) -> str:
    """Replace `path` by `content` in one step and return the content's sha256 (hex).

    Raises:
        OutputError: the folder is missing, full or not writable.
    """
    with output_errors(path.parent):
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                _write(file, content)
                os.fchmod(file.fileno(), mode)
            os.replace(name, path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    return hashlib.sha256(content).hexdigest()


def write_new(path: Path, content: bytes) -> None:
    """Write a file that must not exist, neither as a link.

    Raises:
        FileExistsError: it does.
        OutputError: the folder is missing, full or not writable.
    """
    file = open(path, "xb", opener=private)  # noqa: SIM115 - what follows removes only what was made here
    with output_errors(path.parent), file:
        try:
            _write(file, content)
        except BaseException:
            path.unlink(missing_ok=True)
            raise


def _write(file: IO[bytes], content: bytes) -> None:
    file.write(content)
    file.flush()
    os.fsync(file.fileno())


def _explain(folder: Path, error: OSError) -> str:
    if error.errno in _FULL:
        return f"no space left for {folder}; free some space or choose another --out, then run again"
    if error.errno in _REFUSED:
        return f"{folder} is not writable; choose another --out or change its permissions"
    return f"cannot write to {folder}: {error.strerror or error}"
