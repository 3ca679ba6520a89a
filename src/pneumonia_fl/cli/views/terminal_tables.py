"""Tables for the terminal."""

from collections.abc import Iterable, Mapping
from statistics import median
from typing import TYPE_CHECKING, Any

from rich import box
from rich.table import Table

from pneumonia_fl import DISCLAIMER
from pneumonia_fl.cli.views.fitting import FittingTable
from pneumonia_fl.cli.views.site_bars import FEW_SITES
from pneumonia_fl.metrics.binary import COLUMN_NAMES, LEADING, NAMES
from pneumonia_fl.report.view.wording import size

if TYPE_CHECKING:
    from pneumonia_fl.evaluation.evaluate import Evaluation

SPREAD = ("lowest", "median", "highest")
COLUMNS = (*LEADING, "accuracy", "loss")


def rounds_table(metrics: Mapping[str, Any]) -> Table:
    """Build the table of validation metrics by round, per site and global; the best round is marked."""
    table = FittingTable(
        title="Validation by round (round 0: the initial model; threshold 0.5)",
        drop=("Loss", "Accuracy", "Specificity", "Sensitivity"),
    )
    table.add_column("Round", justify="right")
    table.add_column("Site")
    for name in COLUMNS:
        table.add_column(COLUMN_NAMES[name], justify="right")
    for entry in metrics["rounds"]:
        is_best = entry["round"] == metrics["best_round"]
        rows = {**_site_rows(entry["sites"]), "global": entry["global"] or {}}
        for name, values in rows.items():
            number = f"{_round(entry)}{' ★' if is_best else ''}" if name == next(iter(rows)) else ""
            style = "bold" if name == "global" else ""
            table.add_row(number, name, *_cells(values), style=style, end_section=name == "global")
    best = "★ best global model, chosen on pooled validation AUROC"
    remarks = (best, metrics.get("stopped_early"), _traffic(metrics))
    table.caption = "; ".join(filter(None, remarks))
    return table


def _traffic(metrics: Mapping[str, Any]) -> str:
    """Say how many bytes of models a site sends and receives in a round, the mean; "" where it is unknown."""
    sites = [values for entry in metrics["rounds"] for values in entry["sites"].values()]
    found = [(values.get("bytes"), values.get("received_bytes")) for values in sites]
    trained = [pair for pair in found if all(isinstance(value, int) and value for value in pair)]
    if not trained:
        return ""
    sent, received = (sum(column) / len(trained) for column in zip(*trained, strict=True))
    return f"a site sends {size(sent)} and receives {size(received)} in a round"


def _site_rows(sites: Mapping[str, Mapping[str, Any]]) -> Mapping[str, Mapping[str, Any]]:
    """Return a row for each site, or of many sites each metric's lowest, median and highest value."""
    if len(sites) <= FEW_SITES:
        return dict(sorted(sites.items()))
    columns = {key: spread(values.get(key) for values in sites.values()) for key in COLUMNS}
    return {
        f"{name} of {len(sites):,} sites": {key: column[place] for key, column in columns.items()}
        for place, name in enumerate(SPREAD)
    }


def spread(values: Iterable[float | None]) -> tuple[float | None, ...]:
    """Return the lowest, the median and the highest value; None where none is known."""
    known = [value for value in values if value is not None]
    return (min(known), median(known), max(known)) if known else (None,) * len(SPREAD)


def _round(entry: Mapping[str, Any]) -> str:
    return f"mean of {entry['averaged']}" if entry.get("averaged") else str(entry["round"])


def _cells(values: Mapping[str, Any]) -> list[str]:
    return [_cell(values.get(key)) for key in COLUMNS]


def evaluation_table(result: "Evaluation") -> Table:
    """Build the table of one model on one split, intervals by patient; accuracy is last, beside its floor."""
    table = FittingTable(
        title=f"{result.model}, round {result.round}, on split {result.split} of {result.source}: "
        f"{result.n} images, {result.patients} patients"
    )
    table.add_column("Metric")
    table.add_column("Value", justify="right")
    table.add_column("95 % CI by patient", justify="right")
    for name, title in NAMES.items():
        if name != "accuracy":  # comes last, beside its floor
            table.add_row(title, _cell(result.metrics[name]), _range(result.intervals[name]))
    for name, values in result.subtypes.items():
        what = "Called normal of" if name == "normal" else f"Detected of {name}"
        table.add_row(f"{what} ({values['n']})", _cell(values["rate"]), _range(values["ci"]))
    table.add_row(NAMES["accuracy"], _cell(result.metrics["accuracy"]), _range(result.intervals["accuracy"]))
    table.add_row("Always “pneumonia”", _cell(result.floor_accuracy), "")
    rule = result.operating_point or "as the model card says"
    table.caption = f"Threshold {result.threshold:.3f} on P(pneumonia): {rule}. {DISCLAIMER}"
    return table


def sites_table(result: "Evaluation") -> Table:
    """Build the table of each site's AUROC with its interval by the site's patients."""
    drop = ("Images", "Specificity", "Sensitivity", "Patients")
    table = FittingTable(
        "Site", drop=drop, title=f"Site by site, split {result.split}", box=box.SIMPLE, padding=(0, 1, 0, 0)
    )
    for title in ("Images", "Patients", "AUROC", "95 % CI", "Sensitivity", "Specificity"):
        table.add_column(title, justify="right")
    for site, values in result.sites.items():
        area, *rates = (_cell(values["metrics"][name]) for name in LEADING)
        ends = _range(values["intervals"]["auroc"])
        table.add_row(site, str(values["n"]), str(values["patients"]), area, ends, *rates)
    return table


def matrix_table(found: Mapping[str, Any]) -> Table:
    """Build the matrix of AUROC: models in rows, the sites' images in columns."""
    title = f"AUROC on split {found['split']}"
    table = FittingTable("Model", title=title, box=box.SIMPLE, padding=(0, 1, 0, 0))
    many = len(found["sites"]) > FEW_SITES
    for name in (f"{word} site" for word in SPREAD) if many else found["sites"]:
        table.add_column(name, justify="right")
    for model in found["models"]:
        row = found["cells"][model]
        cells = (_cell(row[site]["auroc"]) if site in row else "–" for site in found["sites"])
        table.add_row(model, *(map(_cell, spread(one["auroc"] for one in row.values())) if many else cells))
    table.caption = "n/a: one class only; –: not evaluated."
    return table


def _range(interval: tuple[float, float] | None) -> str:
    return "n/a" if interval is None else f"{interval[0]:.4f}–{interval[1]:.4f}"


def _cell(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.4f}"
