"""Every file of a source is an image of a class or left out for a reason; no test set is taken for training."""

from collections.abc import Mapping
from pathlib import Path

import pytest
from xrays import jpeg, write_folder, write_zip

from pneumonia_fl.data.sources.kermany_layout import (
    NESTED_COPY,
    NO_CLASS,
    NO_SPLIT,
    find_items,
    parse_classes,
    patient_of,
    require_classes,
    subtype_of,
)
from pneumonia_fl.data.sources.open_source import open_source
from pneumonia_fl.errors import ConfigError, DataError

CLASSES = ("NORMAL", "PNEUMONIA")


def names(*folders: str) -> list[str]:
    return [f"{folder}/{number}.png" for folder in folders for number in range(2)]


def splits(*folders: str) -> dict[str, str]:
    """Official split by folder of the items found in these folders."""
    items = find_items(names(*folders), [], "here").items
    return {item.name.rpartition("/")[0]: item.official_split for item in items}


@pytest.mark.parametrize(
    ("name", "split"),
    [
        *(
            (name, "train")
            for name in ("train", "Training", "TRAIN", "train_set", "01_train", "Training Data")
        ),
        *((name, "val") for name in ("val", "VALID", "validation", "val-split")),
        *((name, "test") for name in ("test", "Testing", "TEST ", "test images", "test_set")),
        *((name, "") for name in ("holdout", "train_test", "contest", "trainer", "valley")),
    ],
)
def test_a_split_has_its_usual_names(name: str, split: str) -> None:
    assert splits(f"x/{name}/NORMAL") == {f"x/{name}/NORMAL": split}


def test_the_split_may_stand_below_the_class() -> None:
    assert splits("NORMAL/train", "NORMAL/Testing/deep") == {
        "NORMAL/train": "train",
        "NORMAL/Testing/deep": "test",
    }


def test_the_split_above_the_class_wins() -> None:
    assert splits("test/NORMAL/valid") == {"test/NORMAL/valid": "test"}


def test_what_has_no_split_beside_others_is_not_trained_on() -> None:
    found = find_items(names("train/NORMAL", "holdout/NORMAL"), [], "here")
    assert {item.name.split("/")[0] for item in found.items} == {"train"}
    assert set(found.left_out) == {(name, NO_SPLIT) for name in names("holdout/NORMAL")}


def test_unknown_folders_are_counted_and_can_be_mapped() -> None:
    files = names("train/NORMAL", "train/BACTERIA", "train/Virus")
    found = find_items(files, [], "here")
    assert len(found.items) == 2
    assert {reason for _, reason in found.left_out} == {NO_CLASS}
    mapped = find_items(files, [], "here", parse_classes(["pneumonia=bacteria, VIRUS"]))
    assert (len(mapped.items), mapped.left_out) == (6, [])
    assert sum(item.label for item in mapped.items) == 4


def test_a_missing_class_names_the_folders_that_were_seen() -> None:
    found = find_items(names("train/NORMAL", "test/PNEUMONIA", "train/VIRUS"), [], "here")
    with pytest.raises(
        DataError, match=r"no PNEUMONIA images to train on .*VIRUS: 2.*--classes pneumonia=FOLDER"
    ):
        require_classes(found.items, found.left_out)


@pytest.mark.parametrize(
    "words",
    [
        ["flu=x"],
        ["pneumonia"],
        ["pneumonia="],
        ["pneumonia=a,,b"],
        ["normal=a", "pneumonia=A"],
        ["normal=pneumonia"],
    ],
)
def test_a_wrong_mapping_is_refused(words: list[str]) -> None:
    with pytest.raises(ConfigError, match="--classes"):
        parse_classes(words)


def test_a_mapping_to_a_folder_that_is_not_there_is_refused() -> None:
    with pytest.raises(DataError, match="--classes: no folder 'virsu'"):
        find_items(names("NORMAL", "VIRUS"), [], "here", parse_classes(["pneumonia=virsu"]))


@pytest.mark.parametrize("folder", ["test", "train/PNEUMONIA", "test/NORMAL"])
def test_an_empty_split_or_class_folder_is_an_error_beside_full_ones(folder: str) -> None:
    files = [*names("val/NORMAL", "val/PNEUMONIA"), f"{folder}/.DS_Store"]
    with pytest.raises(DataError, match=f"folder {folder} in here is empty"):
        find_items(files, [folder], "here")


@pytest.mark.parametrize("write", [write_folder, write_zip])
def test_a_nested_copy_that_differs_is_an_image_of_its_own(tmp_path: Path, write: object) -> None:
    files: Mapping[str, bytes] = {
        "x/NORMAL/a.png": jpeg(1),
        "x/x/NORMAL/a.png": jpeg(2),
        "x/NORMAL/b.png": jpeg(3),
        "x/x/NORMAL/b.png": jpeg(3),
    }
    source = open_source(str(write(tmp_path / "source", files)))  # type: ignore[operator]
    assert [item.name for item in source.items()] == ["x/NORMAL/a.png", "x/NORMAL/b.png", "x/x/NORMAL/a.png"]
    assert list(source.left_out) == [("x/x/NORMAL/b.png", NESTED_COPY)]


@pytest.mark.parametrize(
    ("stem", "label", "patient", "subtype"),
    [
        ("PERSON1000_BACTERIA_2931", 1, "PNEUMONIA/person1000", "bacterial"),
        ("Person7_Virus_1", 1, "PNEUMONIA/person7", "viral"),
        ("im-0115-0001", 0, "NORMAL/IM-0115", "normal"),
        ("normal2-IM-0115-0001", 0, "NORMAL/NORMAL2-IM-0115", "normal"),
        ("virus-1008087-0003", 1, "PNEUMONIA/1008087", "viral"),
    ],
)
def test_the_case_of_a_name_does_not_matter(stem: str, label: int, patient: str, subtype: str) -> None:
    assert (patient_of(stem, label), subtype_of(stem, label)) == (patient, subtype)


def linked(root: Path, link: str, target: str) -> None:
    (root / link).parent.mkdir(parents=True, exist_ok=True)
    (root / link).symlink_to(root / target)


@pytest.mark.parametrize("link", ["test", "a/splits/test"])
def test_a_linked_test_set_wins_over_its_target(tmp_path: Path, link: str) -> None:
    write_folder(
        tmp_path, {f"{split}/{kind}/1.png": jpeg(1) for split in ("train", "held_out") for kind in CLASSES}
    )
    linked(tmp_path, link, "held_out")
    source = open_source(str(tmp_path))
    assert {item.name: item.official_split for item in source.items()} == {
        **{f"train/{kind}/1.png": "train" for kind in CLASSES},
        **{f"{link}/{kind}/1.png": "test" for kind in CLASSES},
    }
    assert list(source.left_out) == [("held_out", "another name of a folder that is used")]


def test_of_two_splits_in_one_folder_the_test_set_wins(tmp_path: Path) -> None:
    write_folder(
        tmp_path, {f"{split}/{kind}/1.png": jpeg(1) for split in ("train", "test") for kind in CLASSES}
    )
    linked(tmp_path, "val", "test")
    assert {item.official_split for item in open_source(str(tmp_path)).items()} == {"train", "test"}


def test_a_hidden_link_hides_nothing(tmp_path: Path) -> None:
    write_folder(tmp_path, {f"all/{kind}/1.png": jpeg(1) for kind in CLASSES})
    linked(tmp_path, ".cache/test", "all")
    assert [item.name for item in open_source(str(tmp_path)).items()] == [
        f"all/{kind}/1.png" for kind in CLASSES
    ]


def test_links_in_circles_end(tmp_path: Path) -> None:
    write_folder(tmp_path, {f"train/{kind}/1.png": jpeg(1) for kind in CLASSES})
    for number in range(6):
        linked(tmp_path, f"d{number}/x", f"d{(number + 1) % 6}")
        linked(tmp_path, f"d{number}/y", f"d{(number + 2) % 6}")
    assert len(open_source(str(tmp_path)).items()) == 2


@pytest.mark.parametrize("link", ["train/PNEUMONIA", "test", "train/NORMAL/batch2"])
def test_a_folders_link_to_nowhere_is_an_error_that_names_it(tmp_path: Path, link: str) -> None:
    write_folder(tmp_path, {"train/NORMAL/1.png": jpeg(1), "val/PNEUMONIA/2.png": jpeg(2)})
    linked(tmp_path, link, "gone")
    with pytest.raises(DataError, match=f"{link} is a link to .*gone, which cannot be read"):
        open_source(str(tmp_path))


def test_a_link_to_itself_is_an_error_that_names_it(tmp_path: Path) -> None:
    write_folder(tmp_path, {"NORMAL/1.png": jpeg(1)})
    linked(tmp_path, "test", "test")
    with pytest.raises(DataError, match="test is a link to"):
        open_source(str(tmp_path))
