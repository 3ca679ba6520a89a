import csv
import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from image_files import png
from PIL import Image
from xrays import (
    SITES,
    SPEC,
    ListSource,
    content,
    jpeg,
    kaggle_files,
    levels,
    prepare_small,
    write_folder,
    write_zip,
)

from pneumonia_fl.data.manifest import place_of, read_info, read_manifest
from pneumonia_fl.data.prepare.validate import check
from pneumonia_fl.data.preprocess import decode
from pneumonia_fl.data.sources.labelled_item import Item
from pneumonia_fl.data.sources.open_source import load_split, open_source
from pneumonia_fl.data.store import SiteData, open_site
from pneumonia_fl.errors import DataError, LeakError


@pytest.fixture
def xrays(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "xrays", kaggle_files())


def test_every_image_lands_where_its_row_says(xrays: Path, tmp_path: Path) -> None:
    info = prepare_small(xrays, tmp_path / "out")
    rows = read_manifest(tmp_path / "out")
    assert len(rows) == 48
    assert info.sites == SITES
    assert sum(sum(c.values()) for splits in info.counts.values() for c in splits.values()) == 48
    for folder in ("north", "south", "test"):
        data = SiteData.open(tmp_path / "out" / folder)
        assert data.rows == [row for row in rows if place_of(row) == folder]
        for row, image in zip(data.rows, data.images, strict=True):
            decoded = decode((xrays / row.image).read_bytes(), SPEC)
            assert (image == decoded.pixels).all()
            assert (row.width, row.height) == (decoded.width, decoded.height)


def test_the_depth_of_each_picture_is_noted_and_it_is_read_the_same_everywhere(tmp_path: Path) -> None:
    files = {name.replace(".jpeg", ".png"): data for name, data in kaggle_files(8).items()}
    deep = {name: of_bits(data, 10 + 2 * (index % 4)) for index, (name, data) in enumerate(files.items())}
    source = write_folder(tmp_path / "x", deep)
    info = prepare_small(source, tmp_path / "out")
    assert info.bits == read_info(tmp_path / "out").bits == {"10": 8, "12": 8, "14": 8, "16": 8}
    test = load_split(open_source(str(source)), "test", SPEC)
    stored = SiteData.open(tmp_path / "out" / "test")
    assert np.array_equal(stored.images, test.images)
    for row, image in zip(stored.rows, stored.images, strict=True):
        decoded = decode((source / row.image).read_bytes(), SPEC)  # as `predict` does
        assert (row.bits, image.tolist()) == (decoded.bits, decoded.pixels.tolist())
        assert np.array_equal(image, decode(of_bits(files[row.image], 8), SPEC).pixels)


def of_bits(picture: bytes, bits: int) -> bytes:
    """The same picture, with white somewhere, in so many bits of a 16-bit PNG."""
    levels = np.asarray(Image.open(io.BytesIO(picture))).astype(np.uint16) << (bits - 8)
    return png(np.where(levels == levels.max(), np.uint16((1 << bits) - 1), levels))


def test_the_official_test_set_is_kept_apart(xrays: Path, tmp_path: Path) -> None:
    prepare_small(xrays, tmp_path / "out")
    for row in read_manifest(tmp_path / "out"):
        assert (row.official_split == "test") == (row.split == "test") == (place_of(row) == "test")


def test_patients_never_divide_and_each_class_trains_and_validates(xrays: Path, tmp_path: Path) -> None:
    prepare_small(xrays, tmp_path / "out")
    homes: dict[str, set[tuple[str, str]]] = {}
    for row in read_manifest(tmp_path / "out"):
        homes.setdefault(row.patient, set()).add((row.site, row.split))
    assert {len(places) for places in homes.values()} == {1}
    for site in SITES:
        for split in ("train", "val"):
            assert set(open_site(tmp_path / "out", site).split(split).labels.tolist()) == {0, 1}


def test_a_sites_training_split_is_read_without_a_copy(xrays: Path, tmp_path: Path) -> None:
    prepare_small(xrays, tmp_path / "out")
    site = open_site(tmp_path / "out", "north")
    assert np.shares_memory(site.split("train").images, site.images)
    assert np.shares_memory(site.split("val").images, site.images)


def test_bytes_do_not_depend_on_workers_order_or_container(tmp_path: Path) -> None:
    files = kaggle_files(40, 2)
    backwards = dict(reversed(files.items()))
    prepare_small(str(write_folder(tmp_path / "a", files)), tmp_path / "1", workers=1)
    prepare_small(str(write_folder(tmp_path / "b", backwards)), tmp_path / "2", workers=2)
    first, second = content(tmp_path / "1"), content(tmp_path / "2")
    assert first == second
    prepare_small(str(write_folder(tmp_path / "a", files)), tmp_path / "3", seed=8)
    assert content(tmp_path / "3") != first


def test_a_site_sees_nothing_of_the_others(xrays: Path, tmp_path: Path) -> None:
    prepare_small(xrays, tmp_path / "out")
    north = tmp_path / "out" / "north"
    assert {path.name for path in north.iterdir()} == {"dataset.json", "images.npy", "manifest.csv"}
    assert {row.site for row in read_manifest(north)} == {"north"}
    info = read_info(north)
    assert info.sites == ("north",)
    assert set(info.counts) == {"north"}
    assert "south" not in (north / "dataset.json").read_text()


BROKEN = {
    "chest_xray/train/NORMAL/IM-9001-0001.jpeg": (b"", "the file is empty"),
    "chest_xray/train/NORMAL/IM-9002-0001.jpeg": (b"just text", "text, not an image"),
    "chest_xray/train/PNEUMONIA/person9003_virus_1.jpeg": (jpeg(1, (400, 400))[:900], "damaged image"),
    "chest_xray/train/PNEUMONIA/notes.txt": (b"\x00\x01\x02binary", "not a readable image"),
    "chest_xray/test/NORMAL/IM-9005-0001.jpeg": (b"GIF89a", ""),
}


def test_unreadable_files_are_listed_with_the_reason_and_left_out(tmp_path: Path) -> None:
    files = kaggle_files() | {name: data for name, (data, _) in BROKEN.items()}
    info = prepare_small(str(write_zip(tmp_path / "x.zip", files)), tmp_path / "out")
    assert info.quarantined == len(BROKEN)
    listed = (tmp_path / "out" / "quarantine.csv").read_text()
    for name, (_, reason) in BROKEN.items():
        assert name in listed
        assert reason in listed
    assert not {row.image for row in read_manifest(tmp_path / "out")} & set(BROKEN)
    assert levels(tmp_path / "out") == {"ok", "warn"}


def test_exact_copies_are_dropped_and_their_patients_stay_together(tmp_path: Path) -> None:
    files = kaggle_files()
    copy = "chest_xray/train/NORMAL/IM-0001-0000.jpeg"
    files["chest_xray/train/NORMAL/IM-7777-0001.jpeg"] = files[copy]
    files["chest_xray/train/NORMAL/IM-7777-0002.jpeg"] = jpeg(77)
    info = prepare_small(str(write_folder(tmp_path / "x", files)), tmp_path / "out")
    assert info.duplicates == 1
    assert f"IM-7777-0001.jpeg,exact copy of {copy}" in (tmp_path / "out" / "quarantine.csv").read_text()
    rows = {row.image: row for row in read_manifest(tmp_path / "out")}
    other = rows["chest_xray/train/NORMAL/IM-7777-0002.jpeg"]
    first = rows[copy]
    assert (other.patient, other.site, other.split) == (first.patient, first.site, first.split)


def test_no_file_name_is_a_formula_in_the_list_of_what_was_left_out(tmp_path: Path) -> None:
    files = {f"=1+1,{name}": data for name, data in kaggle_files().items()}
    files["=1+1,chest_xray/train/NORMAL/IM-9001-0001.jpeg"] = b""
    prepare_small(str(write_folder(tmp_path / "x", files)), tmp_path / "out")
    _, (name, _) = csv.reader((tmp_path / "out" / "quarantine.csv").read_text().splitlines())
    assert name == "'=1+1,chest_xray/train/NORMAL/IM-9001-0001.jpeg"


def test_a_picture_filed_under_both_classes_is_not_trusted(tmp_path: Path) -> None:
    files = kaggle_files()
    files["chest_xray/train/PNEUMONIA/person800_virus_1.jpeg"] = files[
        "chest_xray/train/NORMAL/IM-0001-0000.jpeg"
    ]
    info = prepare_small(str(write_folder(tmp_path / "x", files)), tmp_path / "out")
    assert info.quarantined == 2
    assert (tmp_path / "out" / "quarantine.csv").read_text().count("filed under both classes") == 2


def test_a_copy_of_a_test_image_stops_the_preparation(tmp_path: Path) -> None:
    files = kaggle_files()
    files["chest_xray/val/NORMAL/IM-7777-0001.jpeg"] = files["chest_xray/test/NORMAL/IM-0003-0000.jpeg"]
    source = write_folder(tmp_path / "x", files)
    with pytest.raises(
        LeakError, match=r"^1 training images are exact copies of official test images .*IM-7777"
    ):
        prepare_small(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_leaking_patients_are_left_out_on_request(tmp_path: Path) -> None:
    files = kaggle_files()
    files["chest_xray/val/NORMAL/IM-7777-0001.jpeg"] = files["chest_xray/test/NORMAL/IM-0003-0000.jpeg"]
    files["chest_xray/train/NORMAL/IM-7777-0002.jpeg"] = jpeg(77)
    info = prepare_small(write_folder(tmp_path / "x", files), tmp_path / "out", drop_leaks=True)
    assert info.leaks_dropped == 2
    assert "NORMAL/IM-7777" not in {row.patient for row in read_manifest(tmp_path / "out")}
    assert "fail" not in levels(tmp_path / "out")


def test_whoever_shares_a_picture_with_a_leaking_patient_is_that_patient(tmp_path: Path) -> None:
    files = kaggle_files()
    train = "chest_xray/train/NORMAL"
    files[f"{train}/IM-7777-0001.jpeg"] = files["chest_xray/test/NORMAL/IM-0003-0000.jpeg"]
    files[f"{train}/IM-7777-0002.jpeg"] = files[f"{train}/IM-8888-0001.jpeg"] = jpeg(77)
    files[f"{train}/IM-8888-0002.jpeg"] = files[f"{train}/IM-9999-0001.jpeg"] = jpeg(88)
    files[f"{train}/IM-9999-0002.jpeg"] = jpeg(99)
    info = prepare_small(write_folder(tmp_path / "x", files), tmp_path / "out", drop_leaks=True)
    assert info.leaks_dropped == 6
    kept = {row.patient for row in read_manifest(tmp_path / "out")}
    assert not kept & {"NORMAL/IM-7777", "NORMAL/IM-8888", "NORMAL/IM-9999"}


def test_copies_between_the_splits_of_an_npz_are_left_out(tmp_path: Path) -> None:
    images = np.random.default_rng(1).integers(0, 256, (20, 16, 16), dtype=np.uint8)
    labels = (np.arange(20, dtype=np.uint8) % 2)[:, None]
    arrays = {"train_images": images, "train_labels": labels}
    np.savez(tmp_path / "x.npz", **arrays, test_images=images[:2], test_labels=labels[:2])
    info = prepare_small(tmp_path / "x.npz", tmp_path / "out")
    assert info.leaks_dropped == 2
    assert info.counts["test"]["test"] == {"NORMAL": 1, "PNEUMONIA": 1}
    with pytest.raises(LeakError, match="2 training images"):
        prepare_small(tmp_path / "x.npz", tmp_path / "out", force=True, drop_leaks=False)


def test_patients_that_the_test_set_names_too_are_counted(tmp_path: Path) -> None:
    files = kaggle_files()
    files["chest_xray/train/NORMAL/IM-0003-0009.jpeg"] = jpeg(99)
    assert (
        prepare_small(str(write_folder(tmp_path / "x", files)), tmp_path / "out").patient_overlap_with_test
        == 1
    )
    assert any("1 patient ids occur" in finding.message for finding in check(tmp_path / "out"))


def test_a_hospital_prepares_its_own_folder(tmp_path: Path) -> None:
    files = {f"NORMAL/scan{i}.png": jpeg(i) for i in range(6)}
    files |= {f"PNEUMONIA/scan{i}.png": jpeg(i) for i in range(6, 12)}
    info = prepare_small(
        str(write_folder(tmp_path / "x", files)),
        tmp_path / "out",
        sites=["my-hospital"],
        patients_unknown=True,
    )
    assert not info.poolable
    assert not (tmp_path / "out" / "test").exists()
    assert open_site(tmp_path / "out" / "my-hospital", "my-hospital").name == "my-hospital"
    warnings = [
        finding.message for finding in check(tmp_path / "out" / "my-hospital") if finding.level == "warn"
    ]
    assert [warning.partition(":")[0] for warning in warnings] == [
        "patient unknown for 12 of 12 images (100.0%)",
        "no split recognised (train, val, test)",
    ]


def test_one_class_sites_are_allowed_with_a_warning(tmp_path: Path) -> None:
    files = {f"PNEUMONIA/person{i}_virus_1.png": jpeg(i) for i in range(60)}
    files |= {f"NORMAL/IM-{i:04}-0001.png": jpeg(100 + i) for i in range(6)}
    prepare_small(write_folder(tmp_path / "x", files), tmp_path / "out", partition="dirichlet:0.01", seed=3)
    warnings = [finding.message for finding in check(tmp_path / "out") if finding.level == "warn"]
    assert "north: no NORMAL images in train; it can train on one class only" in warnings
    assert "north: no NORMAL images in val; its AUROC is n/a" in warnings


def test_synthetic_hospitals_stay_at_their_sites(tmp_path: Path) -> None:
    prepare_small("synthetic:images=48,size=32,sites=2", tmp_path / "out", partition="natural")
    for number, site in enumerate(SITES):
        assert {patient[:2] for patient in open_site(tmp_path / "out", site).split("train").patients} == {
            f"g{number}"
        }


@pytest.mark.parametrize("partition", ["iid", "dirichlet:0.3", "quantity:3,1", "subtype"])
def test_every_partition_gives_a_data_set_that_passes_the_check(
    xrays: Path, tmp_path: Path, partition: str
) -> None:
    assert prepare_small(xrays, tmp_path / "out", partition=partition).partition == partition
    assert "fail" not in levels(tmp_path / "out")


def named_badly(files: dict[str, bytes], until: int) -> dict[str, bytes]:
    """Give the first files names that tell no patient."""
    return {
        f"{name.rpartition('/')[0]}/scan {number}.jpeg" if number < until else name: data
        for number, (name, data) in enumerate(files.items())
    }


@pytest.mark.parametrize("write", [write_folder, write_zip])
def test_unknown_patients_of_most_images_are_an_error_unless_allowed(tmp_path: Path, write: object) -> None:
    source = str(write(tmp_path / "x", named_badly(kaggle_files(), 25)))  # type: ignore[operator]
    with pytest.raises(DataError, match=r"25 of 48 images .*--patients-unknown"):
        prepare_small(source, tmp_path / "out")
    info = prepare_small(source, tmp_path / "out", patients_unknown=True)
    assert info.patients_unknown == 25
    assert sum(read_info(tmp_path / "out" / folder).patients_unknown for folder in (*SITES, "test")) == 25


def test_half_of_the_patients_may_be_unknown_and_the_check_says_so(tmp_path: Path) -> None:
    prepare_small(write_folder(tmp_path / "x", named_badly(kaggle_files(), 24)), tmp_path / "out")
    messages = [finding.message for finding in check(tmp_path / "out")]
    assert "no known patient is in two sites or in both train and val" in messages
    assert any(message.startswith("patient unknown for 24 of 48 images (50.0%)") for message in messages)


def test_every_file_is_in_the_manifest_or_in_quarantine(tmp_path: Path) -> None:
    files = kaggle_files() | {
        "chest_xray/train/COVID/1.png": b"x",
        "readme.md": b"x",
        "chest_xray/.DS_Store": b"x",
    }
    files |= {f"chest_xray/{name}": data for name, data in kaggle_files().items()}
    info = prepare_small(write_zip(tmp_path / "x.zip", files), tmp_path / "out")
    listed = list(csv.reader((tmp_path / "out" / "quarantine.csv").read_text().splitlines()))[1:]
    assert {row.image for row in read_manifest(tmp_path / "out")} | {name for name, _ in listed} == set(files)
    assert sum(info.unused.values()) == len(listed) == 51
    assert any(
        "2 files are not used: in no class folder" in finding.message for finding in check(tmp_path / "out")
    )


def test_a_source_with_one_class_is_an_error(tmp_path: Path) -> None:
    np.savez(
        tmp_path / "x.npz", train_images=np.zeros((4, 8, 8), np.uint8), train_labels=np.zeros(4, np.uint8)
    )
    with pytest.raises(DataError, match="no PNEUMONIA images"):
        prepare_small(tmp_path / "x.npz", tmp_path / "out")


@st.composite
def sources(draw: st.DrawFn) -> ListSource:
    """Patients with pictures, some of them copies of each other's."""
    pairs = []
    for patient in range(draw(st.integers(4, 10))):
        label = draw(st.integers(0, 1))
        for view in range(draw(st.integers(1, 3))):
            picture = draw(st.one_of(st.just(100 * patient + view), st.integers(0, 2))) + 10_000 * label
            split = draw(st.sampled_from(["train", "val", ""]))
            item = Item(f"{patient:02}-{view}.jpeg", label, f"p{patient}", "unknown", split)
            pairs.append((item, jpeg(picture, (16, 16))))
    return ListSource(tuple(pairs))


@given(source=sources(), seed=st.integers(0, 100))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_source_is_prepared_whole_and_apart_or_refused(
    tmp_path: Path, source: ListSource, seed: int
) -> None:
    out = tmp_path / f"out{len(list(tmp_path.iterdir()))}"
    try:
        info = prepare_small(source, out, seed=seed)
    except DataError:
        return
    rows = read_manifest(out)
    assert len(rows) + info.duplicates + info.quarantined == len(source.items())
    assert len({row.sha256 for row in rows}) == len(rows)
    assert "fail" not in levels(out)


def test_only_a_licence_or_the_owners_word_makes_images_poolable(tmp_path: Path) -> None:
    files = {f"NORMAL/NORMAL-{i}-1.png": jpeg(i) for i in range(8)}
    files |= {f"PNEUMONIA/IM-{i}-1.png": jpeg(i) for i in range(8, 16)}
    folder = str(write_folder(tmp_path / "x", files))
    assert not prepare_small(folder, tmp_path / "private").poolable
    assert prepare_small(folder, tmp_path / "allowed", poolable=True).poolable
    assert prepare_small("synthetic:images=40,size=32", tmp_path / "drawn").poolable
