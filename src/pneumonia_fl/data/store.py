"""The decoded store: a site's images as one uint8 memory map (N,S,S), row for row with its manifest."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from pneumonia_fl.data.manifest import INFO, TEST, DatasetInfo, Row, read_info, read_manifest
from pneumonia_fl.errors import DataError

IMAGES = "images.npy"
Pixels = np.ndarray[Any, np.dtype[np.uint8]]


@dataclass(frozen=True, slots=True)
class ImageSet:
    """Images used together: `images` uint8 (N,S,S), `labels` int64 (N,), a patient and a subtype for each."""

    images: Pixels
    labels: NDArray[np.int64]
    patients: list[str]
    subtypes: list[str]

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, slots=True)
class SiteData:
    """One prepared folder; row i of the manifest describes image i. `name` is the site, or "test"."""

    name: str
    info: DatasetInfo
    rows: list[Row]
    images: Pixels
    labels: NDArray[np.int64]

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Map `folder`'s store into memory; nothing is read before it is used.

        Raises:
            DataError: the folder is not prepared, or its images do not match its manifest.
        """
        info = read_info(folder)
        rows = read_manifest(folder)
        images = _map_images(folder / IMAGES, len(rows), info.preprocess.size)
        labels = np.array([row.label for row in rows], dtype=np.int64)
        return cls(info.sites[0] if info.sites else TEST, info, rows, images, labels)

    def split(self, name: str, site: str = "") -> ImageSet:
        """Return the images whose split is `name`: a view where they lie side by side, else a copy.

        `site`: of the common test images only those assigned to this site.
        """
        indices = [
            index
            for index, row in enumerate(self.rows)
            if row.split == name and (not site or row.site == site)
        ]
        return ImageSet(
            self.images[_as_slice(indices)],
            self.labels[indices],
            [self.rows[index].patient for index in indices],
            [self.rows[index].subtype for index in indices],
        )


def concatenate(parts: Sequence[ImageSet]) -> ImageSet:
    """Join several sets into one, copied into memory; return a single one unchanged."""
    if len(parts) == 1:
        return parts[0]
    return ImageSet(
        np.concatenate([part.images for part in parts]),
        np.concatenate([part.labels for part in parts]),
        [patient for part in parts for patient in part.patients],
        [subtype for part in parts for subtype in part.subtypes],
    )


def open_site(root: Path, site: str) -> SiteData:
    """Open `site`'s data below a data set's root, or `root` itself when it is that one site's own folder.

    Raises:
        DataError: neither holds prepared data of that site.
    """
    if (root / site / INFO).is_file():
        return SiteData.open(root / site)
    if not (root / IMAGES).is_file():
        raise DataError(f"no prepared data of site {site!r} in {root}; run `pneumonia-fl data prepare`")
    data = SiteData.open(root)
    if data.name != site:
        raise DataError(f"{root} holds the data of site {data.name!r}, not of {site!r}")
    return data


def open_split(root: Path, site: str, split: str) -> tuple[DatasetInfo, ImageSet]:
    """Open one split of a site; test images are in the data set's common folder, each assigned to one site.

    Raises:
        DataError: there is no prepared data of that site, or no image in the split.
    """
    data = open_site(root, site)
    images = data.split(split)
    if split == TEST and not len(images) and (root / TEST / INFO).is_file():
        data = SiteData.open(root / TEST)
        images = data.split(TEST, site)
    if not len(images):
        hint = (
            "; they lie in the folder `test` beside the site's, in the folder above" if split == TEST else ""
        )
        raise DataError(f"site {site!r} has no images in split {split}{hint}")
    return data.info, images


def _map_images(path: Path, count: int, size: int) -> Pixels:
    try:
        # Copy-on-write: the file cannot change, and torch takes the array without a read-only warning.
        images = np.load(path, mmap_mode="c", allow_pickle=False)
    except FileNotFoundError:
        raise DataError(f"{path.name} not found in {path.parent}; run `pneumonia-fl data prepare`") from None
    except (OSError, ValueError, EOFError):
        raise DataError(f"{path} is damaged; run `pneumonia-fl data prepare` again") from None
    if images.shape != (count, size, size) or images.dtype != np.uint8:
        raise DataError(
            f"{path} holds {images.dtype} {images.shape}, its manifest needs uint8 {(count, size, size)}; "
            "run `pneumonia-fl data prepare` again"
        )
    return np.asarray(images) if not isinstance(images, np.memmap) else images


def _as_slice(indices: list[int]) -> slice | list[int]:
    if not indices:
        return slice(0)
    side_by_side = indices[-1] - indices[0] + 1 == len(indices)
    return slice(indices[0], indices[-1] + 1) if side_by_side else indices
