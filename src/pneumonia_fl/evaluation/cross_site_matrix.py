"""The cross-site matrix: every model on every site's data.

A model that is named like a site is that site's own. How it does on the other sites' data, the mean off the
diagonal, says what a site's model is worth elsewhere; the global models' rows say what the federation adds.
"""

from collections.abc import Mapping
from typing import Any

from torch import nn

from pneumonia_fl.config.sections import Preprocess
from pneumonia_fl.data.store import ImageSet
from pneumonia_fl.evaluation.scoring import margins
from pneumonia_fl.metrics.binary import CELL, exact_metrics
from pneumonia_fl.progress import Progress, silent

VERSION = 1

Cells = Mapping[str, Mapping[str, Mapping[str, Any]]]


def cross_site(
    models: Mapping[str, tuple[nn.Module, Preprocess]],
    sites: Mapping[str, ImageSet],
    split: str,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Score every model on every site's images of `split`, and return `matrix` of that.

    A site without images is listed in `missing`. Each model is scored in place and is not changed.

    Raises:
        DataError: a model answers with NaN or infinity.
    """
    filled = {site: data for site, data in sites.items() if len(data)}
    cells: dict[str, dict[str, dict[str, Any]]] = {name: {} for name in models}
    for done, (name, (model, preprocess)) in enumerate(models.items(), start=1):
        for site, data in filled.items():
            scores = margins(model, data.images, preprocess)
            metrics = exact_metrics(scores, data.labels)
            cells[name][site] = {key: getattr(metrics, key) for key in CELL}
        progress("cross-site matrix", done, len(models))
    missing = {site: f"no images in split {split}" for site in sites if site not in filled}
    return matrix(split, list(models), list(sites), cells, missing)


def matrix(
    split: str, models: list[str], sites: list[str], cells: Cells, missing: Mapping[str, str]
) -> dict[str, Any]:
    """Return what `cross_site.json` holds.

    Args:
        split: which images were scored.
        models: rows, in this order.
        sites: columns, in this order.
        cells: what is known, model by model and site by site; AUROC is None where a class is missing.
        missing: sites of which something is not there, and why.
    """
    return {
        "version": VERSION,
        "split": split,
        "models": models,
        "sites": sites,
        "cells": {model: dict(cells.get(model, {})) for model in models},
        "off_diagonal_auroc": _off_diagonal(cells, sites),
        "missing": dict(missing),
    }


def _off_diagonal(cells: Cells, sites: list[str]) -> float | None:
    """Average the AUROC of the sites' own models on the other sites' data; None without such a cell."""
    values = [
        cell["auroc"]
        for model, row in cells.items()
        for site, cell in row.items()
        if model in sites and site != model and cell["auroc"] is not None
    ]
    return sum(values) / len(values) if values else None
