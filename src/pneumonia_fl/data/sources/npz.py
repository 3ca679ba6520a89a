"""X-rays in a NumPy archive in the MedMNIST layout: `{train,val,test}_images` (N,H,W) and `_labels` (N,1)."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pneumonia_fl.data.manifest import NORMAL
from pneumonia_fl.data.sources.kermany_layout import KERMANY_CREDIT, KERMANY_LICENCE, split_of
from pneumonia_fl.data.sources.labelled_item import UNKNOWN_LICENCE, Contents, Item, Source
from pneumonia_fl.data.sources.zip_archive import check_archive
from pneumonia_fl.data.store import Pixels
from pneumonia_fl.errors import DataError
from pneumonia_fl.inputs.text import printable

NO_SPLIT_ARRAY = "an array that is neither images nor labels of a split"
MEDMNIST_CREDIT = "; as PneumoniaMNIST: Yang et al. (2023), MedMNIST v2, Scientific Data 10, 41"


@dataclass(frozen=True)
class NpzSource(Source):
    """A MedMNIST archive, unpacked into memory by `open_npz`: every image is a patient of its own."""

    contents: Contents
    images: Mapping[str, Pixels]
    """Those of each split, by what the archive calls it."""
    licence: str = UNKNOWN_LICENCE
    credit: str = ""
    kind: str = "npz"

    def read(self, item: Item) -> Pixels:
        """Return one image, uint8 (H,W)."""
        split, _, number = item.name.partition("/")
        image: Pixels = self.images[split][int(number)]
        return image


def open_npz(path: Path) -> NpzSource:
    """Open the archive at `path`.

    Raises:
        ArchiveError: the file is unsafe or damaged.
        DataError: it is not in the MedMNIST layout or not about two classes.
    """
    check_archive(path)
    with _errors(path, "be read"):
        archive = np.load(path, allow_pickle=False)
    with archive:
        names = sorted(archive.files)
        images, items = _read_splits(path, archive)
    if not items:
        raise DataError(
            f"{path.name} has no train_images, val_images or test_images; it has {', '.join(names)}"
        )
    used = {f"{split}_{what}" for split in images for what in ("images", "labels")}
    left_out = [(name, NO_SPLIT_ARRAY) for name in names if name.lower() not in used]
    contents = Contents(sorted(items, key=lambda item: item.name), left_out)
    if path.stem.lower().startswith("pneumoniamnist"):
        return NpzSource(contents, images, KERMANY_LICENCE, KERMANY_CREDIT + MEDMNIST_CREDIT)
    return NpzSource(contents, images)


def _read_splits(path: Path, archive: Any) -> tuple[dict[str, Pixels], list[Item]]:
    """Unpack the arrays of all splits, whatever the case of their names: train, training, val, testing …"""
    names = {name.lower(): name for name in archive.files}

    def array(name: str) -> Any:
        with _errors(path, f"read {name}"):
            return archive[names[name]] if name in names else np.empty((0,), np.uint8)

    splits = [name.removesuffix("_images") for name in names if name.endswith("_images")]
    images = {split: array(f"{split}_images") for split in splits if split_of([split])}
    items = [_items(path, split, images[split], array(f"{split}_labels").reshape(-1)) for split in images]
    return images, [item for part in items for item in part]


def _items(path: Path, split: str, images: Pixels, labels: Any) -> list[Item]:
    if len(labels) == 0 and len(images) == 0:
        return []
    if images.ndim != 3 or images.dtype != np.uint8 or len(images) != len(labels):
        raise DataError(
            f"{path.name}: {split}_images is {images.dtype} {images.shape}, {len(labels)} labels; "
            "expected uint8 (images, height, width)"
        )
    if not np.isin(labels, (0, 1)).all():
        raise DataError(f"{path.name}: {split}_labels must be 0 (NORMAL) or 1 (PNEUMONIA)")
    return [_item(split, index, int(label)) for index, label in enumerate(labels)]


@contextmanager
def _errors(path: Path, doing: str) -> Iterator[None]:
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:  # numpy, zipfile and zlib raise nearly anything on damaged bytes
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the disk's, and not the archive's
        raise DataError(f"{path.name}: cannot {doing} ({printable(error)})") from None


def _item(split: str, index: int, label: int) -> Item:
    name = f"{split}/{index:06d}"
    subtype = "normal" if label == NORMAL else "unknown"
    return Item(name, label, name, subtype, split_of([split]), known=False)
