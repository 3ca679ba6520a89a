"""Small pictures and folders that the data tests share."""

import io
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pneumonia_fl.config.sections import Preprocess
from pneumonia_fl.data.manifest import DatasetInfo
from pneumonia_fl.data.prepare.pipeline import prepare
from pneumonia_fl.data.prepare.validate import check
from pneumonia_fl.data.sources.labelled_item import Contents, Item, Source
from pneumonia_fl.data.sources.open_source import open_source


def jpeg(seed: int, size: tuple[int, int] = (40, 32)) -> bytes:
    """Return a JPEG that differs for every seed."""
    levels = np.random.default_rng(seed).integers(0, 256, (size[1] // 8, size[0] // 8), dtype=np.uint8)
    image = Image.fromarray(levels).resize(size)
    data = io.BytesIO()
    image.save(data, "JPEG")
    return data.getvalue()


def kaggle_files(patients: int = 12, images: int = 2, test: bool = True) -> dict[str, bytes]:
    """Return a small data set in the Kaggle layout: name to bytes, `patients` of each class, two subtypes."""
    files: dict[str, bytes] = {}
    for number in range(patients):
        split = "test" if test and number % 4 == 3 else "val" if number % 4 == 2 else "train"
        kind = "bacteria" if number % 2 else "virus"
        for view in range(images):
            seed = 10_000 * number + 10 * view
            normal = f"IM-{number:04d}-{view:04d}.jpeg"
            files[f"chest_xray/{split}/NORMAL/{normal}"] = jpeg(seed)
            ill = f"person{number}_{kind}_{number * images + view}.jpeg"
            files[f"chest_xray/{split}/PNEUMONIA/{ill}"] = jpeg(seed + 5)
    return files


def write_folder(root: Path, files: Mapping[str, bytes]) -> Path:
    for name, data in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return root


def write_zip(path: Path, files: Mapping[str, bytes], folders: Iterable[str] = ()) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for folder in folders:
            file.writestr(f"{folder.rstrip('/')}/", b"")
        for name, data in files.items():
            file.writestr(name, data)
    return path


@dataclass(frozen=True)
class ListSource(Source):
    """A source in memory: (item, content) pairs."""

    pairs: tuple[tuple[Item, bytes], ...]
    kind: str = "list"
    licence: str = "unknown; ask the owner of the data"
    credit: str = ""

    @property
    def contents(self) -> Contents:
        return Contents([item for item, _ in self.pairs], ())

    def read(self, item: Item) -> bytes:
        return dict(self.pairs)[item]


SPEC = Preprocess(size=16)
SITES = ("north", "south")


def prepare_small(source: str | Path | Source, out: Path, **options: Any) -> DatasetInfo:
    """Prepare for two sites at 16 px, in this process, unless `options` say otherwise."""
    opened = open_source(str(source)) if isinstance(source, str | Path) else source
    values = {"sites": SITES, "partition": "iid", "spec": SPEC, "seed": 7, "workers": 1} | options
    return prepare(opened, out, **values)


def content(folder: Path) -> dict[str, bytes]:
    """Return every file below `folder`: relative name to bytes."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def levels(folder: Path) -> set[str]:
    """Return the levels of all findings about a prepared folder."""
    return {finding.level for finding in check(folder)}
