"""The cross-site matrix on a page: a table, or of many sites a picture and how the values are distributed."""

import base64
from collections.abc import Mapping
from typing import Any

import numpy as np

from pneumonia_fl.report.figures.heat_map import pixels
from pneumonia_fl.report.figures.site_lines import MANY_SITES
from pneumonia_fl.report.view.page_tables import Cell, Row, Table, area_cell
from pneumonia_fl.report.view.site_tables import QUANTILES, site_table

NAMED_MISSING = 10
"""Of how many absent sites the reason is given, where there are many."""


def cross_site_values(matrix: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the cross-site matrix as a table with shades, and what is said about it; None when there is none."""
    if not matrix:
        return None
    missing = sorted((matrix.get("missing") or {}).items())
    many = max(len(matrix["models"]), len(matrix["sites"])) > MANY_SITES
    shown = missing[:NAMED_MISSING] if len(missing) > MANY_SITES else missing
    return {
        "tables": {"matrix": _distributions(matrix) if many else _cells(matrix)},
        "picture": _picture(matrix) if len(matrix["models"]) > MANY_SITES else None,
        "many": many,
        "mean": matrix.get("off_diagonal_auroc"),
        "missing": shown,
        "unnamed": len(missing) - len(shown),
        "split": {"val": "validation"}.get(str(matrix.get("split")), str(matrix.get("split"))),
    }


def _cells(matrix: Mapping[str, Any]) -> Table:
    models, sites, cells = matrix["models"], matrix["sites"], matrix["cells"]
    rows: list[Row] = [
        [str(model), *(_matrix_cell(cells.get(model, {}).get(site), model == site) for site in sites)]
        for model in models
    ]
    return Table(("Model", *(f"data of {site}" for site in sites)), rows, "AUROC")


def _distributions(matrix: Mapping[str, Any]) -> Table:
    """Build the table of each model's AUROC on all sites' images, sites' own models grouped."""
    told = {str(model): _quantiles(matrix, model) for model in matrix["models"]}
    own = {model: values for model, values in told.items() if model in matrix["sites"]}
    common = [_common(model, values) for model, values in told.items() if model not in own]
    head = ("Model", *(f"{name} site" for name in QUANTILES))
    if not own:
        return Table(head, common, "AUROC")
    return site_table(head, own, (area_cell,) * len(QUANTILES), 2, "AUROC", common)


def _common(model: str, values: list[float | None]) -> Row:
    return [Cell(model, strong=True), *map(area_cell, values)]


def _quantiles(matrix: Mapping[str, Any], model: str) -> list[float | None]:
    """Return how a model's AUROC is distributed over the sites; None where no site knows it."""
    row = matrix["cells"].get(model, {})
    known = [
        cell["auroc"] for site in matrix["sites"] if (cell := row.get(site)) and cell.get("auroc") is not None
    ]
    if not known:
        return [None] * len(QUANTILES)
    return [float(value) for value in np.quantile(known, list(QUANTILES.values()))]


def _picture(matrix: Mapping[str, Any]) -> dict[str, Any]:
    png, low = pixels(matrix)
    return {"source": "data:image/png;base64," + base64.b64encode(png).decode(), "low": low}


def _matrix_cell(cell: Mapping[str, Any] | None, own: bool) -> Cell:
    if not cell:
        return Cell("–")
    if cell.get("auroc") is None:
        return Cell("one class")
    return area_cell(float(cell["auroc"]), own)
