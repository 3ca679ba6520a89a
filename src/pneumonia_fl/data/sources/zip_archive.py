"""Reading X-rays straight from a zip, after the whole zip has been found harmless.

Nothing is extracted. Checked before any content is read: names (`..`, absolute, drive letters, duplicates),
links and other special entries, encryption, and bombs by declared sizes, which the reader then never exceeds.
"""

import re
import stat
import zipfile
import zlib
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pneumonia_fl.data.sources.kermany_layout import CLASSES, Classes, find_items, origin
from pneumonia_fl.data.sources.labelled_item import UNKNOWN_LICENCE, Contents, Item, Source
from pneumonia_fl.errors import ArchiveError, DataError
from pneumonia_fl.inputs.file_kinds import HEAD, foreign

# The original set is 1.2 GB (Kaggle: twice). Images hardly compress; deflate's limit: 1032.
MAX_TOTAL_BYTES = 64 * 2**30
MAX_ENTRIES = 1_000_000
MAX_RATIO = 100
RATIO_MATTERS_FROM = 2**20
MAX_FILE_BYTES = 256 * 2**20
"""Largest single image file that is read, bytes; the largest X-ray of the set has 2.5 MB."""

_METHODS = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA}
_ENCRYPTED = 0x1


@dataclass
class ZipSource(Source):
    """A zip in the Kaggle or Mendeley layout. Make it with `open_zip`."""

    path: Path
    contents: Contents
    kind: str = "zip"
    licence: str = UNKNOWN_LICENCE
    credit: str = ""
    _file: zipfile.ZipFile | None = field(default=None, repr=False, compare=False)

    def read(self, item: Item) -> bytes:
        """Return one file's bytes; `DataError` when the archive is damaged there."""
        if self._file is None:
            self._file = _open(self.path)
        try:
            if self._file.getinfo(item.name).file_size > MAX_FILE_BYTES:
                raise DataError(f"larger than {MAX_FILE_BYTES // 2**20} MiB")
            return self._file.read(item.name)
        except (zipfile.BadZipFile, zlib.error, EOFError, KeyError) as error:
            raise DataError(f"damaged inside the zip: {error}") from None

    def __getstate__(self) -> dict[str, Any]:
        # Each process opens the file for itself: a shared handle would share its position.
        return {**self.__dict__, "_file": None}


def open_zip(path: Path, kind: str = "zip", classes: Classes = CLASSES) -> ZipSource:
    """Check the zip at `path` and open it as a source.

    Raises:
        ArchiveError: it is not a zip, is damaged, or has entries that no honest archive has.
        DataError: it holds no class folders.
    """
    entries = check_archive(path)
    files = {entry.filename: (entry.CRC, entry.file_size) for entry in entries if not entry.is_dir()}
    folders = [entry.filename for entry in entries if entry.is_dir()]
    contents = find_items(files, folders, path.name, classes, lambda one, other: files[one] == files[other])
    return ZipSource(path, contents, kind, *origin(contents.items))


def check_archive(path: Path) -> list[zipfile.ZipInfo]:
    """Return the entries of a harmless zip.

    Raises:
        ArchiveError: see `open_zip`.
    """
    with _open(path) as file:
        entries = file.infolist()
    for entry in entries:
        _check_name(path, entry)
        _check_kind(path, entry)
    _check_sizes(path, entries)
    name, times = next(iter(Counter(entry.filename for entry in entries).most_common(1)), ("", 0))
    if times > 1:
        raise ArchiveError(f"{path.name} names the file {name!r} {times} times; it must not be opened")
    return entries


def _open(path: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except FileNotFoundError:
        raise DataError(f"{path} does not exist") from None
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from None
    except (zipfile.BadZipFile, ValueError, NotImplementedError, EOFError):
        with path.open("rb") as file:
            words = foreign(file.read(HEAD))
        raise ArchiveError(
            f"{path.name} is no zip file or is damaged{f': it is {words}' if words else '; download or copy it again'}"
        ) from None


def _check_name(path: Path, entry: zipfile.ZipInfo) -> None:
    name = entry.orig_filename.replace("\\", "/")
    if "\0" in name or name.startswith("/") or re.match(r"[A-Za-z]:", name) or ".." in name.split("/"):
        raise ArchiveError(f"{path.name} has an entry with an unsafe path, {name!r}; it must not be opened")


def _check_kind(path: Path, entry: zipfile.ZipInfo) -> None:
    kind = stat.S_IFMT(entry.external_attr >> 16)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise ArchiveError(
            f"{path.name} has a link or special file, {entry.filename!r}; it must not be opened"
        )
    if entry.flag_bits & _ENCRYPTED:
        raise ArchiveError(f"{path.name} is encrypted ({entry.filename!r}); decrypt it first")
    if entry.compress_type not in _METHODS:
        raise ArchiveError(f"{path.name} is compressed in an unknown way; pack it again as an ordinary zip")


def _check_sizes(path: Path, entries: list[zipfile.ZipInfo]) -> None:
    total = sum(entry.file_size for entry in entries)
    packed = sum(entry.compress_size for entry in entries)
    # Entries that share bytes (overlapping bombs) pack more than the file has.
    suspicious = len(entries) > MAX_ENTRIES or total > MAX_TOTAL_BYTES or packed > path.stat().st_size
    if suspicious or any(_swells(entry) for entry in entries):
        raise ArchiveError(
            f"{path.name} looks like a zip bomb ({total:,} bytes in {len(entries):,} files); "
            "it must not be opened"
        )


def _swells(entry: zipfile.ZipInfo) -> bool:
    return entry.file_size > RATIO_MATTERS_FROM and entry.file_size > MAX_RATIO * entry.compress_size
