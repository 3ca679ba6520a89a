"""Real X-rays through the whole command line: MedMNIST's archive when it is there, drawn images otherwise."""

import json
import warnings
from pathlib import Path

import numpy as np
import pytest

from conftest import PUBLIC_DATA, pneumonia_fl

pytestmark = [pytest.mark.e2e, pytest.mark.slow]
ARCHIVE = PUBLIC_DATA / "pneumoniamnist.npz"


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """The real archive, or one of the same layout with synthetic images; says so visibly."""
    if ARCHIVE.is_file():
        return ARCHIVE
    warnings.warn(
        "no pneumoniamnist.npz in PNEUMONIA_FL_TEST_DATA: falling back to synthetic images", stacklevel=1
    )
    return synthetic_archive(tmp_path / "synthetic.npz")


def synthetic_archive(path: Path) -> Path:
    from pneumonia_fl.data.sources.synthetic.source import SyntheticSource

    source = SyntheticSource(images=900, size=28, seed=7, sites=3)
    arrays: dict[str, np.ndarray] = {}
    items = source.items()
    for split, official in (("train", "train"), ("val", "val"), ("test", "test")):
        chosen = [item for item in items if item.official_split == official] or items[:40]
        arrays[f"{split}_images"] = np.stack([source.read(item) for item in chosen])
        arrays[f"{split}_labels"] = np.array([[item.label] for item in chosen], dtype=np.uint8)
    np.savez(path, **arrays)
    return path


@pytest.mark.filterwarnings("default:no pneumoniamnist.npz")
def test_npz_from_archive_to_evaluated_model(archive: Path, tmp_path: Path) -> None:
    data, run = tmp_path / "data", tmp_path / "run"
    steps: list[list[object]] = [
        ["data", "prepare", "--source", archive, "--out", data, "--sites", 3, "--size", 28],
        ["run", "fedavg", "--data", data, "--out", run, "--rounds", 2, "--set", "train.local_epochs=2"],
        ["evaluate", run, "--source", data, "--split", "val", "--json"],
    ]
    for words in steps:
        done = pneumonia_fl(*words)
        assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["metrics"]["auroc"] > (0.95 if archive == ARCHIVE else 0.6)
