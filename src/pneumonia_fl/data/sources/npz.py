"""X-rays in a NumPy archive in the MedMNIST layout: `{train,val,test}_images` (N,H,W) and `_labels` (N,1)."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

from pneumonia_fl.data.manifest import NORMAL
from pneumonia_fl.data.sources.base import UNKNOWN_LICENCE, Item, LeftOut
from pneumonia_fl.data.sources.kermany_layout import KERMANY_CREDIT, KERMANY_LICENCE, split_of
from pneumonia_fl.data.sources.zip_archive import check_archive
from pneumonia_fl.data.store import Pixels
from pneumonia_fl.errors import DataError
from pneumonia_fl.inputs.text import printable

NO_SPLIT_ARRAY = "an array that is neither images nor labels of a split"
MEDMNIST_CREDIT = "; as PneumoniaMNIST: Yang et al. (2023), MedMNIST v2, Scientific Data 10, 41"


@dataclass
class NpzSource:
    """A MedMNIST archive: every image is its own patient, since the archive does not name patients."""

    path: Path
    kind: str = "npz"
    licence: str = UNKNOWN_LICENCE
    credit: str = ""
    _cache: dict[str, Pixels] = field(default_factory=dict, repr=False, compare=False)
    _lock: Lock = field(default_factory=Lock, repr=False, compare=False)

    def items(self) -> list[Item]:
        """List the images by split and number."""
        items = [item for prefix in self._prefixes() for item in self._items_of(prefix)]
        if not items:
            raise DataError(
                f"{self.path.name} has no train_images, val_images or test_images; it has {', '.join(self._names())}"
            )
        return sorted(items, key=lambda item: item.name)

    @property
    def left_out(self) -> LeftOut:
        """Arrays that are neither images nor labels of a split."""
        used = {f"{prefix}_{what}" for prefix in self._prefixes() for what in ("images", "labels")}
        return [(name, NO_SPLIT_ARRAY) for name in self._names() if name.lower() not in used]

    def read(self, item: Item) -> Pixels:
        """Return one image, uint8 (H,W); threads may read side by side."""
        split, _, number = item.name.partition("/")
        with self._lock:  # the first to need a split unpacks all of it; the others wait
            if split not in self._cache:
                self._cache[split] = self._array(f"{split}_images")
        image: Pixels = self._cache[split][int(number)]
        return image

    def hospital(self, item: Item) -> None:
        """Return None: the archive does not tell hospitals apart."""

    def __reduce__(self) -> tuple[Any, ...]:
        # Each process unpacks for itself; a lock cannot travel.
        return NpzSource, (self.path, self.kind, self.licence, self.credit)

    def _names(self) -> list[str]:
        with self._open() as file:
            return sorted(file.files)

    def _prefixes(self) -> list[str]:
        """What stands before `_images`, in lower case, where it means a split: train, training, val, testing …"""
        names = [name.lower() for name in self._names()]
        prefixes = [name.removesuffix("_images") for name in names if name.endswith("_images")]
        return [prefix for prefix in prefixes if split_of([prefix])]

    def _items_of(self, split: str) -> list[Item]:
        labels = self._array(f"{split}_labels").reshape(-1)
        images = self._array(f"{split}_images")
        if len(labels) == 0 and len(images) == 0:
            return []
        if images.ndim != 3 or images.dtype != np.uint8 or len(images) != len(labels):
            raise DataError(
                f"{self.path.name}: {split}_images is {images.dtype} {images.shape}, {len(labels)} labels; "
                "expected uint8 (images, height, width)"
            )
        if not np.isin(labels, (0, 1)).all():
            raise DataError(f"{self.path.name}: {split}_labels must be 0 (NORMAL) or 1 (PNEUMONIA)")
        return [_item(split, index, int(label)) for index, label in enumerate(labels)]

    def _array(self, name: str) -> Any:
        with self._errors(f"read {name}"), self._open() as file:
            found = next((there for there in file.files if there.lower() == name), None)
            return np.empty((0,), np.uint8) if found is None else file[found]

    def _open(self) -> Any:
        with self._errors("be read"):
            return np.load(self.path, allow_pickle=False)

    @contextmanager
    def _errors(self, doing: str) -> Iterator[None]:
        try:
            yield
        except (DataError, MemoryError):
            raise
        except Exception as error:  # numpy, zipfile and zlib raise nearly anything on damaged bytes
            if isinstance(error, OSError) and error.errno is not None:
                raise  # the disk's, and not the archive's
            raise DataError(f"{self.path.name}: cannot {doing} ({printable(error)})") from None


def open_npz(path: Path) -> NpzSource:
    """Open the archive at `path`.

    Raises:
        ArchiveError: the file is unsafe or damaged.
        DataError: it is not in the MedMNIST layout or not about two classes.
    """
    check_archive(path)
    source = NpzSource(path)
    source.items()
    if path.stem.lower().startswith("pneumoniamnist"):
        source.licence, source.credit = KERMANY_LICENCE, KERMANY_CREDIT + MEDMNIST_CREDIT
    return source


def _item(split: str, index: int, label: int) -> Item:
    name = f"{split}/{index:06d}"
    subtype = "normal" if label == NORMAL else "unknown"
    return Item(name, label, name, subtype, split_of([split]), known=False)
