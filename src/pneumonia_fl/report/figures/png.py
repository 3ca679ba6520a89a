"""Figures of a run: learning curves, ROC curve, calibration; pictures of the data come from `report.sheets`.

Colours are those of Okabe and Ito (2008), which colour-blind people and grey printers tell apart.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from pneumonia_fl.errors import DataError
from pneumonia_fl.metrics.binary import BINS, LIMIT, ScoreHistogram, summarise
from pneumonia_fl.metrics.platt import WIDTH
from pneumonia_fl.report.figures.canvas import BLACK, BLUE, GREY, ORANGE, SITE_COLOURS, new_figure, save
from pneumonia_fl.report.figures.contact_sheet import class_balance, contact_sheet, contact_sheet_all

__all__ = ["class_balance", "contact_sheet", "contact_sheet_all", "learning_curves", "roc_and_calibration"]

_PANELS = (
    ("auroc", "AUROC"),
    ("loss", "Loss (cross-entropy, nats)"),
    ("sensitivity", "Sensitivity"),
    ("specificity", "Specificity"),
)
_CALIBRATION_BINS = 10
# Beyond this many sites a legend entry for each says nothing any more.
_NAMED_SITES = 12

Floats = NDArray[np.float64]


def learning_curves(metrics: Mapping[str, Any], out: Path) -> Path:
    """Draw a run's `metrics.json` into the PNG `out`: pooled metrics thick, sites thin, best round marked.

    Missing values leave gaps. Everything was measured on validation data.

    Raises:
        DataError: there is no round to draw.
        OutputError: `out` cannot be written.
    """
    entries = metrics["rounds"]
    if not entries:
        raise DataError("the run has no finished round to draw; see its logs")
    figure = new_figure(9.6, 7.0)
    figure.suptitle("Validation metrics of the global model by round", fontweight="bold")
    for axes, (key, title) in zip(figure.subplots(2, 2).flat, _PANELS, strict=True):
        _draw_panel(axes, metrics, key)
        axes.set_title(title, fontsize=11)
    figure.legend(handles=_legend(metrics), loc="outside right upper", frameon=False, fontsize=9)
    return save(figure, out)


def roc_and_calibration(hist: ScoreHistogram, out: Path) -> Path:
    """Draw a histogram's ROC curve and reliability diagram into the PNG `out`.

    Raises:
        DataError: the histogram is empty.
        OutputError: `out` cannot be written.
    """
    values = summarise(hist)
    figure = new_figure(9.6, 5.0)
    left, right = figure.subplots(1, 2)
    area = "n/a (a class is missing)" if values.auroc is None else f"{values.auroc:.3f}"
    counted = f"{values.n:,} images, {values.positives:,} with pneumonia"
    figure.suptitle(f"AUROC {area} – {counted}", fontweight="bold")
    _draw_roc(left, hist)
    _draw_reliability(right, hist)
    right.set_title(f"Calibration – ECE {values.ece:.3f}, Brier {values.brier:.3f}", fontsize=11)
    return save(figure, out)


def _draw_panel(axes: Axes, metrics: Mapping[str, Any], key: str) -> None:
    rounds = [entry["round"] for entry in metrics["rounds"]]
    for index, site in enumerate(metrics["sites"]):
        series = [_value(entry["sites"].get(site), key) for entry in metrics["rounds"]]
        axes.plot(rounds, series, **_site_style(index))
    pooled = [_value(entry.get("global"), key) for entry in metrics["rounds"]]
    axes.plot(rounds, pooled, color=BLACK, linewidth=2.6, marker="o", markersize=4.5)
    best = metrics.get("best_round")
    if best is not None and best in rounds:
        axes.axvline(best, color=GREY, linestyle=":", linewidth=1.2)
        axes.plot(
            [best], [pooled[rounds.index(best)]], "*", color=ORANGE, markersize=15, markeredgecolor=BLACK
        )
    _dress_panel(axes, rounds)


def _dress_panel(axes: Axes, rounds: list[int]) -> None:
    axes.set_xlabel("Round (0 = initial model)" if 0 in rounds else "Round")
    axes.set_xlim(min(rounds) - 0.5, max(rounds) + 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.grid(alpha=0.3, linewidth=0.6)


def _site_style(index: int) -> dict[str, Any]:
    colour = SITE_COLOURS[index % len(SITE_COLOURS)]
    dashes = ("-", "--", "-.", ":")[index // len(SITE_COLOURS) % 4]
    return {
        "color": colour,
        "linestyle": dashes,
        "linewidth": 1.1,
        "marker": ".",
        "markersize": 4,
        "alpha": 0.9,
    }


def _legend(metrics: Mapping[str, Any]) -> list[Line2D]:
    lines = [Line2D([], [], color=BLACK, linewidth=2.6, marker="o", markersize=4.5, label="all sites pooled")]
    if metrics.get("best_round") is not None:
        best = f"best round: {metrics['best_round']}"
        style: dict[str, Any] = {"color": ORANGE, "markeredgecolor": BLACK, "linestyle": ":"}
        lines.append(Line2D([], [], marker="*", markersize=11, label=best, **style))
    sites = metrics["sites"]
    lines += [Line2D([], [], label=site, **_site_style(i)) for i, site in enumerate(sites[:_NAMED_SITES])]
    if len(sites) > _NAMED_SITES:
        lines.append(Line2D([], [], linestyle="", label=f"… and {len(sites) - _NAMED_SITES} more sites"))
    return lines


def _value(values: Mapping[str, Any] | None, key: str) -> float:
    value = (values or {}).get(key)
    return float("nan") if value is None else float(value)


def _draw_roc(axes: Axes, hist: ScoreHistogram) -> None:
    axes.plot([0, 1], [0, 1], color=GREY, linestyle=":", linewidth=1.2)
    if hist.counts.sum(1).all():
        above = np.cumsum(hist.counts[:, ::-1], axis=1) / hist.counts.sum(1, keepdims=True)
        false, true = np.concatenate([np.zeros((2, 1)), above], axis=1)
        axes.plot(false, true, color=BLUE, linewidth=2.2)
        # The upper half of the margin bins are the images with P(pneumonia) >= 0.5.
        axes.plot(false[BINS // 2], true[BINS // 2], "o", color=ORANGE, markeredgecolor=BLACK, markersize=9)
        axes.annotate(
            "threshold 0.5", (false[BINS // 2], true[BINS // 2]), (12, -14), textcoords="offset points"
        )
    axes.set(
        xlabel="1 – specificity", ylabel="Sensitivity", xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal"
    )
    axes.set_title("ROC curve", fontsize=11)
    axes.grid(alpha=0.3, linewidth=0.6)


def _draw_reliability(axes: Axes, hist: ScoreHistogram) -> None:
    predicted, observed, share = _reliability(hist)
    axes.plot([0, 1], [0, 1], color=GREY, linestyle=":", linewidth=1.2)
    edges = np.linspace(0, 1, _CALIBRATION_BINS, endpoint=False)
    axes.bar(
        edges, share, 1 / _CALIBRATION_BINS, align="edge", color=GREY, alpha=0.3, label="share of images"
    )
    axes.plot(predicted, observed, color=BLUE, marker="o", linewidth=1.6, label="observed")
    axes.set(xlabel="Predicted probability of pneumonia", ylabel="Observed share with pneumonia")
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
    axes.legend(loc="upper left", frameon=False, fontsize=9)
    axes.grid(alpha=0.3, linewidth=0.6)


def _reliability(hist: ScoreHistogram) -> tuple[Floats, Floats, Floats]:
    """Mean prediction and pneumonia share of the bins that hold images, and each bin's share of all."""
    p = 1.0 / (1.0 + np.exp(LIMIT - WIDTH * (np.arange(BINS) + 0.5)))
    place = np.minimum((p * _CALIBRATION_BINS).astype(int), _CALIBRATION_BINS - 1)
    images = hist.counts.sum(0)
    total, ill, expected = (
        np.bincount(place, weights=weights, minlength=_CALIBRATION_BINS)
        for weights in (images, hist.counts[1], images * p)
    )
    used = total > 0
    return expected[used] / total[used], ill[used] / total[used], total / total.sum()
