"""Is a prepared folder what it says it is, and can it be trained on?"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from pneumonia_fl.data.manifest import (
    CLASS_NAMES,
    TEST,
    DatasetInfo,
    Row,
    count,
    manifest_hash,
    place_of,
    read_info,
    read_manifest,
)
from pneumonia_fl.data.prepare.output_folder import PARTIAL, QUARANTINE
from pneumonia_fl.data.store import IMAGES, SiteData
from pneumonia_fl.errors import DataError
from pneumonia_fl.findings import Finding, Level
from pneumonia_fl.inputs.paths import missing


def check(folder: Path) -> list[Finding]:
    """Check a prepared data set, or one site's own folder. Nothing is changed.

    Only a missing folder is an error here; everything else that is wrong becomes a finding.

    Raises:
        DataError: `folder` does not exist.
    """
    if not folder.is_dir():
        raise DataError(missing(folder, "run `pneumonia-fl data prepare`"))
    try:
        info, rows = read_info(folder), read_manifest(folder)
    except DataError as error:
        interrupted = " (an interrupted preparation; run it again)" if (folder / PARTIAL).exists() else ""
        return [Finding("fail", f"{error}{interrupted}")]
    findings = [Finding("ok", f"complete: {len(rows):,} images of {len(info.sites)} sites")]
    findings += _check_manifest(folder, info, rows)
    findings += _check_stores(folder, info, rows)
    findings += _check_patients(info, rows)
    findings += _check_test(rows)
    findings += _check_classes(info)
    findings += _check_left_out(info)
    return findings


def unknown_patients(unknown: int, images: int) -> str:
    """Explain the effect of images whose patients are unknown."""
    return (
        f"patient unknown for {unknown:,} of {images:,} images ({unknown / images:.1%}): each name counts as a patient "
        "of its own, so one person may be in two sites, or in both train and val"
    )


def no_test_set(split_up: bool) -> str:
    """Explain the effect of a source without a recognised test set."""
    if split_up:
        return "no test set recognised: the source's train and val folders are for training and validation"
    return (
        "no split recognised (train, val, test): all images are for training and validation; "
        "if the source has a test set, it is trained on"
    )


def _finding(good: bool, ok: str, bad: str, level: Level = "fail") -> Finding:
    return Finding("ok", ok) if good else Finding(level, bad)


def _check_manifest(folder: Path, info: DatasetInfo, rows: Sequence[Row]) -> Iterator[Finding]:
    yield _finding(
        manifest_hash(folder) == info.manifest_sha256,
        "the manifest is the one that was prepared",
        f"{folder.name}: the manifest was changed after the preparation; prepare the data again",
    )
    yield _finding(
        count(rows) == info.counts,
        "the counts agree with the manifest",
        f"{folder.name}: dataset.json counts other images than the manifest",
    )


def _check_stores(folder: Path, info: DatasetInfo, rows: Sequence[Row]) -> Iterator[Finding]:
    if (folder / IMAGES).exists():
        yield from _check_store(folder, rows)
        return
    for name in (*info.sites, *([TEST] if TEST in info.counts else [])):
        yield from _check_store(folder / name, [row for row in rows if place_of(row) == name])


def _check_store(folder: Path, rows: Sequence[Row]) -> Iterator[Finding]:
    try:
        data = SiteData.open(folder)
    except DataError as error:
        yield Finding("fail", str(error))
        return
    shape = f"{folder.name}: {len(data.rows):,} images of {data.info.preprocess.size} px"
    yield _finding(
        data.rows == list(rows), shape, f"{folder.name}: its manifest is not its part of the whole"
    )
    yield from (finding for finding in _check_manifest(folder, data.info, data.rows) if finding.level != "ok")


def _check_patients(info: DatasetInfo, rows: Sequence[Row]) -> Iterator[Finding]:
    torn = _several(
        (row for row in rows if row.split != TEST), lambda row: row.patient, lambda row: (row.site, row.split)
    )
    yield _finding(
        not torn,
        f"no {'known ' if info.patients_unknown else ''}patient is in two sites or in both train and val",
        f"{len(torn)} patients are in two sites or in both train and val; prepare the data again",
    )
    if info.patients_unknown:
        yield Finding("warn", unknown_patients(info.patients_unknown, len(rows)))


def _check_test(rows: Sequence[Row]) -> Iterator[Finding]:
    pool = [row for row in rows if row.split != TEST]
    leaks = {row.sha256 for row in pool} & {row.sha256 for row in rows if row.split == TEST}
    if not any(row.official_split for row in rows):
        yield Finding("warn", no_test_set(split_up=False))
    else:
        yield _finding(
            not leaks,
            "no test image is used for training",
            f"{len(leaks)} test images are used for training too; prepare the data again",
        )
    named = {row.site for row in pool}
    yield _finding("" not in named, "every training image has its site", "training images without a site")


def _several(
    rows: Iterable[Row], key: Callable[[Row], str], value: Callable[[Row], tuple[str, ...]]
) -> set[str]:
    """Return the keys that occur with more than one value."""
    first: dict[str, tuple[str, ...]] = {}
    return {key(row) for row in rows if first.setdefault(key(row), value(row)) != value(row)}


def _check_classes(info: DatasetInfo) -> Iterator[Finding]:
    wanted = [(site, split) for site in info.sites for split in ("train", "val")]
    for site, split in [*wanted, *([(TEST, TEST)] if TEST in info.counts else [])]:
        classes = info.counts.get(site, {}).get(split, {})
        missing = [name for name in CLASS_NAMES if not classes.get(name)]
        if len(missing) == len(CLASS_NAMES):
            yield Finding("fail", f"{site}: no {split} images")
        elif missing:
            effect = "it can train on one class only" if split == "train" else "its AUROC is n/a"
            yield Finding("warn", f"{site}: no {missing[0]} images in {split}; {effect}")


def _check_left_out(info: DatasetInfo) -> Iterator[Finding]:
    if info.quarantined:
        yield Finding(
            "warn", f"{info.quarantined} files could not be trusted and are left out, see {QUARANTINE}"
        )
    for reason, number in info.unused.items():
        yield Finding("ok", f"{number} files are not used: {reason}, see {QUARANTINE}")
    if info.duplicates:
        yield Finding("ok", f"{info.duplicates} exact copies are left out, see {QUARANTINE}")
    if info.leaks_dropped:
        yield Finding(
            "warn", f"{info.leaks_dropped} images are left out: their patients have a picture in the test set"
        )
    if info.patient_overlap_with_test:
        yield Finding(
            "warn",
            f"{info.patient_overlap_with_test} patient ids occur in the official test set too; "
            "they may be other people, since the source numbers its folders separately",
        )
