from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from dataset_infos import ROW, info

from pneumonia_fl.data.manifest import (
    count,
    manifest_hash,
    read_info,
    read_manifest,
    write_info,
    write_manifest,
)
from pneumonia_fl.errors import DataError, OutputError


def test_rows_survive_the_file_with_commas_quotes_and_umlauts(tmp_path: Path) -> None:
    rows = [ROW, replace(ROW, image='Röntgen "2".jpeg', label=0, subtype="normal")]
    digest = write_manifest(tmp_path, rows)
    assert read_manifest(tmp_path) == rows
    assert manifest_hash(tmp_path) == digest
    assert [path.name for path in tmp_path.iterdir()] == ["manifest.csv"]


def test_info_survives_the_file_and_names_both_classes(tmp_path: Path) -> None:
    write_info(tmp_path, info())
    assert read_info(tmp_path) == info()
    assert read_info(tmp_path).classes == {"NORMAL": 0, "PNEUMONIA": 1}


def test_a_missing_manifest_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"manifest.csv not found in .*; run `pneumonia-fl data prepare`"):
        read_manifest(tmp_path)
    with pytest.raises(DataError, match=r"dataset.json not found"):
        read_info(tmp_path)


@pytest.mark.parametrize(
    ("old", "new"), [("1", "2"), ("val", "validation"), (",40,", ",forty,"), ("image,", "picture,")]
)
def test_a_damaged_manifest_is_refused(tmp_path: Path, old: str, new: str) -> None:
    write_manifest(tmp_path, [replace(ROW, image="x", patient="p", source="s", site="s", sha256="s")])
    path = tmp_path / "manifest.csv"
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(DataError, match="damaged"):
        read_manifest(tmp_path)


MUELLER = replace(ROW, image="Müller.jpeg")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text.encode("cp1252"), "no UTF-8, line 3"),
        (lambda text: text.encode("utf-16"), "no UTF-8, line 1"),
        (lambda text: text[:-30].encode(), "8 columns, line 3"),
        (lambda text: text.replace(",", ";").encode(), "unexpected columns, line 1"),
        (lambda text: text.encode() + b"\n", "0 columns, line 4"),
    ],
)
def test_a_manifest_from_elsewhere_is_damaged_in_a_line(
    tmp_path: Path, change: Callable[[str], bytes], message: str
) -> None:
    write_manifest(tmp_path, [ROW, MUELLER])
    path = tmp_path / "manifest.csv"
    path.write_bytes(change(path.read_text(encoding="utf-8")))
    with pytest.raises(DataError, match=rf"manifest.csv is damaged \({message}\)"):
        read_manifest(tmp_path)


def test_a_byte_order_mark_and_other_line_ends_change_no_row(tmp_path: Path) -> None:
    write_manifest(tmp_path, [ROW, MUELLER])
    path = tmp_path / "manifest.csv"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    assert read_manifest(tmp_path) == [ROW, MUELLER]


def test_an_info_from_elsewhere_is_damaged_in_a_line(tmp_path: Path) -> None:
    write_info(tmp_path, info(credit="Müller"))
    path = tmp_path / "dataset.json"
    path.write_bytes(path.read_text(encoding="utf-8").encode("cp1252"))
    with pytest.raises(DataError, match=r"dataset.json is damaged \(no UTF-8, line 5\)"):
        read_info(tmp_path)


@pytest.mark.parametrize("text", ["", "[]", "{", '{"version": 2}', '{"unknown": 1}'])
def test_a_damaged_info_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "dataset.json").write_text(text)
    with pytest.raises(DataError, match="damaged"):
        read_info(tmp_path)


def test_a_manifest_of_before_the_depth_was_told_is_read(tmp_path: Path) -> None:
    write_manifest(tmp_path, [replace(ROW, bits=8)])
    path = tmp_path / "manifest.csv"
    lines = path.read_text().splitlines()
    path.write_text("".join(line.rpartition(",")[0] + "\n" for line in lines))
    assert read_manifest(tmp_path) == [ROW]


def test_counting_names_absent_classes_too() -> None:
    rows = [ROW, ROW, replace(ROW, site="", split="test", label=0)]
    assert count(rows) == {
        "site-1": {"val": {"NORMAL": 0, "PNEUMONIA": 2}},
        "test": {"test": {"NORMAL": 1, "PNEUMONIA": 0}},
    }


def test_writing_into_a_missing_folder_is_an_output_error(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="cannot write to"):
        write_manifest(tmp_path / "missing", [ROW])
