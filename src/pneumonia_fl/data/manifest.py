"""The contract between preparation and training: one CSV row per image, and `dataset.json` about all of them.

`dataset.json` is written last, so that a folder that has one is complete.
"""

import csv
import hashlib
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Annotated, Literal, get_args

from pydantic import Field

from pneumonia_fl.config.sections import Preprocess
from pneumonia_fl.config.strict import Strict, parse
from pneumonia_fl.errors import ConfigError, DataError
from pneumonia_fl.files import write_atomic
from pneumonia_fl.inputs.json_files import parse_json, read_limited
from pneumonia_fl.inputs.names import SITE_NAME
from pneumonia_fl.inputs.paths import missing
from pneumonia_fl.inputs.text import printable_values, utf8

NORMAL, PNEUMONIA = 0, 1
CLASS_NAMES = ("NORMAL", "PNEUMONIA")
MANIFEST = "manifest.csv"
INFO = "dataset.json"
TEST = "test"
"""Name of the official test set's folder; no site may be called so."""

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)
Counts = dict[str, dict[str, dict[str, int]]]
"""Images by site (or "test"), split and class name."""


@dataclass(frozen=True, slots=True)
class Row:
    """One image of the manifest.

    Attributes:
        image: its name inside the source, never an absolute path.
        label: NORMAL or PNEUMONIA.
        patient: key that is the same for all pictures of one person.
        subtype: "normal", "bacterial", "viral" or "unknown".
        official_split: the source's own split, "" when it has none.
        site: where it belongs; in the official test set, the site whose patients it resembles.
        split: what this project uses the image for.
        sha256: of the source's bytes (of the pixels where the source holds arrays), hex.
        width: of the source's picture, pixels.
        height: of the source's picture, pixels.
        source: kind of the source.
        bits: of a gray level in the picture, 8 to 16: as its file says, else as its brightest pixel needs.
    """

    image: str
    label: int
    patient: str
    subtype: str
    official_split: str
    site: str
    split: Split
    sha256: str
    width: int
    height: int
    source: str
    bits: int = 8


COLUMNS = tuple(field.name for field in fields(Row))
_OLD_COLUMNS = COLUMNS[:-1]
"""Older manifests do not tell the depth."""


class DatasetInfo(Strict):
    """Description of a prepared folder: origin, preprocessing, counts and the hash of its manifest.

    `quarantined`, `duplicates`, `patient_overlap_with_test`, `leaks_dropped` and `unused` (files that are no images
    of a class, by reason) are about the whole preparation, in a site's folder too; `patients_unknown` counts the
    folder's own images whose patient the source does not tell. `source` is the kind of source and never a path.
    `poolable` says that the images may be brought together in one place (public or simulated), which a comparison
    with central training needs.
    """

    version: Literal[1] = 1
    source: str
    licence: str
    credit: str
    seed: int
    partition: str
    preprocess: Preprocess
    classes: dict[str, int] = Field(default={name: index for index, name in enumerate(CLASS_NAMES)})
    sites: tuple[Annotated[str, Field(pattern=rf"^{SITE_NAME.pattern}$")], ...]
    counts: Counts
    quarantined: int
    duplicates: int
    patient_overlap_with_test: int
    leaks_dropped: int = 0
    patients_unknown: int = 0
    unused: dict[str, int] = Field(default_factory=dict)
    bits: dict[str, int] = Field({}, description="Images by the bits of their gray levels.")
    manifest_sha256: str
    poolable: bool


def read_manifest(folder: Path) -> list[Row]:
    """Read `folder`'s manifest in file order.

    Raises:
        DataError: it is missing or a line does not describe an image.
    """
    content = _read(folder / MANIFEST)
    try:
        return _rows(utf8(content))
    except (ValueError, csv.Error) as error:
        raise DataError(
            f"{folder / MANIFEST} is damaged ({error}); run `pneumonia-fl data prepare` again"
        ) from None


def write_manifest(folder: Path, rows: Sequence[Row]) -> str:
    """Write `folder`'s manifest in one step; return the file's sha256 (hex)."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(astuple(row) for row in rows)
    return write_atomic(folder / MANIFEST, text.getvalue().encode())


def manifest_hash(folder: Path) -> str:
    """Return the sha256 (hex) of the manifest that lies in `folder` now."""
    return hashlib.sha256(_read(folder / MANIFEST)).hexdigest()


def read_info(folder: Path) -> DatasetInfo:
    """Read `folder`'s `dataset.json`.

    Raises:
        DataError: the folder is not (completely) prepared.
    """
    try:
        values = printable_values(parse_json(_read(folder / INFO, read_limited)))
        return parse(DatasetInfo, values if isinstance(values, Mapping) else {}, str(folder / INFO))
    except (ConfigError, ValueError) as error:
        raise DataError(f"{folder / INFO} is damaged ({error}); run `pneumonia-fl data prepare`") from None


def write_info(folder: Path, info: DatasetInfo) -> None:
    """Write `folder`'s `dataset.json` in one step; do it after everything else."""
    write_atomic(folder / INFO, (info.model_dump_json(indent=2) + "\n").encode())


def place_of(row: Row) -> str:
    """Return the folder of a row's image: its site's, or that of the official test set."""
    return TEST if row.split == TEST else row.site


def count(rows: Iterable[Row]) -> Counts:
    """Count images by site (or "test"), split and class; both classes are always named."""
    counts: Counts = {}
    for row in rows:
        splits = counts.setdefault(place_of(row), {})
        splits.setdefault(row.split, dict.fromkeys(CLASS_NAMES, 0))[CLASS_NAMES[row.label]] += 1
    return counts


def _read(path: Path, read: Callable[[Path], bytes] = Path.read_bytes) -> bytes:
    try:
        return read(path)
    except FileNotFoundError:
        if not path.parent.exists():
            raise DataError(missing(path.parent, "`pneumonia-fl data prepare` makes it")) from None
        raise DataError(f"{path.name} not found in {path.parent}; run `pneumonia-fl data prepare`") from None
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from None


def _rows(text: str) -> list[Row]:
    lines = csv.reader(io.StringIO(text, newline=""))
    try:
        if tuple(next(lines, ())) not in (COLUMNS, _OLD_COLUMNS):
            raise ValueError("unexpected columns")
        return [_row(values) for values in lines]
    except (ValueError, csv.Error) as error:
        raise ValueError(f"{error}, line {lines.line_num}") from None


def _row(values: list[str]) -> Row:
    if len(values) not in (len(COLUMNS), len(_OLD_COLUMNS)):
        raise ValueError(f"{len(values)} columns")
    image, label, patient, subtype, official, site, split, sha256, width, height, source, *rest = values
    if label not in ("0", "1") or split not in SPLITS:
        raise ValueError(f"label {label!r}, split {split!r}")
    sizes = int(width), int(height)
    bits = [int(value) for value in rest]
    return Row(image, int(label), patient, subtype, official, site, split, sha256, *sizes, source, *bits)
