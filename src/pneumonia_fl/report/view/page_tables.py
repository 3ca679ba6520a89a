"""Tables of a report, and those that a run and a comparison share."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pneumonia_fl.report.view.wording import number


@dataclass(frozen=True)
class Cell:
    """One cell; `shade` from 0 to 1 colours it."""

    text: str
    shade: float | None = None
    strong: bool = False


Row = list[Cell | str]


@dataclass(frozen=True)
class Table:
    """A table whose first column names the row; a cell may be a plain string."""

    head: tuple[str, ...]
    rows: list[Row]
    caption: str = ""
    note: str = ""


def count_table(counts: Mapping[str, Mapping[str, Mapping[str, int]]]) -> Table:
    """Build the table of images by site, split and class; the shade is the share with pneumonia."""
    rows: list[Row] = []
    for site, splits in sorted(counts.items(), key=lambda item: (item[0] == "test", item[0])):
        for split, images in splits.items():
            normal, pneumonia = (int(images.get(name, 0)) for name in ("NORMAL", "PNEUMONIA"))
            share = pneumonia / (normal + pneumonia) if normal + pneumonia else 0.0
            name = "test (held out)" if site == "test" else f"{site}, {split}"
            rows.append(
                [
                    name,
                    f"{normal:,}",
                    f"{pneumonia:,}",
                    f"{normal + pneumonia:,}",
                    Cell(f"{share:.0%}", shade=share),
                ]
            )
    return Table(("Site and split", "Normal", "Pneumonia", "Images", "With pneumonia"), rows)


def area_cell(value: float | None, strong: bool = False) -> Cell:
    """Build an AUROC's cell, darker further above 0.5; squared, since most values lie near 1."""
    return Cell(number(value), None if value is None else max(0.0, 2 * value - 1) ** 2, strong)


def cross_site_values(matrix: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the cross-site matrix as a table with shades, and what is said about it; None when there is none."""
    if not matrix:
        return None
    models, sites, cells = matrix["models"], matrix["sites"], matrix["cells"]
    rows: list[Row] = [
        [str(model), *(_matrix_cell(cells.get(model, {}).get(site), model == site) for site in sites)]
        for model in models
    ]
    return {
        "tables": {"matrix": Table(("Model", *(f"data of {site}" for site in sites)), rows, "AUROC")},
        "mean": matrix.get("off_diagonal_auroc"),
        "missing": sorted((matrix.get("missing") or {}).items()),
        "split": {"val": "validation"}.get(str(matrix.get("split")), str(matrix.get("split"))),
    }


def _matrix_cell(cell: Mapping[str, Any] | None, own: bool) -> Cell:
    if not cell:
        return Cell("–")
    if cell.get("auroc") is None:
        return Cell("one class")
    return area_cell(float(cell["auroc"]), own)
