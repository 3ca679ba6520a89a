"""Prepare a source for training: decode once, sort out, deal out to sites, write one folder per site.

Everything is written into a hidden folder inside the output and moved into place at the end, `dataset.json`
last. What an interrupted preparation leaves is therefore never taken for a data set, and running again
completes it. The same source, seed and settings give the same bytes, whatever the number of workers.
"""

import csv
import io
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pneumonia_fl.config.sections import Preprocess
from pneumonia_fl.data.manifest import (
    TEST,
    DatasetInfo,
    Row,
    Split,
    count,
    write_info,
    write_manifest,
)
from pneumonia_fl.data.prepare.decode import Decoder, decode_all
from pneumonia_fl.data.prepare.deduplicate import Cleaned, Picture, clean
from pneumonia_fl.data.prepare.output_folder import PARTIAL, QUARANTINE, move_into_place, new_data_set
from pneumonia_fl.data.prepare.partition import (
    Partition,
    PatientGroup,
    assign_sites,
    check_sites,
    parse_partition,
    split_train_val,
)
from pneumonia_fl.data.prepare.test_assignment import deal_test
from pneumonia_fl.data.sources.kermany_layout import require_classes, summary
from pneumonia_fl.data.sources.labelled_item import UNKNOWN_LICENCE, Source
from pneumonia_fl.data.store import IMAGES
from pneumonia_fl.errors import ConfigError, DataError
from pneumonia_fl.files import inner_folder, output_errors, private, private_folder, write_atomic
from pneumonia_fl.inputs.text import escaped, plain_cell
from pneumonia_fl.progress import Progress, silent

PIXELS = "pixels.raw"
_Placed = list[tuple[Row, int]]
"""Manifest rows, each with its image's place in the decoded file."""


@dataclass(frozen=True, slots=True)
class _Plan:
    """One preparation's settings."""

    source: Source
    sites: tuple[str, ...]
    partition: Partition
    spec: Preprocess
    seed: int
    val_fraction: float
    drop_leaks: bool
    poolable: bool


def prepare(
    source: Source,
    out: Path,
    sites: Sequence[str],
    partition: str,
    spec: Preprocess,
    *,
    seed: int,
    val_fraction: float = 0.15,
    drop_leaks: bool | None = None,
    patients_unknown: bool | None = None,
    poolable: bool = False,
    force: bool = False,
    workers: int | None = None,
    progress: Progress = silent,
) -> DatasetInfo:
    """Prepare `source` into `out` and return what was prepared.

    The source's official train and val images form the pool, which is dealt out to `sites` by patient and
    split there into train and val (`val_fraction` of the patients). The official test goes to `out/test`.
    Where the pool holds a copy of a test image, preparation stops, or leaves its patient out (`drop_leaks`).
    None stops, except for npz archives: they name no patients, cannot be edited, and the published ones
    do hold copies. Where the patients of more than half of the images are unknown, `patients_unknown` has to allow
    it; for npz archives it need not. `poolable`: the owner allows bringing the images together; those with a licence
    are public.

    Raises:
        ConfigError: sites, partition or fraction make no sense.
        OutputError: `out` is in use (see `force`), full or not writable.
        DataError: there is too little to prepare, a class is missing, or too many patients are unknown.
        LeakError: a test image is also in the pool.
    """
    check_sites(sites)
    if not 0 < val_fraction <= 0.5:
        raise ConfigError(f"--val-fraction {val_fraction:g}: give a share above 0 and up to 0.5")
    drop = source.kind == "npz" if drop_leaks is None else drop_leaks
    plan = _Plan(source, tuple(sites), parse_partition(partition), spec, seed, val_fraction, drop, poolable)
    require_classes(source.items(), source.left_out)
    _require_patients(source, patients_unknown)
    with output_errors(out), new_data_set(out, force):
        return _prepare(plan, out, workers, progress)


def _require_patients(source: Source, unknown_allowed: bool | None) -> None:
    """Refuse images of which most may show a person who is in another site, or in both train and val."""
    items = source.items()
    unknown = sum(not item.known for item in items)
    allowed = source.kind == "npz" if unknown_allowed is None else unknown_allowed
    if 2 * unknown > len(items) and not allowed:
        raise DataError(
            f"the patients of {unknown:,} of {len(items):,} images are unknown: names such as person12_virus_3.jpeg, "
            "IM-0012-0001.jpeg or NORMAL-12-0001.jpeg tell them; rename the files, or pass --patients-unknown to take "
            "each image for a patient of its own"
        )


def _prepare(plan: _Plan, out: Path, workers: int | None, progress: Progress) -> DatasetInfo:
    items = plan.source.items()
    partial = out / PARTIAL
    if partial.exists():
        shutil.rmtree(partial)
    private_folder(partial)
    decoder = Decoder(plan.source, partial / PIXELS, plan.spec)
    outcomes = decode_all(decoder, items, workers, progress)
    cleaned = clean(items, outcomes, plan.drop_leaks)
    placed = _place_all(plan, cleaned)
    info = _write(plan, cleaned, placed, partial, progress)
    (partial / PIXELS).unlink()
    move_into_place(out)
    return info


def _place_all(plan: _Plan, cleaned: Cleaned) -> dict[str, _Placed]:
    """Return each site's rows, training before validation, and those of the official test set."""
    groups = _group_patients(plan.source, cleaned.pool)
    site_of = assign_sites(groups, plan.sites, plan.partition, plan.seed)
    placed: dict[str, _Placed] = {}
    for number, site in enumerate(plan.sites):
        mine = [group for group in groups if site_of[group.patient] == site]
        held_out = split_train_val(mine, plan.val_fraction, plan.seed, number)
        pictures = [picture for picture in cleaned.pool if site_of[picture.item.patient] == site]
        train = [picture for picture in pictures if picture.item.patient not in held_out]
        val = [picture for picture in pictures if picture.item.patient in held_out]
        placed[site] = _rows(plan, train, site, "train") + _rows(plan, val, site, "val")
    if cleaned.test:
        placed[TEST] = _test_rows(plan, cleaned.test, groups, site_of)
    return placed


def _test_rows(
    plan: _Plan, test: Sequence[Picture], pool: Sequence[PatientGroup], site_of: Mapping[str, str]
) -> _Placed:
    stands_for = deal_test(pool, site_of, _group_patients(plan.source, test), plan.sites, plan.seed)
    return [
        (_row(plan.source.kind, picture, stands_for[picture.item.patient], "test"), picture.index)
        for picture in test
    ]


def _group_patients(source: Source, pool: Sequence[Picture]) -> list[PatientGroup]:
    pictures: dict[str, list[Picture]] = {}
    for picture in pool:
        pictures.setdefault(picture.item.patient, []).append(picture)
    return [_group(source, patient, mine) for patient, mine in sorted(pictures.items())]


def _group(source: Source, patient: str, pictures: Sequence[Picture]) -> PatientGroup:
    worst = max(pictures, key=lambda picture: picture.item.label)
    return PatientGroup(
        patient, len(pictures), worst.item.label, worst.item.subtype, source.hospital(worst.item)
    )


def _rows(plan: _Plan, pictures: Sequence[Picture], site: str, split: Split) -> _Placed:
    return [(_row(plan.source.kind, picture, site, split), picture.index) for picture in pictures]


def _row(kind: str, picture: Picture, site: str, split: Split) -> Row:
    item, outcome = picture.item, picture.outcome
    return Row(
        image=escaped(item.name),
        label=item.label,
        patient=escaped(item.patient),
        subtype=item.subtype,
        official_split=item.official_split,
        site=site,
        split=split,
        sha256=outcome.sha256,
        width=outcome.width,
        height=outcome.height,
        source=kind,
        bits=outcome.bits,
    )


def _write(
    plan: _Plan, cleaned: Cleaned, placed: dict[str, _Placed], folder: Path, progress: Progress
) -> DatasetInfo:
    for done, (name, rows) in enumerate(placed.items()):
        progress("write", done, len(placed))
        inner_folder(folder / name)
        _write_images(folder / name / IMAGES, folder / PIXELS, [index for _, index in rows], plan.spec.size)
        _write_tables(plan, cleaned, folder / name, (name,) if name != TEST else (), rows)
    progress("write", len(placed), len(placed))
    _write_quarantine(folder, sorted([*plan.source.left_out, *cleaned.left_out]))
    everything = [entry for rows in placed.values() for entry in rows]
    return _write_tables(plan, cleaned, folder, plan.sites, everything)


def _write_tables(
    plan: _Plan, cleaned: Cleaned, folder: Path, sites: tuple[str, ...], placed: _Placed
) -> DatasetInfo:
    rows = [row for row, _ in placed]
    unknown = {picture.index for picture in (*cleaned.pool, *cleaned.test) if not picture.item.known}
    source = plan.source
    info = DatasetInfo(
        source=source.kind,
        licence=source.licence,
        credit=source.credit,
        seed=plan.seed,
        partition=str(plan.partition),
        preprocess=plan.spec,
        sites=sites,
        counts=count(rows),
        quarantined=cleaned.quarantined,
        duplicates=cleaned.duplicates,
        patient_overlap_with_test=cleaned.overlap,
        leaks_dropped=cleaned.leaks,
        patients_unknown=sum(index in unknown for _, index in placed),
        unused=summary(source.left_out),
        bits={str(bits): number for bits, number in sorted(Counter(row.bits for row in rows).items())},
        manifest_sha256=write_manifest(folder, rows),
        # Images of unknown licence may be private, however they are dealt out.
        poolable=source.licence != UNKNOWN_LICENCE or plan.poolable,
    )
    write_info(folder, info)
    return info


def _write_images(path: Path, pixels: Path, indices: Sequence[int], size: int) -> None:
    """Copy the images at `indices` of the raw file, one at a time, into a NumPy file (N,S,S)."""
    header = {"descr": "|u1", "fortran_order": False, "shape": (len(indices), size, size)}
    with pixels.open("rb") as source, open(path, "wb", opener=private) as target:
        np.lib.format.write_array_header_1_0(target, header)
        for index in indices:
            source.seek(index * size**2)
            target.write(source.read(size**2))


def _write_quarantine(folder: Path, left_out: Sequence[tuple[str, str]]) -> None:
    text = io.StringIO(newline="")
    rows = ([plain_cell(escaped(cell)) for cell in row] for row in [("file", "reason"), *left_out])
    csv.writer(text, lineterminator="\n").writerows(rows)
    write_atomic(folder / QUARANTINE, text.getvalue().encode())
