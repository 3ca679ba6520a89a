"""From decoded images to those that may be used: quarantine, duplicates, leaks, and who is the same patient.

The official test set is left as it is. Everything else is the pool, which training and validation come from.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from pneumonia_fl.data.manifest import CLASS_NAMES, TEST
from pneumonia_fl.data.prepare.decode import Outcome
from pneumonia_fl.data.sources.labelled_item import Item
from pneumonia_fl.errors import DataError, LeakError


@dataclass(frozen=True, slots=True)
class Picture:
    """A usable image: its place in the decoded file, its item (with the merged patient key), its outcome."""

    index: int
    item: Item
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class Cleaned:
    """Images left after cleaning.

    Attributes:
        pool: for training and validation.
        test: the official test set.
        left_out: file and reason of every image that is not used.
        quarantined: how many of those cannot be trusted.
        duplicates: how many of those are exact copies of images that are used.
        leaks: how many of those belong to patients who share a picture with the test set.
        overlap: patients of the pool whose key the official test set has as well.
    """

    pool: list[Picture]
    test: list[Picture]
    left_out: list[tuple[str, str]]
    quarantined: int
    duplicates: int
    leaks: int
    overlap: int


def clean(items: Sequence[Item], outcomes: Sequence[Outcome], drop_leaks: bool = False) -> Cleaned:
    """Sort out what may be used.

    Args:
        items: of the whole source.
        outcomes: one for each item.
        drop_leaks: leave patients out of the pool who share a picture with the test set, instead of stopping.

    Raises:
        DataError: nothing is left to train on, or nothing of a class in one of the source's splits.
        LeakError: a test image is also in the pool.
    """
    pictures = [Picture(i, *pair) for i, pair in enumerate(zip(items, outcomes, strict=True))]
    broken = [(p.item.name, p.outcome.problem) for p in pictures if p.outcome.problem]
    good = [picture for picture in pictures if not picture.outcome.problem]
    test = [picture for picture in good if picture.item.official_split == TEST]
    pool = [picture for picture in good if picture.item.official_split != TEST]
    if not pool:
        reason = f"; the first problem: {broken[0][0]}: {broken[0][1]}" if broken else ""
        raise DataError(f"no readable images to train on{reason}")
    person = _same_people(pool)
    pool, leaked = _without_leaks(pool, test, person, drop_leaks)
    overlap = {picture.item.patient for picture in pool} & {picture.item.patient for picture in test}
    kept, disputed, copies = _without_copies(pool)
    _require_every_class(pictures, dict(broken + leaked + disputed))
    return Cleaned(
        pool=[replace(p, item=replace(p.item, patient=person[p.item.patient])) for p in kept],
        test=test,
        left_out=sorted(broken + leaked + disputed + copies),
        quarantined=len(broken) + len(disputed),
        duplicates=len(copies),
        leaks=len(leaked),
        overlap=len(overlap),
    )


def _require_every_class(pictures: Sequence[Picture], reasons: Mapping[str, str]) -> None:
    """Refuse a source of which a split loses a whole class, to links to nowhere or pointers of Git LFS, say."""

    def part(picture: Picture) -> tuple[str, int]:
        return picture.item.official_split, picture.item.label

    there = {part(picture) for picture in pictures if picture.item.name not in reasons}
    lost = next((picture.item for picture in pictures if part(picture) not in there), None)
    if lost is not None:
        images = " ".join(filter(None, (lost.official_split, CLASS_NAMES[lost.label], "images")))
        raise DataError(
            f"none of the {images} can be used; the first problem: {lost.name}: {reasons[lost.name]}"
        )


def _by_content(pool: Iterable[Picture]) -> list[list[Picture]]:
    same: dict[str, list[Picture]] = {}
    for picture in pool:
        same.setdefault(picture.outcome.sha256, []).append(picture)
    return list(same.values())


def _same_people(pool: Iterable[Picture]) -> dict[str, str]:
    """Map every patient to the one name of all who share a picture, be it through others."""
    return _merge([[picture.item.patient for picture in group] for group in _by_content(pool)])


def _without_leaks(
    pool: list[Picture], test: Sequence[Picture], person: Mapping[str, str], drop: bool
) -> tuple[list[Picture], list[tuple[str, str]]]:
    """Return the pool without patients who share a picture with the test set, and their files."""
    held_out = {picture.outcome.sha256: picture.item.name for picture in test}
    leaks = [picture for picture in pool if picture.outcome.sha256 in held_out]
    if leaks and not drop:
        pairs = [f"{picture.item.name} = {held_out[picture.outcome.sha256]}" for picture in leaks]
        raise LeakError(
            f"{len(leaks)} training images are exact copies of official test images "
            f"({', '.join(pairs[:3])}{', …' if len(pairs) > 3 else ''}); "
            "--drop-leaks leaves their patients out"
        )
    people = {person[picture.item.patient] for picture in leaks}
    reason = "its patient has a picture in the official test set"
    gone = [(picture.item.name, reason) for picture in pool if person[picture.item.patient] in people]
    return [picture for picture in pool if person[picture.item.patient] not in people], gone


def _without_copies(
    pool: Sequence[Picture],
) -> tuple[list[Picture], list[tuple[str, str]], list[tuple[str, str]]]:
    """Return pictures to keep, pictures filed under both classes, and further copies of kept ones."""
    kept: list[Picture] = []
    disputed: list[tuple[str, str]] = []
    copies: list[tuple[str, str]] = []
    for first, *others in _by_content(pool):
        if any(other.item.label != first.item.label for other in others):
            disputed += [
                (p.item.name, "the same picture is filed under both classes") for p in (first, *others)
            ]
            continue
        kept.append(first)
        copies += [(other.item.name, f"exact copy of {first.item.name}") for other in others]
    return kept, disputed, copies


def _merge(groups: Iterable[Sequence[str]]) -> dict[str, str]:
    """Map every name to the alphabetically first of all names it is connected with through `groups`."""
    from scipy.cluster.hierarchy import DisjointSet

    names = DisjointSet()
    for group in groups:
        for name in group:
            names.add(name)
            names.merge(group[0], name)
    return {name: min(people) for people in names.subsets() for name in people}
