"""Read class, official split, patient and subtype from file names.

Covered: the layout of the Kaggle and Mendeley archives, `chest_xray/{train,val,test}/{NORMAL,PNEUMONIA}`, the class
above the split, and class folders alone; at any depth and in any case. The archive that Kaggle serves holds every image
twice (`chest_xray/chest_xray/…`); such nested copies count once. Every file that is no image of a class gets a reason.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import groupby
from pathlib import PurePosixPath

from pneumonia_fl.data.manifest import CLASS_NAMES, NORMAL
from pneumonia_fl.data.sources.labelled_item import UNKNOWN_LICENCE, Contents, Item, LeftOut
from pneumonia_fl.errors import ConfigError, DataError
from pneumonia_fl.inputs.text import escaped

KERMANY_LICENCE = "CC BY 4.0"
KERMANY_CREDIT = (
    "Kermany, Zhang, Goldbaum (2018), Labeled Optical Coherence Tomography (OCT) and Chest X-Ray Images for "
    "Classification, Mendeley Data, rscbjbr9sj"
)
# An archive is that of Kermany et al. when nearly all names follow their scheme; a few others do no harm.
KERMANY_SHARE = 0.9

SYSTEM_FILE = "a hidden file, or one of another program"
NO_CLASS = "in no class folder"
NO_SPLIT = "in no train, val or test folder, though others are"
NESTED_COPY = "a second copy in a nested folder"

Classes = Mapping[str, int]
"""Label by name of a class folder, in lower case."""
CLASSES: Classes = {name.lower(): label for label, name in enumerate(CLASS_NAMES)}

_SPLIT = re.compile(
    r"(?:\d+[ _-]*)?(?:(train|training)|(val|valid|validation)|(test|testing))(?:[ _-]?(?:set|split|data|images))?"
)
_SPLIT_NAMES = ("train", "val", "test")
_JUNK = {"__macosx", "thumbs.db", "desktop.ini", "lost+found"}
_SCHEMES = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        r"(?P<patient>person\d+)_(?P<subtype>bacteria|virus)_\d+",
        r"(?P<patient>(?:NORMAL2-)?IM-\d+)-\d+",
        r"(?:NORMAL|(?P<subtype>BACTERIA|VIRUS))-(?P<patient>\d+)-\d+",
    )
)
_SUBTYPES = {"bacteria": "bacterial", "virus": "viral"}
_NAMES_SHOWN = 8
_Place = tuple[tuple[str, ...], str, str, tuple[str, ...]]
"""Folders above, split, name of the class folder in lower case, and the rest of a file's name."""


def parse_classes(words: Sequence[str]) -> Classes:
    """Read `--classes` words such as `pneumonia=BACTERIA,VIRUS`; the two classes' own names stay.

    Raises:
        ConfigError: an unknown class, no name, or a name that belongs to both.
    """
    classes = dict(CLASSES)
    for word in words:
        target, _, names = word.partition("=")
        label = CLASSES.get(target.strip().lower())
        folders = [name.strip().lower() for name in names.split(",")]
        if label is None or not all(folders):
            raise ConfigError(
                f"--classes {word!r}: write normal=NAMES or pneumonia=NAMES, e.g. pneumonia=BACTERIA,VIRUS"
            )
        for name in folders:
            if classes.setdefault(name, label) != label:
                raise ConfigError(f"--classes {word!r}: {name!r} would belong to both classes")
    return classes


def find_items(
    files: Iterable[str],
    folders: Iterable[str],
    where: object,
    classes: Classes = CLASSES,
    same: Callable[[str, str], bool] = lambda first, second: True,
) -> Contents:
    """Sort a source's file names (`/` or `\\` between parts) into items and what is left out, both by name.

    Every file below a class folder is an item, whatever its ending: reading decides whether it is an image. Where some
    files have a split, those without one are left out: they may be a test set under another name.

    Args:
        files: names inside the source.
        folders: likewise.
        where: the source, for errors.
        classes: what class folders are called.
        same: whether two files hold the same bytes; asked of nested copies.

    Raises:
        DataError: no class folder holds a file, a class or split folder is empty, or one of `classes` is nowhere.
    """
    names = sorted(files, key=lambda name: (name.count("/"), name))
    places = {name: _place(_parts(name), classes) for name in names}
    left_out = [(name, place) for name, place in places.items() if isinstance(place, str)]
    split_up = any(place[1] for place in places.values() if not isinstance(place, str))
    first: dict[_Place, str] = {}
    items: list[Item] = []
    for name, place in places.items():
        if isinstance(place, str):
            continue
        if split_up and not place[1]:
            left_out.append((name, NO_SPLIT))
        elif (original := first.setdefault(place, name)) != name and same(original, name):
            left_out.append((name, NESTED_COPY))
        else:
            items.append(_item(name, place, classes))
    _require_files(places, folders, where, classes)
    if not items:
        raise DataError(
            f"no images below NORMAL and PNEUMONIA folders in {where} ({_seen(left_out)}); expected "
            "chest_xray/{train,val,test}/{NORMAL,PNEUMONIA} or the two class folders alone; "
            "--classes pneumonia=NAMES says that others belong to a class"
        )
    return Contents(sorted(items, key=lambda item: item.name), sorted(left_out))


def require_classes(items: Iterable[Item], left_out: LeftOut) -> None:
    """Refuse a source that has nothing of a class to train on.

    Raises:
        DataError: a class is missing; the message names the folders that stand for none.
    """
    there = {item.label for item in items if item.official_split != "test"}
    for label, name in enumerate(CLASS_NAMES):
        if label not in there:
            raise DataError(
                f"no {name} images to train on ({_seen(left_out)}); if other folders hold them, map those: "
                f"--classes {name.lower()}=FOLDER,FOLDER"
            )


def summary(left_out: LeftOut) -> dict[str, int]:
    """Count what is left out by reason, the most frequent first."""
    return dict(Counter(reason for _, reason in left_out).most_common())


def described(left_out: LeftOut) -> list[str]:
    """Describe for each reason how many files are left out, and in which folders most of them lie."""
    lines = []
    for reason, count in summary(left_out).items():
        folders = Counter("/".join(_parts(name)[:-1]) or name for name, why in left_out if why == reason)
        where = ", ".join(escaped(folder) for folder, _ in folders.most_common(3))
        more = ", …" if len(folders) > 3 else ""
        lines.append(f"{count:,} {reason}: {where}{more}")
    return lines


def split_of(folders: Sequence[str]) -> str:
    """Return the split that the last such folder name means: "train", "val", "test", or ""."""
    return next((split for name in reversed(folders) if (split := _split(name))), "")


def is_system_file(parts: Iterable[str]) -> bool:
    """Return True for a hidden path or one that a program keeps for itself: it holds no image."""
    return any(part.startswith(".") or part.lower() in _JUNK for part in parts)


def patient_of(stem: str, label: int) -> str:
    """Return the patient's key: class and number where the scheme is known, else the stem itself."""
    match = _scheme(stem)
    if not match:
        return stem
    number = match["patient"].upper()
    return f"{CLASS_NAMES[label]}/{number.lower() if number.startswith('PERSON') else number}"


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


def _split(name: str) -> str:
    match = _SPLIT.fullmatch(name.strip().lower())
    return _SPLIT_NAMES[(match.lastindex or 1) - 1] if match else ""


def _parts(name: str) -> tuple[str, ...]:
    return PurePosixPath(name.replace("\\", "/")).parts


def _place(parts: Sequence[str], classes: Classes) -> _Place | str:
    """Return the place of a file, or the reason why it is no image of a class."""
    if is_system_file(parts):
        return SYSTEM_FILE
    above = [part.strip().lower() for part in parts[:-1]]
    depth = max((index for index, part in enumerate(above) if part in classes), default=None)
    if depth is None:
        return NO_CLASS
    splits = [index for index, part in enumerate(above[:depth]) if _split(part)]
    top = splits[-1] if splits else depth
    split = split_of(above[:depth]) or split_of(above[depth + 1 :])
    return _outer(parts[:top]), split, above[depth], tuple(parts[depth + 1 :])


def _outer(folders: Sequence[str]) -> tuple[str, ...]:
    """Name the folders above so that a nested copy of the whole set gets the name of its original."""
    return tuple(name for name, _ in groupby(folders) if name.lower() != "chest_xray")


def _item(name: str, place: _Place, classes: Classes) -> Item:
    _, split, folder, rest = place
    label = classes[folder]
    stem = PurePosixPath(rest[-1]).stem
    known = _scheme(stem) is not None
    return Item(name, label, patient_of(stem, label), subtype_of(stem, label), split, known)


def _require_files(files: Iterable[str], folders: Iterable[str], where: object, classes: Classes) -> None:
    """Refuse class and split folders without files, which a lost share leaves behind, and mistyped classes."""
    used = {parent for name in files if not is_system_file(_parts(name)) for parent in _parents(_parts(name))}
    for folder in sorted(folders):
        parts = _parts(folder)
        name = parts[-1].strip().lower()
        kind = "class" if name in classes else "split" if _split(name) else ""
        if kind and parts not in used and not is_system_file(parts):
            raise DataError(f"the {kind} folder {folder} in {where} is empty; add its images or remove it")
    names = {parts[-1].strip().lower() for parts in used}
    missing = sorted(classes.keys() - CLASSES.keys() - names)
    if missing:
        there = ", ".join(sorted(names)[:_NAMES_SHOWN])
        raise DataError(f"--classes: no folder {missing[0]!r} with files in {where}; there are {there}")


def _parents(parts: tuple[str, ...]) -> Iterable[tuple[str, ...]]:
    return (parts[:end] for end in range(1, len(parts)))


def _seen(left_out: LeftOut) -> str:
    """Name the folders of files that belong to no class, the largest first."""
    ignored = [_parts(name) for name, reason in left_out if reason in (NO_CLASS, NO_SPLIT)]
    seen = Counter(parts[-2] for parts in ignored if len(parts) > 1)
    names = [f"{escaped(name)}: {count}" for name, count in seen.most_common(_NAMES_SHOWN)]
    return (
        f"other folders with files: {', '.join(names)}" if names else "there are no other folders with files"
    )
