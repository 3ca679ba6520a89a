"""Lock folders in which a process works, so that no other process replaces them.

The mark is a file with the process id, locked for as long as the process lives; the lock of one that was killed is
gone, whatever the file says.
"""

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import psutil

from pneumonia_fl.errors import OutputError
from pneumonia_fl.files import output_errors, private
from pneumonia_fl.inputs.text import printable

MARK = ".in-use"


@contextlib.contextmanager
def in_use(folder: Path) -> Iterator[None]:
    """Mark an existing folder as used by this process, which `refuse_in_use` names in all others.

    Raises:
        OutputError: another process works there already, or the folder cannot be written.
    """
    mark = folder / MARK
    with output_errors(folder):
        file = open(mark, "a+", encoding="ascii", opener=private)  # noqa: SIM115 - closed below
    with file:
        if not _locked(file, fcntl.LOCK_EX):
            raise OutputError(_refusal(mark))
        file.truncate(0)
        file.write(str(psutil.Process().pid))
        file.flush()
        try:
            yield
        finally:
            mark.unlink(missing_ok=True)


def refuse_in_use(folder: Path) -> None:
    """Make sure that no other process works in a folder or in one below it.

    Raises:
        OutputError: one does; the message names it.
    """
    for mark in _marks(folder):
        raise OutputError(_refusal(mark))


def is_in_use(folder: Path) -> bool:
    """Return whether another process works in a folder or in one below it."""
    return any(_marks(folder))


def _marks(folder: Path) -> Iterator[Path]:
    return (mark for mark in folder.rglob(MARK) if _held(mark))


def _held(mark: Path) -> bool:
    try:
        with mark.open(encoding="ascii") as file:
            return not _locked(file, fcntl.LOCK_SH)
    except FileNotFoundError:
        return False
    except PermissionError:  # another account's: who cannot read it must not replace it
        return True


def _locked(file: IO[str], kind: int) -> bool:
    """Lock a file for this process; children do not inherit it. False when another process has it."""
    try:
        fcntl.lockf(file, kind | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    except OSError:  # a file system without locks: as if no other process were there
        return True
    return True


def _refusal(mark: Path) -> str:
    advice = "wait for its end or stop it, then run again, or choose another --out"
    return f"{_process(mark)} works in {mark.parent}; {advice}"


def _process(mark: Path) -> str:
    try:
        pid = int(mark.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return "another process"
    return named_process(pid)


def named_process(pid: int) -> str:
    """Return a process as a message names it: with its command line, where the system tells it."""
    try:
        command = printable(" ".join(psutil.Process(pid).cmdline()))
    except psutil.Error:
        return f"process {pid}"
    return f"process {pid} ({command})"
