"""X-rays in a folder on disk, in the Kaggle or Mendeley layout or in class folders alone."""

import os
from dataclasses import dataclass
from pathlib import Path

from pneumonia_fl.data.archive import MAX_FILE_BYTES
from pneumonia_fl.data.items import UNKNOWN_LICENCE, Item
from pneumonia_fl.data.layout import find_items, origin
from pneumonia_fl.errors import DataError, StorageError


@dataclass(frozen=True)
class FolderSource:
    """A folder of images. Make it with `open_folder`."""

    path: Path
    kind: str = "folder"
    licence: str = UNKNOWN_LICENCE
    credit: str = ""

    def items(self) -> list[Item]:
        """List the images sorted by name; nested copies count once."""
        files, folders = _walk(self.path)
        return find_items(files, folders, self.path)

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

    def hospital(self, item: Item) -> None:
        """Return None: such a folder does not tell hospitals apart."""


def open_folder(path: Path) -> FolderSource:
    """Open `path` as a source.

    Raises:
        DataError: it cannot be read or holds no class folders with images.
    """
    licence, credit = origin(FolderSource(path).items())
    return FolderSource(path, licence=licence, credit=credit)


def _walk(root: Path) -> tuple[list[str], list[str]]:
    """Return the relative names of all files and folders; linked folders are followed, but none twice."""
    files: list[str] = []
    folders: list[str] = []
    seen = {os.path.realpath(root)}
    for place, names, leaves in os.walk(root, followlinks=True, onerror=_refuse):
        inside = Path(place).relative_to(root)
        names[:] = [name for name in sorted(names) if _first_visit(os.path.join(place, name), seen)]
        folders += [(inside / name).as_posix() for name in names]
        files += [(inside / leaf).as_posix() for leaf in leaves]
    return files, folders


def _first_visit(folder: str, seen: set[str]) -> bool:
    real = os.path.realpath(folder)
    if real in seen:
        return False
    seen.add(real)
    return True


def _refuse(error: OSError) -> None:
    raise DataError(f"cannot read {error.filename}: {error.strerror}") from None
