"""X-rays in a folder on disk, in the Kaggle or Mendeley layout or in class folders alone."""

import filecmp
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pneumonia_fl.data.sources.kermany_layout import (
    CLASSES,
    Classes,
    find_items,
    is_system_file,
    origin,
    split_of,
)
from pneumonia_fl.data.sources.labelled_item import UNKNOWN_LICENCE, Contents, Item, Source
from pneumonia_fl.data.sources.zip_archive import MAX_FILE_BYTES
from pneumonia_fl.errors import DataError, StorageError

OTHER_NAME = "another name of a folder that is used"
# The most names under which one folder is looked for; a few links in a circle of links would make millions.
_MAX_NAMES = 16

_SPLIT_RANK = {"test": 0, "val": 1, "train": 2, "": 3}
_Name = tuple[str, ...]


@dataclass(frozen=True)
class FolderSource(Source):
    """A folder of images. Make it with `open_folder`."""

    path: Path
    contents: Contents
    kind: str = "folder"
    licence: str = UNKNOWN_LICENCE
    credit: str = ""

    def read(self, item: Item) -> bytes:
        """Return one file's bytes."""
        path = self.path / item.name
        if not self.path.is_dir():
            raise StorageError(f"{self.path} is no longer there; connect its disk or share and run again")
        if not path.is_file():
            raise DataError("not a regular file, or a link to nowhere")
        if path.stat().st_size > MAX_FILE_BYTES:
            raise DataError(f"larger than {MAX_FILE_BYTES // 2**20} MiB")
        return path.read_bytes()


def open_folder(path: Path, classes: Classes = CLASSES) -> FolderSource:
    """Open `path` as a source.

    Raises:
        DataError: it cannot be read, a folder in it is a link to nowhere, or no class folder holds images.
    """
    files, folders, others = _walk(path, classes)
    found = find_items(
        files, folders, path, classes, lambda first, second: _equal(path / first, path / second)
    )
    contents = Contents(found.items, sorted([*found.left_out, *((name, OTHER_NAME) for name in others)]))
    return FolderSource(path, contents, "folder", *origin(found.items))


def _equal(first: Path, second: Path) -> bool:
    try:
        return filecmp.cmp(first, second, shallow=False)
    except OSError:
        return False


def _walk(root: Path, classes: Classes) -> tuple[list[str], list[str], list[str]]:
    """Return the relative names of all files, of all folders, and of folders that are listed under a better name.

    Links are followed, but not in a circle. A folder with several names is listed once, under the one that says most.
    """
    top = os.path.realpath(root)
    names: dict[str, list[_Name]] = {}
    entries: dict[str, tuple[list[tuple[str, str]], list[str]]] = {}
    waiting: list[tuple[_Name, tuple[str, ...]]] = [((), (top,))]
    while waiting:
        name, chain = waiting.pop()
        known = names.setdefault(chain[-1], [])
        known.append(name)
        if len(known) == 1:
            entries[chain[-1]] = _entries(root, name, chain[-1])
        if chain[-1] not in chain[:-1] and len(known) <= _MAX_NAMES:
            waiting += [((*name, leaf), (*chain, real)) for leaf, real in entries[chain[-1]][0]]
    best = {real: min(known, key=_ranking(top, real, classes)) for real, known in names.items()}
    files = ["/".join((*name, leaf)) for real, name in best.items() for leaf in entries[real][1]]
    others = set().union(*names.values()) - set(best.values())
    inner = {name for name in others if name[:-1] in others}
    return (
        files,
        sorted("/".join(name) for name in best.values() if name),
        sorted("/".join(n) for n in others - inner),
    )


def _ranking(top: str, real: str, classes: Classes) -> Callable[[_Name], tuple[object, ...]]:
    """Sort a folder's names: the test set first, then other splits, classes, names without a link, short ones."""

    def rank(name: _Name) -> tuple[object, ...]:
        unsaid = not any(part.strip().lower() in classes for part in name)
        linked = os.path.join(top, *name) != real
        return is_system_file(name), _SPLIT_RANK[split_of(name)], unsaid, linked, len(name), name

    return rank


def _entries(root: Path, name: _Name, real: str) -> tuple[list[tuple[str, str]], list[str]]:
    """Return the folders, each with its real path, and the files in one folder."""
    folders: list[tuple[str, str]] = []
    files: list[str] = []
    try:
        with os.scandir(real) as found:
            for entry in sorted(found, key=lambda entry: entry.name):
                if _is_folder(entry, root, name):
                    path = os.path.realpath(entry.path) if entry.is_symlink() else entry.path
                    folders.append((entry.name, path))
                else:
                    files.append(entry.name)
    except OSError as error:
        if not is_system_file(name):
            raise DataError(f"cannot read {root.joinpath(*name)}: {error.strerror}") from None
    return folders, files


def _is_folder(entry: os.DirEntry[str], root: Path, name: _Name) -> bool:
    """Refuse a link to nowhere that may be a whole folder: one without an ending such as `.jpeg`."""
    if not entry.is_symlink():
        return entry.is_dir()
    try:
        return stat.S_ISDIR(os.stat(entry.path).st_mode)
    except OSError as error:
        if Path(entry.name).suffix or is_system_file((*name, entry.name)):
            return False
        raise DataError(
            f"{root.joinpath(*name, entry.name)} is a link to {os.readlink(entry.path)}, which cannot be read "
            f"({error.strerror}); mend or remove the link"
        ) from None
