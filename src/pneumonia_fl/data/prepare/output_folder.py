"""The folder that a preparation writes to: whose it is, who uses it, how the new data set gets into its place."""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from pneumonia_fl.data.manifest import INFO, MANIFEST
from pneumonia_fl.data.store import IMAGES
from pneumonia_fl.errors import OutputError
from pneumonia_fl.files import PRIVATE_FOLDER, private_folder
from pneumonia_fl.inputs.folder_locks import named_process

PARTIAL = ".preparing"
QUARANTINE = "quarantine.csv"
_STORE_FILES = {IMAGES, MANIFEST, INFO}


def hold(folder: Path) -> int:
    """Lock a prepared folder against replacement; return a descriptor, which unlocks it when closed.

    Raises:
        OutputError: it is just being replaced.
    """
    return _lock(folder, fcntl.LOCK_SH, "wait until that ends")


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Lock a prepared folder against replacement within the block, at most as long as this process lives."""
    handle = hold(folder)
    try:
        yield
    finally:
        os.close(handle)


@contextmanager
def new_data_set(out: Path, force: bool) -> Iterator[None]:
    """Make `out` for one preparation alone; one that it made is removed again when it stays empty.

    Raises:
        OutputError: it holds other files, a data set (see `force`), or is in use.
    """
    _check(out, force)
    created = not out.exists()
    private_folder(out)
    advice = "wait until that ends, or choose another --out"
    with ExitStack() as locks:
        for folder in [out, *(entry for entry in sorted(out.iterdir()) if entry.is_dir())]:
            locks.callback(os.close, _lock(folder, fcntl.LOCK_EX, advice))
        try:
            _check(out, force)  # again: another preparation may just have ended
            yield
        except BaseException:
            shutil.rmtree(out / PARTIAL, ignore_errors=True)
            if created and out.is_dir() and not any(out.iterdir()):
                out.rmdir()
            raise


def move_into_place(out: Path) -> None:
    """Replace what `out` holds by what was prepared in `out/PARTIAL`, `dataset.json` last."""
    partial = out / PARTIAL
    if (out / INFO).exists():  # it is ours, perhaps made by a version that left it open to others
        out.chmod(PRIVATE_FOLDER)
    # Without its dataset.json the old set is incomplete, whatever stops us from here on.
    (out / INFO).unlink(missing_ok=True)
    for entry in out.iterdir():
        if entry.is_dir() and entry.name != PARTIAL:
            shutil.rmtree(entry)
        elif entry.is_file():
            entry.unlink()
    for entry in sorted(partial.iterdir(), key=lambda path: path.name == INFO):
        entry.replace(out / entry.name)
    partial.rmdir()


def _check(out: Path, force: bool) -> None:
    if not out.exists():
        return
    if not out.is_dir():
        raise OutputError(f"{out} is a file; choose another --out")
    foreign = sorted(entry.name for entry in out.iterdir() if not _is_ours(entry))
    if foreign:
        raise OutputError(f"{out} holds other files ({foreign[0]}); choose a new or empty --out")
    if (out / INFO).exists() and not force:
        raise OutputError(f"{out} already holds a prepared data set; --force replaces it")


def _is_ours(entry: Path) -> bool:
    if not entry.is_dir() or entry.is_symlink():
        return entry.name in {INFO, MANIFEST, QUARANTINE} or entry.name.startswith(f".{INFO}.")
    return entry.name == PARTIAL or {child.name for child in entry.iterdir()} <= _STORE_FILES


def _lock(folder: Path, kind: int, advice: str) -> int:
    """Lock a folder; the system lets go of it with the process. Where the file system knows no locks, there is none."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        raise OutputError(f"{folder} is in use by {_users(folder)}; {advice}") from None
    except OSError:
        pass
    return handle


def _users(folder: Path) -> str:
    """Name the other processes that have a folder open, where the system tells (Linux)."""
    found = sorted(process for process in Path("/proc").glob("[0-9]*") if _has_open(process, folder))
    names = [named_process(int(one.name)) for one in found if one.name != str(os.getpid())]
    return ", ".join(names) or "another process"


def _has_open(process: Path, folder: Path) -> bool:
    try:
        return any(os.path.samefile(link, folder) for link in (process / "fd").iterdir() if link.exists())
    except OSError:
        return False
