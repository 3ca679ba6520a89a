from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from dataset_infos import ROW, info

from pneumonia_fl.data.manifest import Row, count, write_info, write_manifest
from pneumonia_fl.data.store import SiteData, open_site
from pneumonia_fl.errors import DataError

SPLITS = ["train", "train", "train", "val", "val"]


def rows(splits: list[str]) -> list[Row]:
    return [
        replace(ROW, image=f"{i}.jpeg", split=split, label=i % 2, patient=f"p{i}")
        for i, split in enumerate(splits)
    ]


def write_store(folder: Path, splits: list[str] = SPLITS, side: int = 32) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    images = np.arange(len(splits), dtype=np.uint8)[:, None, None] * np.ones((1, side, side), np.uint8)
    np.save(folder / "images.npy", images)
    listed = rows(splits)
    write_info(folder, info(counts=count(listed), manifest_sha256=write_manifest(folder, listed)))
    return folder


def test_row_i_describes_image_i(tmp_path: Path) -> None:
    data = SiteData.open(write_store(tmp_path))
    assert data.name == "site-1"
    assert data.images.shape == (5, 32, 32)
    assert data.labels.tolist() == [0, 1, 0, 1, 0]
    val = data.split("val")
    assert val.images[:, 0, 0].tolist() == [3, 4]
    assert val.labels.tolist() == [1, 0]
    assert val.patients == ["p3", "p4"]
    assert val.subtypes == ["viral", "viral"]
    assert len(val) == 2


def test_a_split_that_lies_together_is_a_view_and_another_a_copy(tmp_path: Path) -> None:
    together = SiteData.open(write_store(tmp_path / "a"))
    assert np.shares_memory(together.split("train").images, together.images)
    mixed = SiteData.open(write_store(tmp_path / "b", ["train", "val", "train"]))
    assert mixed.split("train").images[:, 0, 0].tolist() == [0, 2]


def test_a_split_without_images_is_empty(tmp_path: Path) -> None:
    empty = SiteData.open(write_store(tmp_path)).split("test")
    assert len(empty) == 0
    assert empty.images.shape == (0, 32, 32)


def test_the_file_cannot_be_changed_through_the_map_and_torch_takes_it_without_a_warning(
    tmp_path: Path,
) -> None:
    import torch

    data = SiteData.open(write_store(tmp_path))
    before = (tmp_path / "images.npy").read_bytes()
    torch.from_numpy(data.images)[:] = 9
    del data
    assert (tmp_path / "images.npy").read_bytes() == before


def test_a_site_is_found_below_the_root_or_is_the_root(tmp_path: Path) -> None:
    write_store(tmp_path / "site-1")
    assert open_site(tmp_path, "site-1").name == "site-1"
    assert open_site(tmp_path / "site-1", "site-1").name == "site-1"


def test_another_sites_folder_is_refused(tmp_path: Path) -> None:
    write_store(tmp_path)
    with pytest.raises(DataError, match="holds the data of site 'site-1', not of 'site-2'"):
        open_site(tmp_path, "site-2")


def test_an_unprepared_folder_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no prepared data of site 'site-1'.*data prepare"):
        open_site(tmp_path, "site-1")


def test_images_that_do_not_fit_the_manifest_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"its manifest needs uint8 \(5, 32, 32\)"):
        SiteData.open(write_store(tmp_path, side=16))


@pytest.mark.parametrize("content", [b"", b"not numpy", b"\x93NUMPY\x01\x00"])
def test_a_damaged_store_is_refused(tmp_path: Path, content: bytes) -> None:
    write_store(tmp_path)
    (tmp_path / "images.npy").write_bytes(content)
    with pytest.raises(DataError, match="damaged"):
        SiteData.open(tmp_path)


def test_a_truncated_store_is_refused(tmp_path: Path) -> None:
    path = write_store(tmp_path) / "images.npy"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(DataError, match="damaged"):
        SiteData.open(tmp_path)


def test_a_missing_store_says_what_to_run(tmp_path: Path) -> None:
    (write_store(tmp_path) / "images.npy").unlink()
    with pytest.raises(DataError, match=r"images.npy not found"):
        SiteData.open(tmp_path)
