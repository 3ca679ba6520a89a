"""Find, measure and remove old runs.

Only folders that this program has made are found, by the record that it writes into each; what is still being written
is left alone.
"""

import re
import shutil
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from pneumonia_fl.errors import ConfigError
from pneumonia_fl.files import output_errors
from pneumonia_fl.inputs.folder_locks import is_in_use
from pneumonia_fl.runs.folder import STATE_FILE

KINDS = {STATE_FILE: "run", "comparison.json": "comparison", "sweep.json": "sweep"}
"""Record in a folder, and what the folder is."""
UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
DAYS = {"h": 1 / 24, "d": 1.0, "w": 7.0}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?)i?b?", re.IGNORECASE)
_AGE = re.compile(r"(\d+(?:\.\d+)?)\s*([hdw]?)")


@dataclass(frozen=True)
class Leftover:
    """One folder that could go."""

    path: Path
    kind: str
    bytes: int
    """Of all files in it; what links lead to does not count."""
    changed: float
    """When something in it was written last, seconds since the epoch."""
    record: str | None = None
    """Name of the file that says what the folder is; it goes last, so that an interrupted removal can be resumed."""

    def as_dict(self) -> dict[str, object]:
        """Return the values for scripts."""
        return asdict(self) | {"path": str(self.path)}


def parse_size(text: str) -> int:
    """Convert `500MB`, `2 GB`, `1.5g` to bytes; powers of 1000.

    Raises:
        ConfigError: it is no size.
    """
    found = _SIZE.fullmatch(text.strip())
    if not found:
        raise ConfigError(f"{text!r} is no size; write 500MB, 2GB")
    return int(float(found[1]) * UNITS[found[2].lower()])


def parse_age(text: str) -> float:
    """Convert `12h`, `30d`, `2w`, or `30` (days) to seconds.

    Raises:
        ConfigError: it is no age.
    """
    found = _AGE.fullmatch(text.strip().lower())
    if not found:
        raise ConfigError(f"{text!r} is no age; write 12h, 30d, 2w")
    return float(found[1]) * DAYS[found[2] or "d"] * 86400


def measured(path: Path, kind: str, record: str | None = None) -> Leftover:
    """Measure a folder's size and the time of its last change."""
    stats = [path.lstat(), *(inner.lstat() for inner in path.rglob("*"))]
    size = sum(one.st_size for one in stats[1:])
    return Leftover(path, kind, size, max(one.st_mtime for one in stats), record)


def runs_below(root: Path) -> Iterator[Leftover]:
    """Yield runs, comparisons and sweeps directly below `root`; links are not followed."""
    for folder in sorted(root.iterdir()):
        record = next((name for name in KINDS if (folder / name).is_file()), None)
        if record and not folder.is_symlink() and not is_in_use(folder):
            yield measured(folder, KINDS[record], record)


def old_and_large(found: list[Leftover], age: float, size: int) -> list[Leftover]:
    """Select folders unchanged for `age` seconds with at least `size` bytes, largest first."""
    before = time.time() - age
    chosen = [one for one in found if one.changed <= before and one.bytes >= size]
    return sorted(chosen, key=lambda one: -one.bytes)


def remove(leftover: Leftover) -> None:
    """Remove a folder.

    Raises:
        OutputError: a right is missing.
    """
    with output_errors(leftover.path):
        for inner in leftover.path.iterdir():
            if inner.name == leftover.record:
                continue
            if inner.is_dir() and not inner.is_symlink():
                shutil.rmtree(inner)
            else:
                inner.unlink()
        shutil.rmtree(leftover.path)
