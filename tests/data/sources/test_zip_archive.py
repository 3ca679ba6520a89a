import pickle
import stat
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import pytest
from xrays import jpeg, kaggle_files, write_zip

from pneumonia_fl.data.sources.zip_archive import check_archive, open_zip
from pneumonia_fl.errors import ArchiveError, DataError

NAME = "chest_xray/train/NORMAL/IM-0001-0001.jpeg"


def test_a_zip_is_read_without_extracting_it(tmp_path: Path) -> None:
    files = kaggle_files(4)
    source = open_zip(write_zip(tmp_path / "x.zip", files))
    items = source.items()
    assert [item.name for item in items] == sorted(files)
    assert source.read(items[3]) == files[items[3].name]
    assert [path.name for path in tmp_path.iterdir()] == ["x.zip"]
    assert (source.kind, source.licence) == ("zip", "CC BY 4.0")


def test_a_used_source_can_be_sent_to_another_process(tmp_path: Path) -> None:
    source = open_zip(write_zip(tmp_path / "x.zip", kaggle_files(2)))
    item = source.items()[0]
    content = source.read(item)
    assert pickle.loads(pickle.dumps(source)).read(item) == content


@pytest.mark.parametrize(
    "name",
    [
        "../evil.jpeg",
        "chest_xray/../../evil.jpeg",
        "/etc/passwd",
        "C:/evil.jpeg",
        "..\\evil.jpeg",
        "\\\\a\\b",
    ],
)
def test_unsafe_paths_are_refused(tmp_path: Path, name: str) -> None:
    path = write_zip(tmp_path / "x.zip", {NAME: jpeg(1), name: b"x"})
    with pytest.raises(ArchiveError, match=r"unsafe path"):
        open_zip(path)


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFCHR, stat.S_IFIFO])
def test_links_and_special_files_are_refused(tmp_path: Path, kind: int) -> None:
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w") as file:
        entry = zipfile.ZipInfo(NAME)
        entry.external_attr = (kind | 0o777) << 16
        file.writestr(entry, "/etc/passwd")
    with pytest.raises(ArchiveError, match="link or special file"):
        open_zip(path)


def test_a_bomb_by_ratio_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match="bomb"):
        open_zip(write_zip(tmp_path / "x.zip", {NAME: bytes(20 * 2**20)}))


def change_entry(path: Path, change: Callable[[zipfile.ZipInfo], None]) -> Path:
    """Write a zip whose directory says something else than its content."""
    with zipfile.ZipFile(path, "w") as file:
        file.writestr(NAME, jpeg(1))
        change(file.filelist[0])
    return path


def test_a_bomb_by_declared_size_is_refused(tmp_path: Path) -> None:
    path = change_entry(tmp_path / "x.zip", lambda entry: setattr(entry, "file_size", 2**40))
    with pytest.raises(ArchiveError, match="bomb"):
        open_zip(path)


def test_a_bomb_by_overlapping_entries_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr(NAME, jpeg(1, (800, 800)))
        for index in range(50):
            entry = zipfile.ZipInfo(f"chest_xray/train/NORMAL/{index}.jpeg")
            for name in ("compress_size", "file_size", "CRC", "header_offset"):
                setattr(entry, name, getattr(file.filelist[0], name))
            file.filelist.append(entry)
    with pytest.raises(ArchiveError, match="bomb"):
        open_zip(path)


def test_encrypted_archives_are_refused(tmp_path: Path) -> None:
    path = change_entry(tmp_path / "x.zip", lambda entry: setattr(entry, "flag_bits", 1))
    with pytest.raises(ArchiveError, match="encrypted"):
        open_zip(path)


def test_unknown_compression_is_refused(tmp_path: Path) -> None:
    path = change_entry(tmp_path / "x.zip", lambda entry: setattr(entry, "compress_type", 97))
    with pytest.raises(ArchiveError, match="unknown way"):
        open_zip(path)


def test_a_file_named_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr(NAME, jpeg(1))
        with pytest.warns(UserWarning, match="Duplicate name"):
            file.writestr(NAME, jpeg(2))
    with pytest.raises(ArchiveError, match="2 times"):
        open_zip(path)


@pytest.mark.parametrize("content", [b"", b"this is text", b"PK\x03\x04broken"])
def test_what_is_no_zip_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.zip").write_bytes(content)
    with pytest.raises(ArchiveError, match="no zip file or is damaged"):
        check_archive(tmp_path / "x.zip")


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_a_tar_archive_is_named(tmp_path: Path, mode: Literal["w", "w:gz", "w:bz2", "w:xz"]) -> None:
    (tmp_path / "a.txt").write_text("x")
    with tarfile.open(tmp_path / "x.tar", mode) as file:
        file.add(tmp_path / "a.txt", "a.txt")
    with pytest.raises(
        ArchiveError, match=r"x.tar is no zip file .*: it is (a tar archive|packed \(\w+\)); unpack it first"
    ):
        open_zip(tmp_path / "x.tar")


def test_a_truncated_zip_is_refused(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "x.zip", kaggle_files(2))
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ArchiveError, match="damaged"):
        check_archive(path)


def test_a_damaged_entry_is_that_images_error_only(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "x.zip", {NAME: jpeg(1), NAME.replace("0001.", "0002."): jpeg(2)})
    with zipfile.ZipFile(path) as file:
        offset = file.getinfo(NAME).header_offset + 30 + len(NAME)
    content = bytearray(path.read_bytes())
    content[offset + 40] ^= 0xFF
    path.write_bytes(content)
    source = open_zip(path)
    first, second = source.items()
    with pytest.raises(DataError, match="damaged inside the zip"):
        source.read(first)
    assert source.read(second) == jpeg(2)
