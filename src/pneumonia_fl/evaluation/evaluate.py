"""A saved model on a data source: exact metrics and curves with confidence intervals, kept beside the run."""

import contextlib
import itertools
import json
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pneumonia_fl.config.sections import Preprocess
from pneumonia_fl.data.manifest import INFO, read_info
from pneumonia_fl.data.sources.open_source import load_split, open_source
from pneumonia_fl.data.store import ImageSet, SiteData, concatenate
from pneumonia_fl.errors import CheckpointError, DataError
from pneumonia_fl.evaluation.assess import assess
from pneumonia_fl.evaluation.scoring import margins
from pneumonia_fl.files import inner_folder, write_new
from pneumonia_fl.inputs.json_files import read_json
from pneumonia_fl.inputs.paths import expanded, missing
from pneumonia_fl.metrics.binary import RATES
from pneumonia_fl.metrics.bootstrap import Interval
from pneumonia_fl.models.checkpoint import ModelCard, load_model
from pneumonia_fl.progress import Progress, silent
from pneumonia_fl.runs.folder import SHARED, RunFolder

BATCH = 64


@dataclass(frozen=True)
class Evaluation:
    """One model on one split; threshold, temperature and offset were fitted on validation data when it was saved.

    Attributes:
        source: kind of source, never a path.
        time: when, seconds since the epoch.
        manifest_sha256: of prepared data.
        floor_accuracy: that of always answering pneumonia.
        metrics: by name; None where a class is missing, `intervals` likewise (95 %, by patient).
        validation: what the model card says of the pooled validation split.
        roc, pr: {"fpr", "tpr"} and {"recall", "precision"} at 101 points, with a pointwise 95 % band "low", "high".
        reliability: mean prediction, observed share and images of each bin of the ECE.
        uncalibrated: {"ece", "brier", "reliability"} without temperature and offset.
        subtypes: {"n", "detected": rightly answered, "rate", "ci"} by subtype; of "normal" it is the specificity.
        sites: of an evaluation at the sites the same of each alone, without curves, and "readings": how often the site
            has had this split read.
        missing: sites that did not evaluate, and why.
    """

    model: str
    round: int
    source: str
    split: str
    time: float
    manifest_sha256: str | None
    threshold: float
    temperature: float
    offset: float
    operating_point: str
    n: int
    positives: int
    patients: int
    floor_accuracy: float
    metrics: dict[str, float | None]
    intervals: dict[str, Interval | None]
    validation: dict[str, float | None]
    roc: dict[str, list[float]] | None
    pr: dict[str, list[float]] | None
    confusion: dict[str, int]
    reliability: list[dict[str, Any]]
    uncalibrated: dict[str, Any]
    subtypes: dict[str, dict[str, Any]]
    sites: dict[str, dict[str, Any]] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON, under the names above."""
        return {"version": 1, **asdict(self)}


def evaluate_source(model_path: Path, source: str, split: str, progress: Progress = silent) -> Evaluation:
    """Score a saved model on one split of a source or of a prepared folder.

    Raises:
        CheckpointError: the model cannot be loaded.
        DataError: the source or the split cannot be read.
    """
    model, card = load_model(model_folder(model_path))
    data, origin = load_images(source, split, card.preprocess, progress)
    scores = []
    for start in range(0, len(data), BATCH):
        scores.append(margins(model, data.images[start : start + BATCH], card.preprocess, BATCH))
        progress("score", min(start + BATCH, len(data)), len(data))
    score = np.concatenate(scores) if scores else np.empty(0, np.float32)
    found = origin | assess(score, data, card.threshold, card.scaling)
    return of_model(card, split, round(time.time(), 3), found)


def of_model(card: ModelCard, split: str, when: float, found: Mapping[str, Any]) -> Evaluation:
    """Create an evaluation from a model's card and the results found."""
    return Evaluation(
        model=card.job,
        round=card.round,
        split=split,
        time=when,
        threshold=card.threshold,
        temperature=card.temperature,
        offset=card.offset,
        operating_point=card.operating_point,
        validation={name: card.metrics.get(name) for name in (*RATES, "ece")},
        **found,
    )


def keep(model_path: Path, result: Evaluation) -> int | None:
    """Write the evaluation into its run's `evaluations/`; None when the model lies in no run folder.

    Returns:
        How often this run has read this split of this kind of source by now.

    Raises:
        OutputError: the run folder cannot be written.
    """
    run = run_of(model_path)
    if run is None:
        return None
    inner_folder(run.evaluations)
    earlier = list(run.evaluations.glob(f"{result.split}-*.json"))
    _write_next(run.evaluations, result.split, earlier, json.dumps(result.to_dict(), indent=1).encode())
    return 1 + sum(_source_of(file) == result.source for file in earlier)


def run_of(model_path: Path) -> RunFolder | None:
    """Return the run whose folder holds a model; None when there is none."""
    path = model_path.absolute()
    return next((run for run in map(RunFolder, (path, *path.parents[:2])) if run.is_run), None)


def _write_next(folder: Path, split: str, earlier: Iterable[Path], content: bytes) -> None:
    """Write under the number after the highest; this record of how often a split was read replaces nothing."""
    numbers = [
        int(file.stem.rpartition("-")[2]) for file in earlier if file.stem.rpartition("-")[2].isdecimal()
    ]
    for number in itertools.count(max(numbers, default=0) + 1):
        with contextlib.suppress(FileExistsError):  # another evaluation at the same time was faster
            write_new(folder / f"{split}-{number:02d}.json", content)
            return


def model_folder(path: Path) -> Path:
    """Return the model folder at `path`; for a run folder, that of its best model.

    Raises:
        CheckpointError: there is nothing at `path`, or nothing but what sites share of their models.
    """
    if not path.exists():
        raise CheckpointError(missing(path, "give a run folder, a model folder or a model file"))
    if path.name.endswith(SHARED) or (path / f"model{SHARED}").is_dir():
        raise CheckpointError(
            f"{path} holds no complete model: normalisation stays at the sites; give a site's own, in a simulator's "
            "run sites/NAME/model, at a hospital pneumonia_fl_site_state/JOB/model in its kit"
        )
    return path / "model" if (path / "model").is_dir() else path


def _source_of(file: Path) -> str | None:
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        return str(read_json(file)["source"])
    return None


def load_images(
    source: str, split: str, spec: Preprocess, progress: Progress
) -> tuple[ImageSet, dict[str, Any]]:
    """Load a split's images as a model takes them, and their origin: kind of source and manifest hash.

    Raises:
        DataError: the source or the split cannot be read, or is prepared at another size.
    """
    folder = expanded(source)
    if not (folder / INFO).is_file():
        opened = open_source(source, progress=progress)
        return load_split(opened, split, spec, progress), {"source": opened.kind, "manifest_sha256": None}
    info = read_info(folder)
    have = info.preprocess.size
    if have != spec.size:
        raise DataError(
            f"{folder} is prepared at {have} px, the model takes {spec.size} px; "
            "evaluate on the original source, or prepare it again"
        )
    stores = [path.parent for path in sorted(folder.glob(f"*/{INFO}"))] or [folder]
    parts = [SiteData.open(store) for store in stores]
    there = sorted({row.split for part in parts for row in part.rows})
    if split not in there:
        raise DataError(f"{folder} has no split {split!r}; it has {', '.join(there)}")
    origin = {"source": info.source, "manifest_sha256": info.manifest_sha256}
    return concatenate([part.split(split) for part in parts]), origin
