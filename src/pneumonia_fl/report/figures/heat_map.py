"""The cross-site matrix as a heat map and as CSV."""

import csv
import io
import math
from collections.abc import Mapping
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray
from PIL import Image

from pneumonia_fl.errors import DataError
from pneumonia_fl.inputs.text import plain_cell, printable
from pneumonia_fl.metrics.binary import CELL
from pneumonia_fl.report.figures.canvas import BLACK, GREY, new_figure
from pneumonia_fl.report.figures.site_lines import MANY_SITES, NAME_LENGTH

COLOURS = "cividis"  # even in brightness, and alike for colour-blind readers
MOST = 1000
"""Rows and columns that are drawn; the CSV has all."""
DARK = 0.9
"""The AUROC that is darkest, unless there is a lower one."""
UPRIGHT_SITES = 6
"""Up to this many columns the sites' names are horizontal."""


@mpl.rc_context({"text.parse_math": False})
def heat_map(matrix: Mapping[str, Any]) -> Figure:
    """Draw the AUROC of every model on every site's data.

    A site's own model on its own data has a frame. "one class": AUROC is not defined; "–": not evaluated.

    Raises:
        DataError: the matrix has no model or no site.
    """
    if not matrix["models"] or not matrix["sites"]:
        raise DataError("the cross-site matrix is empty; there is nothing to draw")
    said = _subtitle(matrix)
    models, sites = matrix["models"][:MOST], matrix["sites"][:MOST]
    matrix = {**matrix, "models": models, "sites": sites}
    wide, tall = (min(len(names), MANY_SITES) for names in (sites, models))
    figure = new_figure(
        max(6.8, 2.2 + (0.72 if wide == len(sites) else 0.2) * wide), max(3.2, 1.9 + 0.36 * tall)
    )
    axes = figure.subplots()
    values = _values(matrix)
    low = _lowest(values)
    image = axes.imshow(np.ma.masked_invalid(values), cmap=COLOURS, vmin=low, vmax=1.0, aspect="auto")
    axes.set_facecolor("#EEEEEE")
    figure.colorbar(image, ax=axes, label="AUROC", fraction=0.05, pad=0.02)
    if max(len(sites), len(models)) <= MANY_SITES:
        _label(axes, matrix)
        _fill(axes, matrix, (low + 1.0) / 2)
    else:
        axes.set(xlabel=f"Data of {len(sites):,} sites", ylabel=f"{len(models):,} models")
    figure.suptitle(f"Every model on every site's data – AUROC, split {matrix['split']}", fontweight="bold")
    axes.set_title(said, fontsize=9)
    return figure


def pixels(matrix: Mapping[str, Any]) -> tuple[bytes, float]:
    """Draw the matrix with one pixel per cell, for a page with many sites.

    Returns:
        A PNG file, and the AUROC of its darkest colour; what is not known is grey.
    """
    values = _values(matrix)
    low = _lowest(values)
    scaled = np.clip((values - low) / (1 - low), 0, 1) * 254
    image = Image.fromarray(np.where(np.isnan(scaled), 255, scaled).astype(np.uint8), "L")
    colours = mpl.colormaps[COLOURS](np.linspace(0, 1, 255), bytes=True)[:, :3]
    image.putpalette([*colours.ravel().tolist(), 0xAA, 0xAA, 0xAA])
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return buffer.getvalue(), low


def to_csv(matrix: Mapping[str, Any]) -> str:
    """Write one CSV line per model and site; unknown values are empty fields."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["split", "model", "site", *CELL])
    for model in matrix["models"]:
        for site in matrix["sites"]:
            cell = matrix["cells"].get(model, {}).get(site) or {}
            names = (plain_cell(str(name)) for name in (matrix["split"], model, site))
            writer.writerow([*names, *(cell.get(key) for key in CELL)])
    return text.getvalue()


def _values(matrix: Mapping[str, Any]) -> NDArray[np.float64]:
    models, sites = matrix["models"][:MOST], matrix["sites"][:MOST]
    return np.array([[_auroc(matrix, model, site) for site in sites] for model in models], dtype=np.float64)


def _lowest(values: NDArray[np.float64]) -> float:
    """Return the AUROC of the darkest colour."""
    return min(DARK, math.floor(np.nanmin(values) * 10) / 10) if np.isfinite(values).any() else 0.5


def _auroc(matrix: Mapping[str, Any], model: str, site: str) -> float:
    value = (matrix["cells"].get(model, {}).get(site) or {}).get("auroc")
    return float("nan") if value is None else float(value)


def _label(axes: Axes, matrix: Mapping[str, Any]) -> None:
    sites, models = matrix["sites"], matrix["models"]
    level = len(sites) <= UPRIGHT_SITES
    names = [_counted(matrix, site, "\n" if level else " ") for site in sites]
    axes.set_xticks(range(len(sites)), names, fontsize=8)
    if not level:
        axes.tick_params(axis="x", labelrotation=60)
    axes.set_yticks(range(len(models)), [printable(model, NAME_LENGTH) for model in models], fontsize=8)
    axes.set_xlabel("Data of", fontsize=9)
    axes.set_ylabel("Model", fontsize=9)
    axes.tick_params(length=0)


def _counted(matrix: Mapping[str, Any], site: str, separator: str) -> str:
    counts = [row[site]["n"] for row in matrix["cells"].values() if row.get(site)]
    name = printable(site, NAME_LENGTH)
    return f"{name}{separator}({counts[0]:,})" if counts else name


def _fill(axes: Axes, matrix: Mapping[str, Any], middle: float) -> None:
    """Write each cell's value, and frame what a model scored on its own site's data."""
    for y, model in enumerate(matrix["models"]):
        for x, site in enumerate(matrix["sites"]):
            value = _auroc(matrix, model, site)
            if math.isnan(value):
                known = matrix["cells"].get(model, {}).get(site)
                axes.text(
                    x, y, "one\nclass" if known else "–", ha="center", va="center", fontsize=6, color=GREY
                )
            else:
                shade = BLACK if value > middle else "white"
                axes.text(x, y, f"{value:.3f}", ha="center", va="center", fontsize=8, color=shade)
            if model == site:
                corner = (x - 0.5, y - 0.5)
                axes.add_patch(Rectangle(corner, 1, 1, fill=False, edgecolor=BLACK, linewidth=1.8))


def _subtitle(matrix: Mapping[str, Any]) -> str:
    mean = matrix["off_diagonal_auroc"]
    text = "" if mean is None else f"sites' own models on other sites' data: mean {mean:.3f}"
    absent = list(matrix["missing"])
    named = ", ".join(absent[:4]) + (f" and {len(absent) - 4} more" if len(absent) > 4 else "")
    cut = any(len(matrix[key]) > MOST for key in ("models", "sites"))
    parts = (text, f"incomplete: {named}" if absent else "", f"only the first {MOST}" if cut else "")
    return "; ".join(part for part in parts if part)
