"""A saved model on a data source: exact metrics with confidence intervals."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pneumonia_fl.checkpoint import load_model
from pneumonia_fl.config import Preprocess
from pneumonia_fl.data.manifest import INFO, read_info
from pneumonia_fl.data.sources import load_split, open_source
from pneumonia_fl.data.store import ImageSet, SiteData
from pneumonia_fl.errors import CheckpointError, DataError
from pneumonia_fl.evaluate import margins
from pneumonia_fl.metrics import Metrics, bootstrap_ci, exact_metrics
from pneumonia_fl.progress import Progress, silent

BATCH = 64


@dataclass(frozen=True)
class Evaluation:
    """Metrics of one model on one split; the threshold was chosen on validation data when the model was saved."""

    model: str
    split: str
    threshold: float
    metrics: Metrics
    auroc_ci: tuple[float, float] | None
    patients: int

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; `floor_accuracy` is that of always answering pneumonia."""
        return {
            "model": self.model,
            "split": self.split,
            "threshold": self.threshold,
            **asdict(self.metrics),
            "auroc_ci95": self.auroc_ci,
            "patients": self.patients,
            "floor_accuracy": self.metrics.floor,
        }


def evaluate_source(model_path: Path, source: str, split: str, progress: Progress = silent) -> Evaluation:
    """Score a saved model on one split of a source or of a prepared folder.

    Raises:
        CheckpointError: the model cannot be loaded.
        DataError: the source or the split cannot be read.
    """
    model, card = load_model(_model_folder(model_path))
    data = _load(source, split, card.preprocess, progress)
    scores = []
    for start in range(0, len(data), BATCH):
        scores.append(margins(model, data.images[start : start + BATCH], card.preprocess, BATCH))
        progress("score", min(start + BATCH, len(data)), len(data))
    score = np.concatenate(scores) if scores else np.empty(0, np.float32)
    return Evaluation(
        model=card.job,
        split=split,
        threshold=card.threshold,
        metrics=exact_metrics(score, data.labels, card.threshold),
        auroc_ci=bootstrap_ci(score, data.labels, data.patients),
        patients=len(set(data.patients)),
    )


def _model_folder(path: Path) -> Path:
    """A run folder stands for its best model."""
    if not path.exists():
        raise CheckpointError(f"{path} not found; give a run folder, a model folder or a model file")
    return path / "model" if (path / "model").is_dir() else path


def _load(source: str, split: str, spec: Preprocess, progress: Progress) -> ImageSet:
    folder = Path(source).expanduser()
    if not (folder / INFO).is_file():
        return load_split(open_source(source, progress=progress), split, spec, progress)
    have = read_info(folder).preprocess.size
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
    return _concatenate([part.split(split) for part in parts])


def _concatenate(sets: list[ImageSet]) -> ImageSet:
    return ImageSet(
        np.concatenate([part.images for part in sets]),
        np.concatenate([part.labels for part in sets]),
        [patient for part in sets for patient in part.patients],
        [subtype for part in sets for subtype in part.subtypes],
    )
