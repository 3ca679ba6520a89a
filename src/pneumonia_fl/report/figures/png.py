"""The pictures that a run folder keeps: its charts as PNG files."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.lines import Line2D

from pneumonia_fl.errors import DataError
from pneumonia_fl.report.figures import charts
from pneumonia_fl.report.figures.canvas import BLACK, ORANGE, STYLE, new_figure, save
from pneumonia_fl.report.figures.site_lines import site_looks
from pneumonia_fl.report.performance import SPLITS, Performance, of_histogram
from pneumonia_fl.runs.record import RunRecord


def draw_figures(run: RunRecord, curves: Path, roc: Path) -> None:
    """Draw a run's learning curves, and its ROC curve and calibration, from the same values as its report.

    Raises:
        DataError: the run's records cannot be drawn.
        OutputError: a file cannot be written.
    """
    learning_curves(run.metrics, curves)
    if pooled := run.histogram_of_best():
        roc_and_calibration(of_histogram(pooled, run.card), roc)


@mpl.rc_context(STYLE)
def learning_curves(metrics: Mapping[str, Any], out: Path) -> Path:
    """Draw a run's `metrics.json` into the PNG `out`: four metrics by round, all of them on validation data.

    Raises:
        DataError: there is no round to draw.
        OutputError: `out` cannot be written.
    """
    if not metrics["rounds"]:
        raise DataError("the run has no finished round to draw; see its logs")
    best = metrics.get("best_round")
    figure = new_figure(9.6, 7.0)
    figure.suptitle("Validation metrics of the global model by round", fontweight="bold")
    for key, axes in zip(charts.BY_ROUND, figure.subplots(2, 2).flat, strict=True):
        charts.by_round(metrics, key, best, axes)
    lines = [Line2D([], [], color=BLACK, linewidth=2.6, marker="o", markersize=4, label="all sites pooled")]
    if best is not None:
        star: dict[str, Any] = {"color": ORANGE, "markeredgecolor": BLACK, "linestyle": ":"}
        lines.append(Line2D([], [], marker="*", markersize=11, label=f"best round: {best}", **star))
    for colour, dashes, site in site_looks(metrics["sites"]):
        look: dict[str, Any] = {"color": colour, "linestyle": dashes}
        lines.append(Line2D([], [], label=site, **look))
    figure.legend(handles=lines, loc="outside right upper")
    return save(figure, out)


@mpl.rc_context(STYLE)
def roc_and_calibration(item: Performance, out: Path) -> Path:
    """Draw the ROC curve and the reliability diagram of a saved model into the PNG `out`, as its report has them.

    Raises:
        OutputError: `out` cannot be written.
    """
    name, area = SPLITS[item.split], item.metrics["auroc"]
    figure = new_figure(9.6, 5.0)
    left, right = figure.subplots(1, 2)
    said = "n/a (a class is missing)" if area is None else f"{area:.3f}"
    counted = f"{item.n:,} {name.lower()} images, {item.positives:,} with pneumonia"
    figure.suptitle(f"AUROC {said}, ECE {item.metrics['ece']:.3f} – {counted}", fontweight="bold")
    charts.roc([(name, item)], left)
    charts.reliability(name, item, right)
    return save(figure, out)
