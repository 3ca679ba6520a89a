import errno
import logging
import lzma
import os
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from bomb import Bomb
from numpy.lib.npyio import NpzFile
from xrays import ListSource, jpeg, kaggle_files, prepare_small, write_folder, write_zip

from conftest import PUBLIC_DATA
from pneumonia_fl.config.sections import Preprocess
from pneumonia_fl.data.manifest import SPLITS
from pneumonia_fl.data.sources.kermany_layout import (
    NESTED_COPY,
    NO_CLASS,
    SYSTEM_FILE,
    find_items,
    patient_of,
    subtype_of,
)
from pneumonia_fl.data.sources.labelled_item import UNKNOWN_LICENCE, Item
from pneumonia_fl.data.sources.open_source import load_split, open_source
from pneumonia_fl.errors import ConfigError, DataError, StorageError

SPEC = Preprocess(size=16)


@pytest.mark.parametrize(
    ("stem", "label", "patient", "subtype"),
    [
        ("person1000_bacteria_2931", 1, "PNEUMONIA/person1000", "bacterial"),
        ("person1000_virus_1681", 1, "PNEUMONIA/person1000", "viral"),
        ("person1571_virus_2728_1", 1, "PNEUMONIA/person1571", "viral"),
        ("IM-0115-0001", 0, "NORMAL/IM-0115", "normal"),
        ("IM-0115-0001-0002", 0, "NORMAL/IM-0115", "normal"),
        ("NORMAL2-IM-0115-0001", 0, "NORMAL/NORMAL2-IM-0115", "normal"),
        ("BACTERIA-1008087-0001", 1, "PNEUMONIA/1008087", "bacterial"),
        ("VIRUS-1008087-0003", 1, "PNEUMONIA/1008087", "viral"),
        ("NORMAL-1008087-0001", 0, "NORMAL/1008087", "normal"),
        ("scan_0042", 1, "scan_0042", "unknown"),
        ("person12", 1, "person12", "unknown"),
    ],
)
def test_names_tell_patient_and_subtype(stem: str, label: int, patient: str, subtype: str) -> None:
    assert patient_of(stem, label) == patient
    assert subtype_of(stem, label) == subtype


def test_the_kaggle_layout_is_read_from_folder_and_zip_alike(tmp_path: Path) -> None:
    files = kaggle_files(8)
    folder = open_source(str(write_folder(tmp_path / "x", files)))
    archive = open_source(str(write_zip(tmp_path / "x.zip", files)))
    assert folder.items() == archive.items()
    assert [item.name for item in folder.items()] == sorted(files)
    assert {item.official_split for item in folder.items()} == {"train", "val", "test"}
    assert folder.licence == archive.licence == "CC BY 4.0"
    assert "Kermany" in folder.credit
    assert {folder.hospital(item) for item in folder.items()} == {None}


def test_junk_and_nested_copies_do_not_count() -> None:
    names = [
        "chest_xray/train/NORMAL/IM-0001-0001.jpeg",
        "chest_xray/chest_xray/train/NORMAL/IM-0001-0001.jpeg",
        "chest_xray/__MACOSX/train/NORMAL/._IM-0001-0001.jpeg",
        "__MACOSX/chest_xray/train/NORMAL/IM-0001-0001.jpeg",
        "chest_xray/train/NORMAL/.DS_Store",
        "chest_xray/train/NORMAL/Thumbs.db",
        "chest_xray/train/.hidden/NORMAL/IM-0002-0001.jpeg",
        "chest_xray/chest_xray/val/NORMAL/IM-0003-0001.jpeg",
        "chest_xray/readme.txt",
        "chest_xray/train/PNEUMONIA/person1_virus_1.jpeg",
    ]
    found = find_items(names, [], "here")
    assert [item.name for item in found.items] == [names[7], names[0], names[9]]
    assert dict(found.left_out) == {
        names[1]: NESTED_COPY,
        names[8]: NO_CLASS,
        **{name: SYSTEM_FILE for name in names[2:7]},
    }


def test_equal_names_of_different_hospitals_are_different_images() -> None:
    names = ["north/train/NORMAL/1.png", "south/train/NORMAL/1.png", "south/south/train/NORMAL/1.png"]
    assert [item.name for item in find_items(names, [], "here").items] == names[:2]


def test_class_folders_alone_in_any_case_have_no_official_split(tmp_path: Path) -> None:
    files = {"normal/a.png": jpeg(1), "Pneumonia/deep/b.JPG": jpeg(2)}
    items = open_source(str(write_folder(tmp_path, files))).items()
    assert [(item.label, item.official_split, item.patient) for item in items] == [(1, "", "b"), (0, "", "a")]


def test_validation_folder_has_other_names_too() -> None:
    items = find_items([r"valid\NORMAL\a.png", "TEST/x/NORMAL/b.png"], [], "here").items
    assert [item.official_split for item in items] == ["test", "val"]


def test_a_hospitals_own_names_are_not_taken_for_the_public_set(tmp_path: Path) -> None:
    files = {"NORMAL/IM-0001-0001.jpeg": jpeg(1), "PNEUMONIA/IM-0002-0001.jpeg": jpeg(2)}
    source = open_source(str(write_folder(tmp_path, files)))
    assert (source.licence, source.credit) == (UNKNOWN_LICENCE, "")


def test_the_order_does_not_depend_on_the_file_system(tmp_path: Path) -> None:
    files = kaggle_files(6)
    forwards = open_source(str(write_folder(tmp_path / "a", files))).items()
    backwards = open_source(str(write_folder(tmp_path / "b", dict(reversed(files.items()))))).items()
    assert forwards == backwards


def test_linked_folders_are_followed_without_going_round_in_circles(tmp_path: Path) -> None:
    write_folder(tmp_path / "store", {"NORMAL/a.png": jpeg(1), "PNEUMONIA/b.png": jpeg(2)})
    root = tmp_path / "x"
    root.mkdir()
    (root / "train").symlink_to(tmp_path / "store")
    (tmp_path / "store" / "loop").symlink_to(root)
    items = open_source(str(root)).items()
    assert [item.name for item in items] == ["train/NORMAL/a.png", "train/PNEUMONIA/b.png"]


def test_a_pipe_or_a_dead_link_is_that_images_error(tmp_path: Path) -> None:
    write_folder(tmp_path, {"NORMAL/a.png": jpeg(1)})
    os.mkfifo(tmp_path / "NORMAL" / "b.png")
    (tmp_path / "NORMAL" / "c.png").symlink_to(tmp_path / "nowhere")
    source = open_source(str(tmp_path))
    _, pipe, link = source.items()
    for item in (pipe, link):
        with pytest.raises(DataError, match="not a regular file"):
            source.read(item)


@pytest.mark.parametrize("make", [write_folder, lambda path, files: write_zip(path, files, ["train/NORMAL"])])
def test_an_empty_class_folder_is_an_error(tmp_path: Path, make: object) -> None:
    files = {"train/PNEUMONIA/a.png": jpeg(1)}
    path = make(tmp_path / "x.zip", files)  # type: ignore[operator]
    if path.is_dir():
        (path / "train" / "NORMAL").mkdir()
        (path / "train" / "NORMAL" / ".DS_Store").touch()
    with pytest.raises(DataError, match=r"class folder train/NORMAL/? in .* is empty"):
        open_source(str(path))


def test_a_source_of_one_class_is_allowed(tmp_path: Path) -> None:
    assert len(open_source(str(write_folder(tmp_path, {"PNEUMONIA/a.png": jpeg(1)}))).items()) == 1


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"a.png": b"x"}, "no images below NORMAL and PNEUMONIA"),
        ({"dataset.json": b"{}"}, "use it with --data"),
    ],
)
def test_a_folder_without_classes_is_refused(tmp_path: Path, files: dict[str, bytes], message: str) -> None:
    with pytest.raises(DataError, match=message):
        open_source(str(write_folder(tmp_path, files)))


def test_a_missing_source_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist; give a folder"):
        open_source(str(tmp_path / "missing"))


def write_npz(path: Path, **changes: np.ndarray) -> Path:
    rng = np.random.default_rng(0)
    arrays = {}
    for split, number in (("train", 12), ("val", 4), ("test", 6)):
        arrays[f"{split}_images"] = rng.integers(0, 256, (number, 28, 28), dtype=np.uint8)
        arrays[f"{split}_labels"] = (np.arange(number, dtype=np.uint8) % 2)[:, None]
    np.savez_compressed(path, **(arrays | changes))
    return path


def test_a_medmnist_archive_gives_each_image_its_own_patient(tmp_path: Path) -> None:
    source = open_source(str(write_npz(tmp_path / "pneumoniamnist.npz")))
    items = source.items()
    assert len({item.patient for item in items}) == len(items) == 22
    pixels = source.read(items[0])
    assert isinstance(pixels, np.ndarray)
    assert pixels.shape == (28, 28)
    assert "MedMNIST" in source.credit
    test = load_split(source, "test", Preprocess(size=28))
    assert test.images.shape == (6, 28, 28)
    assert test.labels.tolist() == [0, 1, 0, 1, 0, 1]


@pytest.mark.parametrize(
    "changes",
    [
        {"train_images": np.zeros((12, 28, 28, 3), np.uint8)},
        {"train_images": np.zeros((12, 28, 28), np.float32)},
        {"train_images": np.zeros((11, 28, 28), np.uint8)},
        {"train_labels": np.full((12, 1), 2, np.uint8)},
        {"train_labels": np.array([{}] * 12, dtype=object)},
    ],
)
def test_other_arrays_are_refused(tmp_path: Path, changes: dict[str, np.ndarray]) -> None:
    with pytest.raises(DataError, match=r"x\.npz"):
        open_source(str(write_npz(tmp_path / "x.npz", **changes)))


def test_the_arrays_of_an_npz_have_their_usual_names_and_others_are_counted(tmp_path: Path) -> None:
    with np.load(write_npz(tmp_path / "x.npz")) as file:
        arrays = {name.replace("test", "TESTING").replace("train", "Training"): file[name] for name in file}
    np.savez(tmp_path / "y.npz", **arrays, extra_images=np.zeros((3, 28, 28), np.uint8))
    source = open_source(str(tmp_path / "y.npz"))
    assert {item.official_split for item in source.items()} == {"train", "val", "test"}
    assert source.read(source.items()[0]).shape == (28, 28)  # type: ignore[union-attr]
    assert [name for name, _ in source.left_out] == ["extra_images"]


def test_objects_in_an_npz_are_not_made(tmp_path: Path) -> None:
    target = tmp_path / "exploded"
    with pytest.raises(DataError, match=r"x\.npz"):
        open_source(str(write_npz(tmp_path / "x.npz", train_images=np.array([Bomb(target)] * 12))))
    assert not target.exists()


@pytest.mark.parametrize("place", [0.3, 0.5])
def test_a_damaged_npz_is_one_line(tmp_path: Path, place: float) -> None:
    path = write_npz(tmp_path / "x.npz")
    content = bytearray(path.read_bytes())
    start = int(place * len(content))
    content[start : start + 50] = bytes(50)
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"x\.npz: cannot read \w+_images"):
        open_source(str(path))


def test_an_npz_without_splits_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", a=np.zeros(3))
    with pytest.raises(DataError, match="has no train_images"):
        open_source(str(tmp_path / "x.npz"))


def test_synthetic_takes_its_settings_and_the_number_of_sites() -> None:
    source = open_source("synthetic:images=40,size=32", sites=2)
    assert source.kind == "synthetic"
    assert {source.hospital(item) for item in source.items()} == {0, 1}
    assert len(source.items()) == 40


@pytest.mark.parametrize("settings", ["colour=blue", "images=many", "images"])
def test_wrong_synthetic_settings_are_refused(settings: str) -> None:
    with pytest.raises(ConfigError, match="--source synthetic"):
        open_source(f"synthetic:{settings}")


def test_kaggle_uses_what_was_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = tmp_path / ".cache" / "pneumonia-fl"
    cache.mkdir(parents=True)
    write_zip(cache / "chest-xray-pneumonia.zip", kaggle_files(4))
    monkeypatch.setenv("HOME", str(tmp_path))
    assert open_source("kaggle").kind == "kaggle"


def test_one_split_is_decoded_into_memory_in_the_sources_order(tmp_path: Path) -> None:
    source = open_source(str(write_folder(tmp_path, kaggle_files(8))))
    seen: list[tuple[int, int | None]] = []
    test = load_split(source, "test", SPEC, lambda stage, done, total: seen.append((done, total)))
    assert test.images.shape == (8, 16, 16)
    assert test.patients[:2] == ["NORMAL/IM-0003", "NORMAL/IM-0003"]
    assert seen[-1] == (8, 8)
    assert len(load_split(source, "all", SPEC)) == 32


def test_a_class_of_which_no_image_can_be_read_is_an_error(tmp_path: Path) -> None:
    files = {"test/NORMAL/a.png": jpeg(1), "test/PNEUMONIA/b.jpeg": b"hello"}
    source = open_source(str(write_folder(tmp_path, files)))
    with pytest.raises(DataError, match=r"PNEUMONIA .*: test/PNEUMONIA/b"):
        load_split(source, "test", SPEC)


def test_unreadable_images_are_left_out_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    files = {"test/NORMAL/a.png": jpeg(1), "test/NORMAL/b.jpeg": b"hello", "test/NORMAL/c.jpeg": b""}
    source = open_source(str(write_folder(tmp_path, files)))
    with caplog.at_level(logging.WARNING):
        assert len(load_split(source, "test", SPEC)) == 1
    assert "2 images left out: test/NORMAL/b.jpeg: text, not an image" in caplog.text
    (tmp_path / "test/NORMAL/a.png").write_bytes(b"x")
    with pytest.raises(DataError, match="none of the images"):
        load_split(source, "test", SPEC)


def test_files_that_stand_for_no_class_are_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = open_source(
        str(write_folder(tmp_path, {"test/NORMAL/a.png": jpeg(1), "test/VIRUS/b.png": jpeg(2)}))
    )
    with caplog.at_level(logging.WARNING):
        load_split(source, "test", SPEC)
    assert "files left out: 1 in no class folder: test/VIRUS" in caplog.text


@dataclass(frozen=True)
class Failing(ListSource):
    """Images whose reading ends in an error."""

    error: Exception = field(default_factory=OSError)

    def read(self, item: Item) -> bytes:
        raise self.error


def failing(error: Exception) -> Failing:
    images = Item("NORMAL/a.png", 0, "a", "normal", ""), Item("PNEUMONIA/a.png", 1, "b", "bacterial", "")
    return Failing(tuple((image, b"") for image in images), error=error)


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.ENOTCONN, errno.EMFILE, errno.ETIMEDOUT])
def test_a_failing_disk_is_no_images_fault(tmp_path: Path, number: int) -> None:
    source = failing(OSError(number, os.strerror(number)))
    for use in (lambda: load_split(source, "all", SPEC), lambda: prepare_small(source, tmp_path / "out")):
        with pytest.raises(StorageError, match=rf"cannot read \w+/a\.png: {os.strerror(number)}"):
            use()


def test_a_lack_of_memory_is_no_images_fault(tmp_path: Path) -> None:
    for use in (
        lambda: load_split(failing(MemoryError()), "all", SPEC),
        lambda: prepare_small(failing(MemoryError()), tmp_path / "out"),
    ):
        with pytest.raises(MemoryError):
            use()


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.EACCES, "Permission denied"),
        OSError("Invalid data stream"),  # of bz2, without a number
        lzma.LZMAError("Corrupt input data"),
        RecursionError("too deep"),
        ZeroDivisionError(),
    ],
)
def test_what_a_file_itself_is_the_reason_for_is_its_error(error: Exception) -> None:
    with pytest.raises(DataError, match=r"NORMAL/a\.png: \S"):
        load_split(failing(error), "all", SPEC)


def test_a_share_that_goes_away_stops_everything(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "share", {"test/NORMAL/a.png": jpeg(1)})
    source = open_source(str(folder))
    items = source.items()
    folder.rename(tmp_path / "elsewhere")
    with pytest.raises(StorageError, match="no longer there"):
        source.read(items[0])


def test_each_array_of_an_npz_is_unpacked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_npz(tmp_path / "x.npz")
    unpacked: list[str] = []
    read = NpzFile.__getitem__

    def unpack(file: NpzFile, name: str) -> np.ndarray:
        unpacked.append(name)
        return read(file, name)  # type: ignore[no-any-return]

    monkeypatch.setattr(NpzFile, "__getitem__", unpack)
    prepare_small(path, tmp_path / "out")
    assert sorted(unpacked) == sorted(f"{split}_{what}" for split in SPLITS for what in ("images", "labels"))


def test_a_split_that_is_not_there_names_those_that_are(tmp_path: Path) -> None:
    source = open_source(str(write_folder(tmp_path, {"train/NORMAL/a.png": jpeg(1)})))
    with pytest.raises(DataError, match=r"no 'test' split \(it has train\)"):
        load_split(source, "test", SPEC)
    with pytest.raises(ConfigError, match="unknown split"):
        load_split(source, "holdout", SPEC)


def test_the_public_sample_has_its_known_counts() -> None:
    if not PUBLIC_DATA.is_dir():
        pytest.skip(
            "the synthetic and hand-made sources above stand in: PNEUMONIA_FL_TEST_DATA names no folder"
        )
    items = open_source(str(PUBLIC_DATA / "chest-xray-pneumonia-224.zip")).items()
    counts = {(item.official_split, item.label): 0 for item in items}
    for item in items:
        counts[item.official_split, item.label] += 1
    known = {"train": (1163, 3436), "val": (8, 8), "test": (170, 431)}
    assert counts == {(split, label): number[label] for split, number in known.items() for label in (0, 1)}
