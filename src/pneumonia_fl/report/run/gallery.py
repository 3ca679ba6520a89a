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
from pneumonia_fl.report.view.blocks import Block, Pictures, Section, Text, plural

GALLERY_REPORT = "report-with-images.html"
"""Of another name than `report.html`, which goes to MLflow."""
PER_KIND = 12
"""How many pictures of each kind of mistake."""


def gallery_section(model: Path, source: str, split: str, progress: Progress = silent) -> Section:
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
    blocks: list[Block] = [
        *_pictures("Pneumonia that was missed, the surest mistakes first", data, misses, p),
        *_pictures("False alarms, the surest mistakes first", data, alarms, p),
    ]
    wrong = int(((data.labels == PNEUMONIA) != called).sum())
    lead = f"{plural(wrong, 'mistake')} in {plural(len(data), 'image')} of split {split}. Look for what they share."
    return Section("gallery", "Where it went wrong", lead, blocks or [Text(("There was no mistake.",))])


def _worst(data: ImageSet, candidates: Iterable[int], order: Floats) -> list[int]:
    """The lowest by `order`, one per patient."""
    first: dict[str, int] = {}
    for index in sorted(candidates, key=lambda index: float(order[index])):
        first.setdefault(data.patients[index], index)
    return list(first.values())[:PER_KIND]


def _pictures(title: str, data: ImageSet, chosen: list[int], p: Floats) -> list[Block]:
    items = [(_embedded(data.images[index]), _caption(data.subtypes[index], p[index])) for index in chosen]
    return [Pictures(title, items)] if items else []


def _caption(subtype: str, p: float) -> str:
    kind = "" if subtype in ("normal", "unknown") else f", {subtype}"
    return f"P = {p:.3f}{kind}"


def _embedded(pixels: Pixels) -> str:
    buffer = io.BytesIO()
    Image.fromarray(np.asarray(pixels)).save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
