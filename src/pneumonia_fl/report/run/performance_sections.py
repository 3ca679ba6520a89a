"""Sections on a model's performance: metrics and curves, confusion and calibration, subtypes."""

import time
from collections.abc import Callable
from typing import Any

from pneumonia_fl.metrics.binary import NAMES
from pneumonia_fl.metrics.platt import PLAIN
from pneumonia_fl.report.figures import charts
from pneumonia_fl.report.figures.svg import to_svg
from pneumonia_fl.report.performance import SPLITS, Performance
from pneumonia_fl.report.view.page_tables import Cell, Row, Table
from pneumonia_fl.report.view.rendering import Values
from pneumonia_fl.report.view.site_tables import Value, site_table, whole
from pneumonia_fl.report.view.wording import interval, number
from pneumonia_fl.runs.record import RunRecord

Shown = list[tuple[str, Performance]]


def performance_values(
    run: RunRecord, test: Performance | None, validation: Performance | None
) -> Values | None:
    """Return metrics with their intervals, curves, confusion matrices and calibration, test beside validation."""
    shown: Shown = [(SPLITS[item.split], item) for item in (test, validation) if item is not None]
    if not shown:
        return None
    tables = {"metrics": _metrics_table(shown)}
    tables |= {f"confusion-{name}": _confusion(name, item) for name, item in shown if item.confusion}
    tables |= {f"sites-{name}": _by_site(name, item) for name, item in shown if item.sites}
    if run.evaluations:
        tables["readings"] = _readings(run)
    return {
        "shown": shown,
        "tables": tables,
        "curves": _curves(shown),
        "calibration": [(name, item, *_calibration(name, item)) for name, item in shown],
        "plain": PLAIN,
        "exact": any(item.exact for _, item in shown),
        "pooled": any(not item.exact for _, item in shown),
        "at_sites": any(item.sites for _, item in shown),
    }


def subtype_values(test: Performance | None) -> Values | None:
    """Return how many of each subtype were answered rightly."""
    if test is None or not test.subtypes:
        return None
    rows: list[Row] = []
    estimates: list[charts.Estimate] = []
    for name, values in test.subtypes.items():
        rate, ends = values.get("rate"), values.get("ci") or (None, None)
        what = "correctly cleared (specificity)" if name == "normal" else "found (sensitivity)"
        counts = [f"{values[key]:,}" for key in ("n", "detected")]
        rows.append([name, what, *counts, number(rate), interval(values.get("ci"))])
        if rate is not None:
            estimates.append(charts.Estimate(name, rate, ends[0], ends[1]))
    table = Table(("Subtype", "What counts", "Images", "Right", "Rate", "95 % CI"), rows)
    chart = charts.estimates(estimates, "Right answers by subtype", zero=False) if estimates else None
    return {
        "split": SPLITS.get(test.split, test.split),
        "tables": {"subtypes": table},
        "figure": chart and to_svg(chart),
    }


def _metrics_table(shown: Shown) -> Table:
    head = ["Metric"]
    for name, item in shown:
        head += [name, "95 % CI"] if item.intervals else [name]
    rows: list[Row] = [
        [NAMES[key], *_metric_cells(shown, key)]
        for key in NAMES
        if any(key in item.metrics for _, item in shown)
    ]
    rows.append(["Accuracy of always “pneumonia”", *_each(shown, lambda item: number(item.prevalence))])
    rows.append(["Images (with pneumonia)", *_each(shown, lambda item: f"{item.n:,} ({item.positives:,})")])
    rows.append(
        ["Patients", *_each(shown, lambda item: "n/a" if item.patients is None else f"{item.patients:,}")]
    )
    return Table(tuple(head), rows)


def _metric_cells(shown: Shown, key: str) -> Row:
    cells: Row = []
    for _, item in shown:
        cells.append(Cell(number(item.metrics.get(key)), strong=key == "auroc"))
        if item.intervals:
            cells.append(interval(item.intervals.get(key)))
    return cells


def _each(shown: Shown, say: Callable[[Performance], str]) -> list[str]:
    cells: list[str] = []
    for _, item in shown:
        cells += [say(item), ""] if item.intervals else [say(item)]
    return cells


def _curves(shown: Shown) -> list[Any]:
    drawn = [(name, item) for name, item in shown if item.roc]
    ranked = [(name, item) for name, item in drawn if item.pr]
    made = [charts.roc(drawn)] if drawn else []
    made += [charts.precision_recall(ranked)] if ranked else []
    return [to_svg(figure) for figure in made]


def _confusion(name: str, item: Performance) -> Table:
    """Build the confusion matrix, each cell with its share of the row."""
    counts = item.confusion or {}
    rows: list[Row] = []
    for truth, answers in (("Normal", ("tn", "fp")), ("Pneumonia", ("fn", "tp"))):
        total = sum(counts[key] for key in answers)
        cells = [_counted(counts[key], total) for key in answers]
        rows.append([f"Is {truth.lower()}", *cells])
    return Table(("", "Answer: normal", "Answer: pneumonia"), rows, f"{name}: answers at the saved threshold")


def _counted(count: int, total: int) -> Cell:
    share = count / total if total else 0.0
    return Cell(f"{count:,} ({share:.0%})", shade=share)


def _calibration(name: str, item: Performance) -> tuple[Any, Any]:
    """Draw the reliability diagram and the scores, as far as they are known."""
    diagram = to_svg(charts.reliability(name, item)) if item.reliability else None
    return diagram, to_svg(charts.scores(name, item)) if item.scores is not None else None


def _by_site(name: str, item: Performance) -> Table:
    """Build the table of each site's results on its own images."""
    told: dict[str, list[Value] | str] = {}
    for site, values in item.sites.items():
        metrics, ends = values.get("metrics") or {}, (values.get("intervals") or {}).get("auroc")
        counts = [values.get(key, 0) for key in ("n", "positives", "patients")]
        rates = [metrics.get(key) for key in ("sensitivity", "specificity")]
        told[site] = [*counts, metrics.get("auroc"), ends and tuple(ends), *rates, values.get("readings")]
    told |= item.missing
    head = (
        "Site",
        "Images",
        "Pneumonia",
        "Patients",
        "AUROC",
        "95 % CI",
        "Sensitivity",
        "Specificity",
        "Readings",
    )
    formats = (whole, whole, whole, number, number, number, number, whole)
    return site_table(head, told, formats, 3, f"{name}: evaluated at each site, by its own patients")


def _readings(run: RunRecord) -> Table:
    rows: list[Row] = []
    for values in run.evaluations:
        when = time.strftime("%Y-%m-%d %H:%M", time.gmtime(float(values.get("time") or 0)))
        auroc = number((values.get("metrics") or {}).get("auroc"))
        rows.append([when, str(values.get("split")), str(values.get("source")), str(values.get("n")), auroc])
    head = ("When (UTC)", "Split", "Source", "Images", "AUROC")
    return Table(head, rows, "Every reading of a split with this model")
