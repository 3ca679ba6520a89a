"""How long a site takes to open its prepared data: 5,000 images of 128 px."""

import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

from bench.options import Options
from pneumonia_fl.config.sections import Preprocess
from pneumonia_fl.data.manifest import DatasetInfo, Row, count, write_info, write_manifest
from pneumonia_fl.data.store import IMAGES, SiteData

COUNT, SIZE, REPEATS = 5000, 128, 5
TARGET_SECONDS = 0.5


def run(options: Options) -> None:
    """Print the median time of opening a site's data and both its splits."""
    with tempfile.TemporaryDirectory() as folder:
        site = Path(folder) / "site-1"
        _write(site)
        seconds = statistics.median(_open(site) for _ in range(1 if options.quick else REPEATS))
    print(f"open {COUNT:,} images of {SIZE} px: {seconds:.3f} s (wanted: below {TARGET_SECONDS})")


def _open(site: Path) -> float:
    start = time.perf_counter()
    data = SiteData.open(site)
    data.split("train"), data.split("val")
    return time.perf_counter() - start


def _write(site: Path) -> None:
    site.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (COUNT, SIZE, SIZE), dtype=np.uint8)
    np.save(site / IMAGES, pixels)
    rows = [_row(number) for number in range(COUNT)]
    info = DatasetInfo(
        source="bench",
        licence="none",
        credit="none",
        seed=0,
        partition="iid",
        preprocess=Preprocess(size=SIZE),
        sites=("site-1",),
        counts=count(rows),
        quarantined=0,
        duplicates=0,
        patient_overlap_with_test=0,
        manifest_sha256=write_manifest(site, rows),
        poolable=True,
    )
    write_info(site, info)


def _row(number: int) -> Row:
    return Row(
        image=f"{number}.png",
        label=number % 2,
        patient=f"p{number // 2}",
        subtype="unknown",
        official_split="train",
        site="site-1",
        split="train" if number < 0.85 * COUNT else "val",
        sha256="0" * 64,
        width=SIZE,
        height=SIZE,
        source="bench",
    )
