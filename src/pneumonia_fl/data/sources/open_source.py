"""Open a source of X-rays by word or path, and read one of its splits into arrays."""

import errno
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from pneumonia_fl.config.sections import Preprocess, SyntheticData
from pneumonia_fl.config.strict import parse
from pneumonia_fl.data.manifest import CLASS_NAMES, INFO, SPLITS
from pneumonia_fl.data.preprocess import Decoded, decode, scale
from pneumonia_fl.data.sources.image_folder import open_folder
from pneumonia_fl.data.sources.kermany_layout import Classes, described, parse_classes
from pneumonia_fl.data.sources.labelled_item import UNKNOWN_LICENCE, Item, Source
from pneumonia_fl.data.sources.npz import open_npz
from pneumonia_fl.data.sources.zip_archive import open_zip
from pneumonia_fl.data.store import ImageSet, Pixels
from pneumonia_fl.errors import ConfigError, DataError, PneumoniaFLError, StorageError
from pneumonia_fl.inputs.paths import expanded, missing
from pneumonia_fl.inputs.text import escaped, printable
from pneumonia_fl.progress import Progress, silent

__all__ = ["UNKNOWN_LICENCE", "Item", "Source", "load_split", "open_source", "read_image"]

ALL = "all"
FILES: dict[str, Callable[[Path], Source]] = {".npz": open_npz}
"""Kinds of file that are a source without class folders. How to add one: docs/extending.md."""
# The file is not there, may not be read, or is none; any other number is the disk's.
_OF_ONE_FILE = {
    *(errno.ENOENT, errno.EACCES, errno.EPERM, errno.EISDIR, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG),
    *(errno.EINVAL, errno.EILSEQ, errno.ENXIO),
}
_log = logging.getLogger(__name__)


def open_source(
    spec: str, sites: int | None = None, progress: Progress = silent, classes: Sequence[str] = ()
) -> Source:
    """Open `kaggle`, `synthetic[:images=360,size=64,seed=7,sites=3]`, a folder, a .zip or a .npz.

    `sites` is the number of synthetic hospitals when `spec` does not say it. `kaggle` is downloaded if it is
    not there yet. `classes` says which folders belong to a class, see `parse_classes`.

    Raises:
        DataError: it does not exist, or holds no X-rays in a layout that is known.
        ArchiveError: a zip that must not be opened.
        FetchError: the download failed.
        ConfigError: a wrong `synthetic:` setting, or `classes` for a source without folders.
    """
    names = parse_classes(classes)
    kind, _, settings = spec.partition(":")
    if spec == "kaggle":
        return _kaggle(progress, names)
    path = expanded(spec)
    if classes and (kind == "synthetic" or path.suffix.lower() in FILES):
        raise ConfigError(f"--classes is about the folders of a folder or zip, not about {spec}")
    return _synthetic(settings, sites) if kind == "synthetic" else _on_disk(path, names)


def read_image(source: Source, item: Item, spec: Preprocess) -> tuple[Decoded, bytes]:
    """Read and decode one image; return it with the bytes it is identified by.

    Raises:
        DataError: this image cannot be read or decoded.
        StorageError: the disk or share fails; MemoryError: the memory. Neither says anything about the image.
    """
    content = _content(source, item)
    if isinstance(content, bytes):
        return decode(content, spec), content
    height, width = content.shape
    return Decoded(scale(content, spec), width, height), f"{height},{width},".encode() + content.tobytes()


def _content(source: Source, item: Item) -> bytes | Pixels:
    try:
        return source.read(item)
    except (PneumoniaFLError, MemoryError):
        raise
    except OSError as error:
        if error.errno is not None and error.errno not in _OF_ONE_FILE:
            raise StorageError(
                f"cannot read {item.name}: {error.strerror}; that is no fault of the image, which is not left out "
                "for it: mend the disk, share or machine, and run again"
            ) from None
        raise DataError(error.strerror or printable(error)) from None
    except Exception as error:  # what an archive's decompressors raise on damaged bytes
        raise DataError(f"damaged: {printable(error) or type(error).__name__}") from None


def load_split(source: Source, split: str, spec: Preprocess, progress: Progress = silent) -> ImageSet:
    """Decode one official split ("train", "val", "test", or "all" for every image) into memory.

    Unreadable images, and files that are no images of a class, are left out with a warning.

    Raises:
        DataError: there is no such split, or none of its images of a class can be read.
    """
    items = _split_items(source, split)
    images: list[Pixels] = []
    kept: list[Item] = []
    left_out: list[str] = []
    with ThreadPoolExecutor() as pool:
        for done, (item, result) in enumerate(
            zip(items, pool.map(_reader(source, spec), items), strict=True)
        ):
            if isinstance(result, str):
                left_out.append(f"{escaped(item.name)}: {result}")
            else:
                images.append(result)
                kept.append(item)
            progress(f"decode {split}", done + 1, len(items))
    _report(left_out, items, kept)
    for line in described(source.left_out):
        _log.warning("files left out: %s", line)
    labels = np.array([item.label for item in kept], dtype=np.int64)
    return ImageSet(np.stack(images), labels, [i.patient for i in kept], [i.subtype for i in kept])


def _on_disk(path: Path, classes: Classes) -> Source:
    if (path / INFO).is_file():
        raise DataError(f"{path} is a prepared data set, not a source; use it with --data")
    if path.is_dir():
        return open_folder(path, classes)
    if not path.exists():
        raise DataError(missing(path, "give a folder, a .zip, a .npz, `kaggle` or `synthetic`"))
    open_file = FILES.get(path.suffix.lower())
    return open_file(path) if open_file else open_zip(path, classes=classes)


def _kaggle(progress: Progress, classes: Classes) -> Source:
    from pneumonia_fl.data.sources.kaggle import default_folder, fetch

    return open_zip(fetch(default_folder(), progress), "kaggle", classes)


def _synthetic(settings: str, sites: int | None) -> Source:
    from pneumonia_fl.data.sources.synthetic.source import SyntheticSource

    values: dict[str, str | int] = {} if sites is None else {"sites": sites}
    for word in filter(None, settings.split(",")):
        key, _, value = word.partition("=")
        values[key.strip()] = value
    data = parse(SyntheticData, values, "--source synthetic")
    return SyntheticSource(images=data.images, size=data.size, seed=data.seed, sites=data.sites)


def _split_items(source: Source, split: str) -> list[Item]:
    if split not in (*SPLITS, ALL):
        raise ConfigError(f"unknown split {split!r}; choose train, val, test or all")
    items = source.items()
    chosen = [item for item in items if split in (ALL, item.official_split)]
    if not chosen:
        there = ", ".join(sorted({item.official_split for item in items} - {""})) or "no splits at all"
        raise DataError(f"the source has no {split!r} split (it has {there}); --split all takes every image")
    return chosen


def _reader(source: Source, spec: Preprocess) -> Callable[[Item], Pixels | str]:
    def read(item: Item) -> Pixels | str:
        try:
            return read_image(source, item, spec)[0].pixels
        except DataError as error:
            return escaped(error)

    return read


def _report(left_out: list[str], items: list[Item], kept: list[Item]) -> None:
    lost = {item.label for item in items} - {item.label for item in kept}
    if lost:
        images = f"{CLASS_NAMES[min(lost)]} images" if kept else "images"
        raise DataError(f"none of the {images} can be read; the first: {left_out[0]}")
    if left_out:
        more = f" and {len(left_out) - 3} more" if len(left_out) > 3 else ""
        _log.warning("%d images left out: %s%s", len(left_out), "; ".join(left_out[:3]), more)
