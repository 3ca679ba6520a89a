"""The model's worst mistakes as pictures, scored here and now, for a page that must not leave the site."""

import base64
import io
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

from pneumonia_fl.data.manifest import NORMAL, PNEUMONIA
from pneumonia_fl.data.store import ImageSet, Pixels
from pneumonia_fl.evaluation.evaluate import load_images, model_folder
from pneumonia_fl.evaluation.scoring import margins
from pneumonia_fl.metrics.binary import Floats
from pneumonia_fl.models.checkpoint import load_model
from pneumonia_fl.progress import Progress, silent
from pneumonia_fl.report.view.rendering import Values

GALLERY_REPORT = "report-with-images.html"
"""Of another name than `report.html`, which goes to MLflow."""
PER_KIND = 12
"""How many pictures of each kind of mistake."""


def gallery_values(model: Path, source: str, split: str, progress: Progress = silent) -> Values:
    """Score a split of local data, and return the worst misses and false alarms as pictures, one per patient.

    Patients and files are not named; the pixels are what the model saw.

    Raises:
        CheckpointError: the model cannot be loaded.
        DataError: the source or the split cannot be read, or is empty.
    """
    network, card = load_model(model_folder(model))
    data, _ = load_images(source, split, card.preprocess, progress)
    progress("score", 0, len(data))
    scores = margins(network, data.images, card.preprocess)
    p = card.scaling.probability(scores)
    progress("score", len(data), len(data))
    called = card.scaling.decided(scores, card.threshold)
    misses = _worst(data, np.flatnonzero((data.labels == PNEUMONIA) & ~called), p)
    alarms = _worst(data, np.flatnonzero((data.labels == NORMAL) & called), -p)
    return {
        "wrong": int(((data.labels == PNEUMONIA) != called).sum()),
        "images": len(data),
        "split": split,
        "misses": _pictures(data, misses, p),
        "alarms": _pictures(data, alarms, p),
    }


def _worst(data: ImageSet, candidates: Iterable[int], order: Floats) -> list[int]:
    """Return the lowest candidates by `order`, one per patient."""
    first: dict[str, int] = {}
    for index in sorted(candidates, key=lambda index: float(order[index])):
        first.setdefault(data.patients[index], index)
    return list(first.values())[:PER_KIND]


def _pictures(data: ImageSet, chosen: list[int], p: Floats) -> list[tuple[str, str]]:
    """Return each picture as a data URI, with its caption."""
    return [(_embedded(data.images[index]), _caption(data.subtypes[index], p[index])) for index in chosen]


def _caption(subtype: str, p: float) -> str:
    kind = "" if subtype in ("normal", "unknown") else f", {subtype}"
    return f"P = {p:.3f}{kind}"


def _embedded(pixels: Pixels) -> str:
    buffer = io.BytesIO()
    Image.fromarray(np.asarray(pixels)).save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
