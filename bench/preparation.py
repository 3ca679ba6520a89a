"""How fast images are prepared, and in how much memory: the public sample, and originals of 1–2 Mpx."""

import io
import os
import resource
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

from bench.options import Options
from bench.processes import ROOT
from pneumonia_fl.config.sections import Preprocess
from pneumonia_fl.data.prepare.pipeline import prepare
from pneumonia_fl.data.sources.open_source import open_source

DATA = Path(os.environ.get("PNEUMONIA_FL_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))
SAMPLE = DATA / "chest-xray-pneumonia-224.zip"
ORIGINALS = 900
# Drawn pictures; further ones differ in bytes behind the image's end, which decoders skip and hashes see.
DRAWN = 12
WORKERS = (1, 2)
# Width and height of the original archive's images: its median is about 1.3 megapixels.
SIZES = ((1152, 840), (1328, 992), (1776, 1184))


def run(options: Options) -> None:
    """Print images/s and peak memory of a whole preparation: hash, decode, scale, split, store."""
    with tempfile.TemporaryDirectory() as folder:
        sample = (
            SAMPLE if SAMPLE.exists() else _make_originals(Path(folder) / "small.zip", 2400, ((224, 224),))
        )
        print("Preparation (3 sites, 128 px; a fresh process each, its start not counted)")
        count = 60 if options.quick else ORIGINALS
        originals = _make_originals(Path(folder) / "originals.zip", count, SIZES)
        for name, source in ((f"{sample.name}, 224 px", sample), ("originals, 1.0–2.1 Mpx", originals)):
            for workers in WORKERS:
                print(f"  {name}, {workers} worker(s): {_measure(source, workers, Path(folder) / 'out')}")
        twice = _make_originals(Path(folder) / "twice.zip", 2 * count, SIZES)
        print(f"  twice as many originals, 2 workers: {_measure(twice, 2, Path(folder) / 'out')}")


def _measure(source: Path, workers: int, out: Path) -> str:
    words = [sys.executable, "-m", "bench.preparation", str(source), str(workers), str(out)]
    return subprocess.run(words, cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()


def _prepare_once(source: str, workers: int, out: Path) -> None:
    begun = time.perf_counter()
    info = prepare(
        open_source(source),
        out,
        ["a", "b", "c"],
        "dirichlet:0.5",
        Preprocess(),
        seed=7,
        workers=workers,
        force=True,
    )
    seconds = time.perf_counter() - begun
    images = (
        sum(sum(c.values()) for splits in info.counts.values() for c in splits.values()) + info.duplicates
    )
    worker = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    print(
        f"{images / seconds:,.0f} images/s ({images:,} in {seconds:.1f} s), "
        f"peak memory {_peak_memory():.0f} MB" + (f" + {worker:.0f} MB per worker" if workers > 1 else "")
    )


def _peak_memory() -> float:
    """Return this process's own peak, MB; `getrusage` would count that of the process that started it."""
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def _make_originals(path: Path, number: int, sizes: tuple[tuple[int, int], ...]) -> Path:
    rng = np.random.default_rng(7)
    drawn = [_photograph(rng, sizes[index % len(sizes)]) for index in range(DRAWN)]
    with zipfile.ZipFile(path, "w") as file:
        for index in range(number):
            name = f"NORMAL/IM-{index:04d}-0001" if index % 2 else f"PNEUMONIA/person{index}_virus_1"
            file.writestr(f"chest_xray/train/{name}.jpeg", drawn[index % DRAWN] + str(index).encode())
    return path


def _photograph(rng: np.random.Generator, size: tuple[int, int]) -> bytes:
    coarse = Image.fromarray(rng.integers(0, 256, (24, 24), dtype=np.uint8)).resize(
        size, Image.Resampling.BICUBIC
    )
    grain = rng.normal(0, 6, size[::-1])
    data = io.BytesIO()
    Image.fromarray(np.clip(np.asarray(coarse) + grain, 0, 255).astype(np.uint8)).save(
        data, "JPEG", quality=90
    )
    return data.getvalue()


if __name__ == "__main__":
    _prepare_once(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))
