import hashlib
import pickle
import subprocess
import sys
from collections import defaultdict

import numpy as np
import pytest

from pneumonia_fl.data.manifest import NORMAL, PNEUMONIA
from pneumonia_fl.data.sources.labelled_item import Source
from pneumonia_fl.data.sources.synthetic.source import SyntheticSource
from pneumonia_fl.errors import ConfigError
from pneumonia_fl.metrics.binary import auroc

FINGERPRINT = """
import hashlib
from pneumonia_fl.data.sources.synthetic.source import SyntheticSource
source = SyntheticSource(images=24, size=32, seed=5, sites=2)
print(hashlib.sha256(b"".join(source.read(item).tobytes() for item in source.items())).hexdigest())
"""


def digest(source: SyntheticSource) -> str:
    return hashlib.sha256(b"".join(source.read(item).tobytes() for item in source.items())).hexdigest()


@pytest.fixture(scope="module")
def source() -> SyntheticSource:
    return SyntheticSource(images=360, size=64, seed=7, sites=3)


@pytest.fixture(scope="module")
def pictures(source: SyntheticSource) -> np.ndarray:
    return np.stack([source.read(item) for item in source.items()])


def test_equal_seeds_give_equal_bytes_in_another_process() -> None:
    other = subprocess.run([sys.executable, "-c", FINGERPRINT], capture_output=True, text=True, check=True)
    assert other.stdout.strip() == digest(SyntheticSource(images=24, size=32, seed=5, sites=2))


def test_another_seed_gives_other_images() -> None:
    assert digest(SyntheticSource(24, 32, 5, 2)) != digest(SyntheticSource(24, 32, 6, 2))


def test_an_image_does_not_depend_on_what_was_read_before(source: SyntheticSource) -> None:
    first, *_, last = source.items()
    alone = source.read(last)
    source.read(first)
    assert np.array_equal(source.read(last), alone)


def test_the_source_keeps_the_protocol_and_survives_pickling(source: SyntheticSource) -> None:
    protocol: Source = pickle.loads(pickle.dumps(source))
    item = protocol.items()[0]
    assert protocol == source
    assert (protocol.kind, protocol.licence) == ("synthetic", "CC0-1.0")
    assert protocol.hospital(item) == 0
    assert np.array_equal(protocol.read(item), source.read(item))


@pytest.mark.parametrize("size", [16, 28, 33, 64, 128, 256])
def test_any_size_gives_a_square_uint8_image_with_contrast(size: int) -> None:
    source = SyntheticSource(images=12, size=size, seed=1, sites=3)
    for item in source.items()[::5]:
        pixels = source.read(item)
        assert pixels.shape == (size, size)
        assert pixels.dtype == np.uint8
        assert pixels.std() > 30
        assert pixels.max() > 180


def test_a_larger_size_shows_the_same_patient() -> None:
    small, large = SyntheticSource(12, 64, 3, 3), SyntheticSource(12, 128, 3, 3)
    for item in small.items():
        reduced = large.read(item).reshape(64, 2, 64, 2).mean((1, 3))
        assert np.corrcoef(reduced.ravel(), small.read(item).ravel())[0, 1] > 0.95


@pytest.mark.parametrize(("images", "sites"), [(360, 3), (361, 4), (12, 3), (4, 1), (1000, 7)])
def test_exactly_as_many_images_as_asked_for_with_unique_sorted_names(images: int, sites: int) -> None:
    names = [item.name for item in SyntheticSource(images, 32, 7, sites).items()]
    assert len(names) == len(set(names)) == images
    assert names == sorted(names)


def test_every_hospital_has_both_classes_and_its_own_patients(source: SyntheticSource) -> None:
    labels, hospitals = defaultdict(list), defaultdict(set)
    for item in source.items():
        labels[source.hospital(item)].append(item.label)
        hospitals[item.patient].add(source.hospital(item))
    assert sorted(labels) == [0, 1, 2]
    assert all(0.54 < np.mean(values) < 0.66 for values in labels.values())
    assert all(len(homes) == 1 for homes in hospitals.values())


def test_the_official_split_is_by_patient_and_a_fifth_is_test(source: SyntheticSource) -> None:
    splits, sizes = defaultdict(set), defaultdict(int)
    for item in source.items():
        splits[item.patient].add(item.official_split)
        sizes[item.patient] += 1
    assert all(len(found) == 1 for found in splits.values())
    assert 0.17 < np.mean([found == {"test"} for found in splits.values()]) < 0.23
    assert set(sizes.values()) == {1, 2, 3, 4}


def test_names_follow_the_public_data_set(source: SyntheticSource) -> None:
    marks = {"normal": "-IM-", "bacterial": "_bacteria_", "viral": "_virus_"}
    for item in source.items():
        assert item.name.startswith(item.patient)
        assert marks[item.subtype] in item.name
        assert item.label == (NORMAL if item.subtype == "normal" else PNEUMONIA)
    assert {item.subtype for item in source.items()} == set(marks)


def test_hospitals_differ_by_more_than_chance(source: SyntheticSource, pictures: np.ndarray) -> None:
    homes = np.array([source.hospital(item) for item in source.items()])
    lung = pictures[:, 24:40, 14:22].mean((1, 2))
    groups = [lung[homes == home] for home in range(3)]
    spread = np.mean([group.std() for group in groups])
    assert abs(groups[1].mean() - groups[0].mean()) > 1.5 * spread
    assert abs(groups[1].mean() - groups[2].mean()) > 1.5 * spread


def test_more_hospitals_than_named_scanners_differ_too() -> None:
    source = SyntheticSource(images=80, size=32, seed=7, sites=8)
    means = defaultdict(list)
    for item in source.items():
        means[source.hospital(item)].append(source.read(item).mean())
    assert len({round(float(np.mean(values))) for values in means.values()}) >= 6


def test_simple_features_learn_something_but_not_everything(
    source: SyntheticSource, pictures: np.ndarray
) -> None:
    linear_model = pytest.importorskip("sklearn.linear_model")
    items = source.items()
    labels = np.array([item.label for item in items])
    train = np.array([item.official_split == "train" for item in items])
    features = _zone_features(pictures)
    mean, std = features[train].mean(0), features[train].std(0)
    scaled = (features - mean) / std
    model = linear_model.LogisticRegression(C=0.1, max_iter=500).fit(scaled[train], labels[train])
    area = auroc(model.decision_function(scaled[~train]), labels[~train])
    assert area is not None
    assert 0.6 < area < 0.97


def test_the_label_does_not_show_in_brightness_alone(source: SyntheticSource, pictures: np.ndarray) -> None:
    labels = np.array([item.label for item in source.items()])
    area = auroc(pictures.mean((1, 2)), labels)
    assert area is not None
    assert 0.4 < area < 0.68


@pytest.mark.parametrize(
    ("images", "size", "sites"), [(360, 8, 3), (360, 64, 0), (8, 64, 3)], ids=["size", "sites", "images"]
)
def test_impossible_requests_are_refused(images: int, size: int, sites: int) -> None:
    with pytest.raises(ConfigError, match="synthetic"):
        SyntheticSource(images, size, 7, sites)


def _zone_features(pictures: np.ndarray) -> np.ndarray:
    """Mean and local roughness in zones of 8 x 8 pixels of the standardised pictures."""
    z = pictures.astype(np.float64)
    z = (z - z.mean((1, 2), keepdims=True)) / z.std((1, 2), keepdims=True)
    zones = z.reshape(len(z), 8, 8, 8, 8)
    rough = np.abs(np.diff(z, axis=2, append=0)).reshape(len(z), 8, 8, 8, 8)
    means = np.concatenate([zones.mean((2, 4)), rough.mean((2, 4))], axis=1)
    return means[:, :, 1:7].reshape(len(z), -1)
