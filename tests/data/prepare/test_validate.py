from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from xrays import kaggle_files, prepare_small, write_folder

from pneumonia_fl.data.manifest import Row, read_info, read_manifest, write_info, write_manifest
from pneumonia_fl.data.prepare.validate import check
from pneumonia_fl.errors import DataError


@pytest.fixture
def xrays(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "xrays", kaggle_files())


def spoil(out: Path, change: str) -> None:
    site = out / "north"
    if change == "manifest":
        (out / "manifest.csv").write_text((out / "manifest.csv").read_text() + "\n")
    elif change == "no store":
        (site / "images.npy").unlink()
    elif change == "shape":
        np.save(site / "images.npy", np.zeros((3, 16, 16), np.uint8))
    elif change == "label":
        (site / "manifest.csv").write_text((site / "manifest.csv").read_text().replace("jpeg,1,", "jpeg,3,"))
    else:
        rewrite(
            out, [moved(row, change) if index == 0 else row for index, row in enumerate(read_manifest(out))]
        )


def moved(row: Row, change: str) -> Row:
    return replace(row, site="south") if change == "two sites" else replace(row, sha256="0" * 64)


def rewrite(out: Path, rows: list[Row]) -> None:
    if rows[0].sha256 == "0" * 64:
        rows[-1] = replace(rows[-1], sha256="0" * 64)
        assert rows[-1].split == "test"
    write_info(out, read_info(out).model_copy(update={"manifest_sha256": write_manifest(out, rows)}))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("manifest", "damaged"),
        ("no store", "images.npy not found"),
        ("shape", "its manifest needs uint8"),
        ("label", "damaged"),
        ("two sites", "1 patients are in two sites"),
        ("leak", "1 test images are used for training"),
    ],
)
def test_the_check_finds_what_was_spoilt(xrays: Path, tmp_path: Path, change: str, message: str) -> None:
    out = tmp_path / "out"
    prepare_small(xrays, out)
    spoil(out, change)
    assert message in " ".join(finding.message for finding in check(out) if finding.level == "fail")


def test_the_check_notices_a_manifest_that_was_edited(xrays: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    prepare_small(xrays, out)
    path = out / "north" / "manifest.csv"
    path.write_text(path.read_text().replace("PNEUMONIA/person", "PNEUMONIA/human"))
    failures = [finding.message for finding in check(out) if finding.level == "fail"]
    assert "north: the manifest was changed after the preparation; prepare the data again" in failures


def test_checking_a_missing_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        check(tmp_path / "missing")
