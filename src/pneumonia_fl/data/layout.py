"""What the names of files say: class, official split, patient and subtype.

Covered: the layout of the Kaggle and Mendeley archives, `chest_xray/{train,val,test}/{NORMAL,PNEUMONIA}`, at
any depth and in any case, and class folders alone. The archive that Kaggle serves holds every image twice
(`chest_xray/chest_xray/…`); such nested copies count once.
"""

import re
from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import PurePosixPath

from pneumonia_fl.data.items import UNKNOWN_LICENCE, Item
from pneumonia_fl.data.manifest import CLASS_NAMES, NORMAL
from pneumonia_fl.errors import DataError

KERMANY_LICENCE = "CC BY 4.0"
KERMANY_CREDIT = (
    "Kermany, Zhang, Goldbaum (2018), Labeled Optical Coherence Tomography (OCT) and Chest X-Ray Images for "
    "Classification, Mendeley Data, rscbjbr9sj"
)
# An archive is that of Kermany et al. when nearly all names follow their scheme; a few others do no harm.
KERMANY_SHARE = 0.9

_SPLITS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
_CLASSES = {name: label for label, name in enumerate(CLASS_NAMES)}
_JUNK = {"__macosx", "thumbs.db", "desktop.ini"}
_SCHEMES = (
    re.compile(r"(?P<patient>person\d+)_(?P<subtype>bacteria|virus)_\d+"),
    re.compile(r"(?P<patient>(?:NORMAL2-)?IM-\d+)-\d+"),
    re.compile(r"(?:NORMAL|(?P<subtype>BACTERIA|VIRUS))-(?P<patient>\d+)-\d+"),
)
_SUBTYPES = {"bacteria": "bacterial", "virus": "viral"}
_Place = tuple[tuple[str, ...], str, int, tuple[str, ...]]


def find_items(files: Iterable[str], folders: Iterable[str], where: object) -> list[Item]:
    """Turn a source's file names (`/` or `\\` between parts) into items sorted by name.

    Every file below a class folder is an item, whatever its ending: reading decides whether it is an image.

    Raises:
        DataError: no class folder holds a file, or one that exists is empty.
    """
    places: dict[_Place, str] = {}
    for name in sorted(files, key=lambda name: (name.count("/"), name)):
        place = _place(_parts(name))
        if place:
            places.setdefault(place, name)
    items = sorted((_item(name, place) for place, name in places.items()), key=lambda item: item.name)
    _require_classes(items, folders, where)
    return items


def patient_of(stem: str, label: int) -> str:
    """Return the patient's key: class and number where the scheme is known, else the stem itself."""
    match = _scheme(stem)
    return f"{CLASS_NAMES[label]}/{match['patient']}" if match else stem


def subtype_of(stem: str, label: int) -> str:
    """Return "normal", "bacterial", "viral" or, for pneumonia that the name does not describe, "unknown"."""
    if label == NORMAL:
        return "normal"
    match = _scheme(stem)
    return _SUBTYPES.get(str(match.groupdict().get("subtype")).lower(), "unknown") if match else "unknown"


def origin(items: Sequence[Item]) -> tuple[str, str]:
    """Return licence and credit as the names tell them: those of Kermany et al., or unknown.

    The names of pneumonia decide: `IM-0001-0001` alone is what many an X-ray machine writes.
    """
    pneumonia = [item for item in items if item.label != NORMAL]
    known = sum(item.subtype != "unknown" for item in pneumonia)
    if pneumonia and known >= KERMANY_SHARE * len(pneumonia):
        return KERMANY_LICENCE, KERMANY_CREDIT
    return UNKNOWN_LICENCE, ""


def _scheme(stem: str) -> re.Match[str] | None:
    return next(filter(None, (scheme.match(stem) for scheme in _SCHEMES)), None)


def _parts(name: str) -> tuple[str, ...]:
    return PurePosixPath(name.replace("\\", "/")).parts


def _place(parts: Sequence[str]) -> _Place | None:
    """Return (folders above, split, label, rest) of a file, or None where it is not an image of a class."""
    if any(part.startswith(".") or part.lower() in _JUNK for part in parts):
        return None
    above = [part.upper() for part in parts[:-1]]
    classes = [index for index, part in enumerate(above) if part in _CLASSES]
    if not classes:
        return None
    depth = classes[-1]
    splits = [index for index, part in enumerate(above[:depth]) if part.lower() in _SPLITS]
    top = splits[-1] if splits else depth
    split = _SPLITS[above[top].lower()] if splits else ""
    return _outer(parts[:top]), split, _CLASSES[above[depth]], tuple(parts[depth + 1 :])


def _outer(folders: Sequence[str]) -> tuple[str, ...]:
    """Name the folders above so that a nested copy of the whole set gets the name of its original."""
    return tuple(name for name, _ in groupby(folders) if name.lower() != "chest_xray")


def _item(name: str, place: _Place) -> Item:
    _, split, label, rest = place
    stem = PurePosixPath(rest[-1]).stem
    return Item(name, label, patient_of(stem, label), subtype_of(stem, label), split)


def _require_classes(items: Sequence[Item], folders: Iterable[str], where: object) -> None:
    if not items:
        raise DataError(
            f"no images below NORMAL and PNEUMONIA folders in {where}; "
            "expected chest_xray/{train,val,test}/{NORMAL,PNEUMONIA} or the two class folders alone"
        )
    found = {item.label for item in items}
    for folder in sorted(folders):
        place = _place((*_parts(folder), "any"))
        if place and place[2] not in found:
            raise DataError(f"the class folder {folder} in {where} is empty; add its images or remove it")
