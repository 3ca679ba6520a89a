"""The charts: one function each, which returns a figure to be saved as PNG (`canvas.save`) or SVG (`svg.to_svg`).

Given `axes`, a chart is drawn there, as one panel of a larger figure. What is drawn may come from somebody else's
file, so the number of its parts is limited. Colours are those of Okabe and Ito (2008), which colour-blind people tell
apart.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from pneumonia_fl.errors import DataError
from pneumonia_fl.inputs.text import printable
from pneumonia_fl.metrics.platt import PLAIN
from pneumonia_fl.report.figures.canvas import (
    BLACK,
    BLUE,
    GREY,
    ORANGE,
    STYLE,
    described,
    panel,
)
from pneumonia_fl.report.figures.site_lines import (
    MAX_POINTS,
    NAME_LENGTH,
    by_entry,
    draw_sites,
    number_of,
)
from pneumonia_fl.report.performance import SCORE_BINS, Curve, Floats, Performance

BY_ROUND = {
    "auroc": "AUROC",
    "loss": "Loss (cross-entropy, nats)",
    "sensitivity": "Sensitivity at .5",
    "specificity": "Specificity at .5",
}
"""Metrics of a round that have a chart, and its title."""
MAX_ROWS = 60
"""How many rows are drawn."""

Shown = Sequence[tuple[str, Performance]]


@dataclass(frozen=True)
class Estimate:
    """One row of `estimates`: a value with its interval and the values of single seeds; None where there is none."""

    label: str
    value: float | None
    low: float | None = None
    high: float | None = None
    seeds: Sequence[float] = ()
    colour: str = BLUE


@mpl.rc_context(STYLE)
def by_round(metrics: Mapping[str, Any], key: str, best: int | None, axes: Axes | None = None) -> Figure:
    """Draw one metric of `metrics.json` by round: all sites pooled thick, each site thin, the saved model marked."""
    axes = axes or panel()
    rounds = [entry for entry in metrics["rounds"] if entry.get("sites") or entry.get("global")]
    numbers = _limited([int(entry["round"]) for entry in rounds])
    sites = metrics.get("sites", [])
    draw_sites(axes, sites, by_entry(rounds, sites, key, numbers), ".", 1.3)
    pooled = [number_of(entry.get("global"), key) for entry in rounds]
    if not np.isnan(pooled).all():
        axes.plot(numbers, pooled, color=BLACK, linewidth=2.6, marker="o", markersize=4)
    if best is not None and best in numbers:
        axes.axvline(best, color=GREY, linestyle=":", linewidth=1.2)
        height = pooled[numbers.index(best)]
        axes.plot([best], [height], "*", color=ORANGE, markersize=13, markeredgecolor=BLACK)
    axes.set_title(BY_ROUND[key])
    _whole_numbers(axes, numbers, "Round (0 = initial model)" if 0 in numbers else "Round")
    return described(axes, f"{BY_ROUND[key]} by round, {len(numbers)} points")


@mpl.rc_context(STYLE)
def training_loss(losses: Mapping[str, list[tuple[int, float]]], sites: Sequence[str]) -> Figure:
    """Draw the sites' training loss by their own steps."""
    axes = panel()
    thinned = [
        points[:: 1 + len(points) // MAX_POINTS] for points in (losses.get(site, []) for site in sites)
    ]
    series = [([step for step, _ in points], [loss for _, loss in points]) for points in thinned]
    draw_sites(axes, sites, series, "", 1.1)
    axes.set_title("Training loss at the sites")
    axes.set(xlabel="Steps of the site", ylabel="Cross-entropy, nats")
    return described(axes, "Training loss of each site by step")


@mpl.rc_context(STYLE)
def seconds_by_round(rounds: Sequence[Mapping[str, Any]], sites: Sequence[str]) -> Figure:
    """Draw how long each site worked in each round."""
    axes = panel()
    # The training that begins with the model of round 0 is the first one.
    numbers = _limited([1 + int(entry["round"]) for entry in rounds])
    draw_sites(axes, sites, by_entry(rounds, sites, "seconds", numbers), ".", 1.3)
    axes.set_title("Seconds of work by round")
    axes.set_ylim(bottom=0)
    _whole_numbers(axes, numbers, "Round of training")
    return described(axes, "Seconds that each site worked in each round")


@mpl.rc_context(STYLE)
def roc(shown: Shown, axes: Axes | None = None) -> Figure:
    """Draw ROC curves with their bands; the point is the saved threshold."""
    axes = axes or panel(height=4.0)
    axes.plot([0, 1], [0, 1], ":", color=GREY, linewidth=1.2)
    for (name, item), colour in zip(shown, (BLUE, ORANGE), strict=False):
        if item.roc is None:
            axes.text(0.5, 0.5, "n/a (a class is missing)", ha="center")
            continue
        area = item.metrics.get("auroc")
        label = f"{name}: n/a" if area is None else f"{name}: AUROC {area:.3f}"
        _curve(axes, item.roc, "fpr", "tpr", colour, label)
        sensitivity, specificity = (item.metrics[key] for key in ("sensitivity", "specificity"))
        if sensitivity is not None and specificity is not None:
            point: dict[str, Any] = {"color": colour, "markeredgecolor": BLACK, "markersize": 9}
            axes.plot([1 - specificity], [sensitivity], "o", **point)
    _unit_square(axes, "1 - specificity (false alarms)", "Sensitivity (found)")
    axes.set_title("ROC curve")
    if axes.get_legend_handles_labels()[1]:
        axes.legend(loc="lower right")
    return described(axes, "ROC curve; the point is the saved threshold")


@mpl.rc_context(STYLE)
def precision_recall(shown: Shown) -> Figure:
    """Draw precision by recall with the bands; the dotted line is the share of images with pneumonia."""
    axes = panel(height=4.0)
    for (name, item), colour in zip(shown, (BLUE, ORANGE), strict=False):
        assert item.pr is not None
        axes.axhline(item.prevalence, color=colour, linestyle=":", linewidth=1.2)
        _curve(axes, item.pr, "recall", "precision", colour, name)
    _unit_square(axes, "Recall (sensitivity)", "Precision (alarms that are right)")
    axes.set_title("Precision and recall")
    axes.legend(loc="lower left")
    return described(axes, "Precision-recall curve; dotted: always answering pneumonia")


@mpl.rc_context(STYLE)
def reliability(name: str, item: Performance, axes: Axes | None = None) -> Figure:
    """Draw observed by predicted share of pneumonia, as saved and, where known, before calibration."""
    axes = axes or panel(height=4.0)
    axes.plot([0, 1], [0, 1], ":", color=GREY, linewidth=1.2)
    if item.uncalibrated and item.scaling != PLAIN:
        _points(axes, item.uncalibrated, GREY, "before calibration", "--")
    _points(axes, item.reliability, BLUE, "as saved", "-")
    _unit_square(axes, "Predicted probability of pneumonia", "Observed share with pneumonia")
    axes.set_title("Do the probabilities hold?")
    axes.legend(loc="lower right")
    return described(axes, f"{name}: reliability diagram, observed by predicted probability")


@mpl.rc_context(STYLE)
def scores(name: str, item: Performance) -> Figure:
    """Draw how many images of each class have which probability, and the saved threshold."""
    assert item.scores is not None
    axes = panel(height=4.0)
    edges = np.arange(SCORE_BINS) / SCORE_BINS
    for counts, colour, label in zip(item.scores, (BLUE, ORANGE), ("normal", "pneumonia"), strict=True):
        axes.bar(edges, counts, 1 / SCORE_BINS, align="edge", color=colour, alpha=0.65, label=label)
    axes.axvline(item.threshold, color=BLACK, linewidth=1.6)
    axes.set(xlim=(0, 1), xlabel="Probability (line: threshold)", ylabel="Images", yscale="symlog")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda count, _: f"{count:,.0f}"))
    axes.set_title("Answers by class (log scale)")
    axes.legend(loc="upper center")
    return described(axes, f"{name}: distribution of the predicted probabilities by class")


@mpl.rc_context(STYLE)
def frequencies(groups: Sequence[tuple[str, float]], label: str) -> Figure:
    """Draw two shares as a hundred dots: right ones blue, wrong ones crosses (Gigerenzer's natural frequencies)."""
    axes = panel(height=2.4, left=0.05, bottom=0.05)
    for (title, share), left in zip(groups, (0.0, 11.5), strict=True):
        right = round(100 * share)
        x, y = np.tile(np.arange(10), 10) + left, 9 - np.repeat(np.arange(10), 10)
        axes.scatter(x[:right], y[:right], s=26, color=BLUE, linewidths=0)
        axes.scatter(x[right:], y[right:], s=30, color=ORANGE, marker="X", linewidths=0)
        axes.text(4.5 + left, 10.4, title, ha="center", fontsize=10)
    axes.set(xlim=(-1, 21.5), ylim=(-1, 11.4), aspect="equal")
    axes.axis("off")
    return described(axes, label)


@mpl.rc_context(STYLE)
def estimates(rows: Sequence[Estimate], title: str, zero: bool, axes: Axes | None = None) -> Figure:
    """Draw estimates with their intervals and seeds, one line each; `zero` marks no difference."""
    shown = rows[:MAX_ROWS]
    names = [printable(row.label, NAME_LENGTH) for row in shown]
    left = min(2.4, 0.3 + 0.075 * max(map(len, names)))
    axes = axes or panel(0.8 + 0.32 * len(shown), left=left, bottom=0.32)
    for place, row in enumerate(shown):
        _estimate(axes, place, row)
    if zero:
        axes.axvline(0, color=GREY, linestyle=":", linewidth=1.4)
    axes.set_yticks(range(len(shown)), names)
    axes.set_ylim(len(shown) - 0.4, -0.6)
    axes.margins(x=0.08)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.grid(axis="y", visible=False)
    axes.set_title(title if len(shown) == len(rows) else f"{title} (first {MAX_ROWS} of {len(rows)})")
    said = "; ".join(
        f"{name} {'n/a' if row.value is None else f'{row.value:.3f}'}"
        for name, row in zip(names, shown, strict=True)
    )
    return described(axes, f"{title}: {said}")


def _estimate(axes: Axes, place: int, row: Estimate) -> None:
    if row.value is None:
        where: Any = ("axes fraction", "data")
        axes.annotate("n/a (a class is missing)", (0.5, place), xycoords=where, ha="center", va="center")
        return
    if row.low is not None and row.high is not None:
        ends = [row.low, row.high]
        axes.plot(ends, [place, place], color=row.colour, linewidth=2.2, solid_capstyle="butt")
    seeds = row.seeds[:MAX_POINTS]
    axes.plot(seeds, [place] * len(seeds), ".", color=row.colour, alpha=0.5, markersize=7)
    axes.plot([row.value], [place], "D", color=ORANGE, markeredgecolor=BLACK, markersize=6)


def _whole_numbers(axes: Axes, values: list[int], label: str) -> None:
    """Make the x axis one of whole numbers such as rounds."""
    axes.set_xlabel(label)
    axes.set_xlim(min(values) - 0.5, max(values) + 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def _limited(points: Any) -> Any:
    if len(points) > MAX_POINTS:
        raise DataError(f"{len(points):,} points are too many to draw; {MAX_POINTS:,} are the most")
    return points


def _curve(axes: Axes, curve: Curve, x: str, y: str, colour: str, label: str) -> None:
    across: Floats = np.asarray(_limited(curve[x]), dtype=np.float64)
    axes.plot(across, np.asarray(curve[y], dtype=np.float64), color=colour, linewidth=2, label=label)
    if curve.get("low") and curve.get("high"):
        low, high = (np.asarray(curve[key], dtype=np.float64) for key in ("low", "high"))
        axes.fill_between(across, low, high, color=colour, alpha=0.18, linewidth=0)


def _points(axes: Axes, points: Sequence[Curve], colour: str, label: str, dashes: str) -> None:
    predicted, observed, images = (
        np.array([point[key] for point in _limited(points)], dtype=np.float64)
        for key in ("predicted", "observed", "n")
    )
    axes.plot(predicted, observed, dashes, color=colour, linewidth=1.6, label=label)
    axes.scatter(predicted, observed, 8 + 90 * images / images.sum(), color=colour, zorder=3)


def _unit_square(axes: Axes, x: str, y: str) -> None:
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal", xlabel=x, ylabel=y)
