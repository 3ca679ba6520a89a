"""Tables that the report of a run and that of a comparison share."""

from collections.abc import Mapping
from typing import Any

from pneumonia_fl.report.view.blocks import Block, Cell, Columns, Section, Table, Text, number


def count_table(counts: Mapping[str, Mapping[str, Mapping[str, int]]]) -> Table:
    """Images by site, split and class; the shade is the share with pneumonia."""
    rows: list[list[Cell | str]] = []
    for site, splits in sorted(counts.items(), key=lambda item: (item[0] == "test", item[0])):
        for split, images in splits.items():
            normal, ill = (int(images.get(name, 0)) for name in ("NORMAL", "PNEUMONIA"))
            share = ill / (normal + ill) if normal + ill else 0.0
            name = "test (held out)" if site == "test" else f"{site}, {split}"
            rows.append(
                [name, f"{normal:,}", f"{ill:,}", f"{normal + ill:,}", Cell(f"{share:.0%}", shade=share)]
            )
    return Table(("Site and split", "Normal", "Pneumonia", "Images", "With pneumonia"), rows)


def area_cell(value: float | None, strong: bool = False) -> Cell:
    """An AUROC, darker the further it is above guessing; squared, since most that matter lie near 1."""
    return Cell(number(value), None if value is None else max(0.0, 2 * value - 1) ** 2, strong)


def cross_site_section(matrix: Mapping[str, Any]) -> Section | None:
    """The cross-site matrix as a table with shades; None when there is none."""
    if not matrix:
        return None
    models, sites, cells = matrix["models"], matrix["sites"], matrix["cells"]
    rows: list[list[Cell | str]] = [
        [str(model), *(_matrix_cell(cells.get(model, {}).get(site), model == site) for site in sites)]
        for model in models
    ]
    blocks: list[Block] = [Table(("Model", *(f"data of {site}" for site in sites)), rows, "AUROC")]
    mean, missing = matrix.get("off_diagonal_auroc"), matrix.get("missing") or {}
    lines = (
        []
        if mean is None
        else [f"A hospital's own model on the other hospitals' data: mean AUROC {number(mean)}."]
    )
    lines += [f"{site}: {why}." for site, why in sorted(missing.items())]
    if lines:
        blocks = [Columns([blocks, [Text(tuple(lines))]])]
    lead = f"Each row is a model, each column a hospital's {_split(matrix)} images. Own model on own data is bold."
    return Section("cross-site", "Every model on every site's data", lead, blocks)


def _split(matrix: Mapping[str, Any]) -> str:
    return {"val": "validation"}.get(str(matrix.get("split")), str(matrix.get("split")))


def _matrix_cell(cell: Mapping[str, Any] | None, own: bool) -> Cell:
    if not cell:
        return Cell("–")
    if cell.get("auroc") is None:
        return Cell("one class")
    return area_cell(float(cell["auroc"]), own)


def duration(seconds: float) -> str:
    """Seconds, minutes or hours."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def size(count: float) -> str:
    """Bytes as MB or GB, powers of ten."""
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"
