"""Writing files so that a reader meets the whole file or none."""

import errno
import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pneumonia_fl.errors import OutputError

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_REFUSED = {errno.EACCES, errno.EPERM, errno.EROFS}


@contextmanager
def output_errors(folder: Path) -> Iterator[None]:
    """Turn the operating system's refusals inside the block into one-line `OutputError`s about `folder`."""
    try:
        yield
    except OSError as error:
        raise OutputError(_explain(folder, error)) from None


def write_atomic(path: Path, content: bytes) -> str:
    """Replace `path` by `content` in one step and return the content's sha256 (hex).

    Raises:
        OutputError: the folder is missing, full or not writable.
    """
    with output_errors(path.parent):
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(name, 0o644)
            os.replace(name, path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    return hashlib.sha256(content).hexdigest()


def _explain(folder: Path, error: OSError) -> str:
    if error.errno in _FULL:
        return f"no space left for {folder}; free some space or choose another --out, then run again"
    if error.errno in _REFUSED:
        return f"{folder} is not writable; choose another --out or change its permissions"
    return f"cannot write to {folder}: {error.strerror or error}"
