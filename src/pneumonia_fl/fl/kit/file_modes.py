"""Modes of a kit's files that zip archives, object stores and network shares lose: who may run it, who may read it."""

import contextlib
import os
import shlex
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

from pneumonia_fl.errors import KitError
from pneumonia_fl.files import PRIVATE_FILE
from pneumonia_fl.fl.kit.startup_kit import Kit

OTHERS = stat.S_IRWXG | stat.S_IRWXO


def not_executable(kit: Kit) -> list[Path]:
    """List the kit's scripts that this account may not run."""
    scripts = [*sorted(kit.startup.glob("*.sh")), kit.folder / "install.sh"]
    return [path for path in scripts if path.is_file() and not os.access(path, os.X_OK)]


def open_key(kit: Kit) -> int:
    """Return the mode of a private key that others may read; 0 when it is private."""
    mode = stat.S_IMODE(kit.private_key.stat().st_mode) if kit.private_key.is_file() else 0
    return mode if mode & OTHERS else 0


def change(right: str, *paths: Path) -> str:
    """Return the shell command that changes the mode of these files."""
    return f"`chmod {right} {' '.join(shlex.quote(str(path)) for path in paths)}`"


def mend(kit: Kit, say: Callable[[str], None]) -> None:
    """Restore the original modes of the kit's scripts and key, where this account owns them.

    Raises:
        KitError: NVFlare's start scripts cannot be run.
    """
    lost = not_executable(kit)
    for path in lost:
        _change_mode(path, lambda mode: mode | stat.S_IXUSR)
    if left := not_executable(kit):
        raise KitError(_refusal(kit, left))
    if lost:
        say(f"{kit.name}: {', '.join(path.name for path in lost)} had lost the right to be run; given back")
    if mode := open_key(kit):
        _change_mode(kit.private_key, lambda mode: PRIVATE_FILE)
        say(f"{kit.name}: {kit.private_key.name} could be read by others (mode {mode:04o}); {_closed(kit)}")


def lost_modes(kit: Kit) -> Iterator[str]:
    """Describe what `mend` would change."""
    if lost := not_executable(kit):
        names = ", ".join(path.name for path in lost)
        yield f"{names}: not executable (unpacked from a zip?); `pneumonia-fl up` mends it, or {change('u+x', *lost)}"


def _change_mode(path: Path, wanted: Callable[[int], int]) -> None:
    with contextlib.suppress(
        OSError
    ):  # somebody else's file, a read-only disk: the caller looks what came of it
        path.chmod(wanted(stat.S_IMODE(path.stat().st_mode)))


def _refusal(kit: Kit, paths: list[Path]) -> str:
    names = ", ".join(path.name for path in paths)
    if paths[0].stat().st_uid != os.getuid():
        return f"{kit.folder}: {names} may not be run; its owner runs {change('u+x', *paths)}"
    return f"{kit.folder}: {names} cannot be run on this disk or share (noexec?); copy the kit to another one"


def _closed(kit: Kit) -> str:
    return (
        f"its owner must run {change('600', kit.private_key)}" if open_key(kit) else "now only its owner can"
    )
