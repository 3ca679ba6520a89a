"""How good a model is: metrics and curves, confusion and calibration, subtypes."""

import time
from collections.abc import Callable, Sequence

from pneumonia_fl.metrics.binary import NAMES
from pneumonia_fl.metrics.platt import PLAIN
from pneumonia_fl.report.figures import charts
from pneumonia_fl.report.performance import SPLITS, Performance
from pneumonia_fl.report.run_folder_reader import RunFiles
from pneumonia_fl.report.view.blocks import (
    Block,
    Cell,
    Columns,
    Figure,
    Figures,
    Section,
    Table,
    Text,
    interval,
    number,
)

Shown = list[tuple[str, Performance]]


def performance_section(
    run: RunFiles, test: Performance | None, validation: Performance | None
) -> Section | None:
    """Metrics with their intervals, curves, confusion matrices and calibration, test beside validation."""
    shown: Shown = [(SPLITS[item.split], item) for item in (test, validation) if item is not None]
    if not shown:
        return None
    matrices = [_confusion(name, item) for name, item in shown if item.confusion]
    blocks: list[Block] = [Columns([[_metrics_table(shown)], [*matrices]]), *_curves(shown)]
    blocks += [_calibration(shown), Text(tuple(_footnotes(shown)), "small")]
    blocks += [_by_site(name, item) for name, item in shown if item.sites]
    if run.evaluations:
        blocks.append(_readings(run))
    point = shown[0][1]
    rule = f", chosen by the rule “{point.operating_point}”" if point.operating_point else ""
    lead = f"The answer is “pneumonia” from a probability of {number(point.threshold)}{rule}."
    return Section("performance", "How good is the model?", lead, blocks)


def subtype_section(test: Performance | None) -> Section | None:
    """How many of each subtype were answered rightly."""
    if test is None or not test.subtypes:
        return None
    rows: list[list[Cell | str]] = []
    lines: list[tuple[str, float, float | None, float | None]] = []
    for name, values in test.subtypes.items():
        rate, ends = values.get("rate"), values.get("ci") or (None, None)
        what = "left alone (specificity)" if name == "normal" else "found (sensitivity)"
        cells = [
            name,
            what,
            f"{values['n']:,}",
            f"{values['detected']:,}",
            number(rate),
            interval(values.get("ci")),
        ]
        rows.append(list(cells))
        if rate is not None:
            lines.append((name, rate, ends[0], ends[1]))
    columns: list[list[Block]] = [
        [Table(("Subtype", "What counts", "Images", "Right", "Rate", "95 % CI"), rows)]
    ]
    if lines:
        figure = charts.estimates(lines, "subtypes", "Right answers by subtype", zero=False)
        columns.append([Figures([Figure(figure)])])
    lead = f"{SPLITS.get(test.split, test.split)} images at the saved threshold."
    return Section("subtypes", "Bacterial and viral pneumonia", lead, [Columns(columns)])


def _metrics_table(shown: Shown) -> Table:
    head = ["Metric"]
    for name, item in shown:
        head += [name, "95 % CI"] if item.intervals else [name]
    rows: list[list[Cell | str]] = [
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


def _metric_cells(shown: Shown, key: str) -> list[Cell | str]:
    cells: list[Cell | str] = []
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


def _curves(shown: Shown) -> Sequence[Block]:
    drawn = [(name, item) for name, item in shown if item.roc]
    if not drawn:
        return [Text(("There is no ROC curve: a class is missing.",))]
    figures = [Figure(charts.roc(drawn))]
    ranked = [(name, item) for name, item in drawn if item.pr]
    if ranked:
        figures.append(Figure(charts.precision_recall(ranked)))
    return [Figures(figures)]


def _confusion(name: str, item: Performance) -> Table:
    """Two by two, each cell with its share of the row."""
    counts = item.confusion or {}
    rows: list[list[Cell | str]] = []
    for truth, answers in (("Normal", ("tn", "fp")), ("Pneumonia", ("fn", "tp"))):
        total = sum(counts[key] for key in answers)
        cells = [_counted(counts[key], total) for key in answers]
        rows.append([f"Is {truth.lower()}", *cells])
    return Table(("", "Answer: normal", "Answer: pneumonia"), rows, f"{name}: answers at the saved threshold")


def _counted(count: int, total: int) -> Cell:
    share = count / total if total else 0.0
    return Cell(f"{count:,} ({share:.0%})", shade=share)


def _calibration(shown: Shown) -> Figures:
    figures: list[Figure] = []
    for name, item in shown:
        if item.reliability:
            ece, before = item.metrics.get("ece"), item.uncalibrated_metrics.get("ece")
            was = "" if before is None or item.scaling == PLAIN else f"; {number(before)} before calibration"
            caption = f"{name}: ECE {number(ece)}{was}. A dot's size is its share of the images."
            figures.append(Figure(charts.reliability(item, item.split), caption))
        if item.scores is not None:
            figures.append(Figure(charts.scores(item, item.split), f"{name}: how sure the answers are."))
    return Figures(figures)


def _footnotes(shown: Shown) -> list[str]:
    lines = []
    if any(item.exact for _, item in shown):
        lines.append(
            "Intervals and bands: 95 %, from 1,000 samples of patients (images of one patient are alike)."
        )
    if any(item.sites for _, item in shown):
        lines.append(
            "Evaluated at the sites: counts of scores were pooled, each site drew the samples of its own patients."
        )
    if any(not item.exact for _, item in shown):
        lines.append(
            "Validation: only pooled counts of scores leave the sites, so there are no intervals and no patients here."
        )
    return lines


def _by_site(name: str, item: Performance) -> Table:
    """What each site found on its own images, and who found nothing."""
    rows: list[list[Cell | str]] = []
    for site, values in item.sites.items():
        metrics, ends = values.get("metrics") or {}, values.get("intervals") or {}
        cells = [f"{values.get(key, 0):,}" for key in ("n", "positives", "patients")]
        cells += [number(metrics.get("auroc")), interval(ends.get("auroc"))]
        cells += [number(metrics.get(key)) for key in ("sensitivity", "specificity")]
        rows.append([site, *cells, str(values.get("readings", "n/a"))])
    rows += [[site, reason, *[""] * 7] for site, reason in item.missing.items()]
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
    return Table(head, rows, f"{name}: evaluated at each site, by its own patients")


def _readings(run: RunFiles) -> Table:
    rows: list[list[Cell | str]] = []
    for values in run.evaluations:
        when = time.strftime("%Y-%m-%d %H:%M", time.gmtime(float(values.get("time") or 0)))
        auroc = number((values.get("metrics") or {}).get("auroc"))
        rows.append([when, str(values.get("split")), str(values.get("source")), str(values.get("n")), auroc])
    head = ("When (UTC)", "Split", "Source", "Images", "AUROC")
    return Table(head, rows, "Every reading of a split with this model")
