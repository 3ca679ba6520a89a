"""The report's charts. Colours are those of Okabe and Ito (2008), which colour-blind people tell apart."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter

from pneumonia_fl.metrics.platt import PLAIN
from pneumonia_fl.report.figures.canvas import BLACK, BLUE, GREY, ORANGE, SITE_COLOURS
from pneumonia_fl.report.figures.svg import Svg, panel, style, to_svg, whole_numbers
from pneumonia_fl.report.performance import SCORE_BINS, Curve, Floats, Performance

NAMED_SITES = 12
"""Up to so many sites each has a line of its own look; more are thin grey lines."""
DASHES = ("-", "--", "-.", ":")


def site_look(index: int, sites: int) -> tuple[str, str]:
    """Colour and dashes of a site's line."""
    if sites > NAMED_SITES:
        return GREY, "-"
    return SITE_COLOURS[index % len(SITE_COLOURS)], DASHES[index // len(SITE_COLOURS) % len(DASHES)]


def site_legend(sites: Sequence[str]) -> list[tuple[str, str, str]]:
    """What the colours of `by_round` and `training_loss` mean."""
    if len(sites) > NAMED_SITES:
        return [(GREY, "-", f"each of the {len(sites)} sites")]
    looks = [site_look(index, len(sites)) for index in range(len(sites))]
    return [
        (colour.replace(BLUE, "var(--blue)"), dashes, site)
        for (colour, dashes), site in zip(looks, sites, strict=True)
    ]


def by_round(
    rounds: Sequence[Mapping[str, Any]], sites: Sequence[str], key: str, title: str, best: int | None
) -> Svg:
    """One metric by round: all sites pooled thick, each site thin, the saved model marked."""
    with style():
        figure, axes = panel()
        numbers = [int(entry["round"]) for entry in rounds]
        for index, site in enumerate(sites):
            colour, dashes = site_look(index, len(sites))
            series = [_value(entry["sites"].get(site), key) for entry in rounds]
            axes.plot(
                numbers, series, dashes, color=colour, linewidth=1.3, marker=".", markersize=4, alpha=0.9
            )
        pooled = [_value(entry.get("global"), key) for entry in rounds]
        if not np.isnan(pooled).all():
            axes.plot(numbers, pooled, color=BLACK, linewidth=2.6, marker="o", markersize=4)
        if best in numbers:
            axes.axvline(best, color=GREY, linestyle=":", linewidth=1.2)
            height = pooled[numbers.index(best)]
            axes.plot([best], [height], "*", color=ORANGE, markersize=13, markeredgecolor=BLACK)
        axes.set_title(title)
        whole_numbers(axes, numbers, "Round (0 = untrained)" if 0 in numbers else "Round")
        return to_svg(figure, f"rounds-{key}", f"{title} by round, {len(numbers)} points")


def training_loss(losses: Mapping[str, list[tuple[int, float]]], sites: Sequence[str]) -> Svg:
    """The sites' training loss by their own steps."""
    with style():
        figure, axes = panel()
        for index, site in enumerate(sites):
            points = losses.get(site, [])
            colour, dashes = site_look(index, len(sites))
            axes.plot(
                [step for step, _ in points],
                [loss for _, loss in points],
                dashes,
                color=colour,
                linewidth=1.1,
            )
        axes.set_title("Training loss at the sites")
        axes.set_xlabel("Steps of the site")
        axes.set_ylabel("Cross-entropy, nats")
        return to_svg(figure, "training-loss", "Training loss of each site by step")


def roc(shown: Sequence[tuple[str, Performance]]) -> Svg:
    """ROC curves with their bands; the point is the saved threshold."""
    with style():
        figure, axes = panel(height=4.0)
        axes.plot([0, 1], [0, 1], ":", color=GREY, linewidth=1.2)
        for (name, performance), colour in zip(shown, (BLUE, ORANGE), strict=False):
            assert performance.roc is not None
            _curve(axes, performance.roc, "fpr", "tpr", colour, f"{name}: {_area(performance)}")
            sensitivity, specificity = (performance.metrics[key] for key in ("sensitivity", "specificity"))
            if sensitivity is not None and specificity is not None:
                axes.plot(
                    [1 - specificity], [sensitivity], "o", color=colour, markeredgecolor=BLACK, markersize=9
                )
        _unit_square(axes, "1 - specificity (false alarms)", "Sensitivity (found)")
        axes.set_title("ROC curve")
        axes.legend(loc="lower right")
        return to_svg(figure, "roc", "ROC curve; the point is the saved threshold")


def precision_recall(shown: Sequence[tuple[str, Performance]]) -> Svg:
    """Precision by recall with their bands; the dotted line is the share of images with pneumonia."""
    with style():
        figure, axes = panel(height=4.0)
        for (name, performance), colour in zip(shown, (BLUE, ORANGE), strict=False):
            assert performance.pr is not None
            axes.axhline(performance.prevalence, color=colour, linestyle=":", linewidth=1.2)
            _curve(axes, performance.pr, "recall", "precision", colour, name)
        _unit_square(axes, "Recall (sensitivity)", "Precision (alarms that are right)")
        axes.set_title("Precision and recall")
        axes.legend(loc="lower left")
        return to_svg(figure, "pr", "Precision-recall curve; dotted: always answering pneumonia")


def reliability(performance: Performance, name: str) -> Svg:
    """Observed by predicted share of pneumonia, as saved and, where known, before calibration."""
    with style():
        figure, axes = panel(height=4.0)
        axes.plot([0, 1], [0, 1], ":", color=GREY, linewidth=1.2)
        if performance.uncalibrated and performance.scaling != PLAIN:
            _points(axes, performance.uncalibrated, GREY, "before calibration", "--")
        _points(axes, performance.reliability, BLUE, "as saved", "-")
        _unit_square(axes, "Predicted probability of pneumonia", "Observed share with pneumonia")
        axes.set_title("Do the probabilities hold?")
        axes.legend(loc="lower right")
        return to_svg(figure, f"reliability-{name}", "Reliability diagram: observed by predicted probability")


def scores(performance: Performance, name: str) -> Svg:
    """How many images of each class have which probability, and the saved threshold."""
    assert performance.scores is not None
    with style():
        figure, axes = panel(height=4.0)
        edges = np.arange(SCORE_BINS) / SCORE_BINS
        for counts, colour, label in zip(
            performance.scores, (BLUE, ORANGE), ("normal", "pneumonia"), strict=True
        ):
            axes.bar(edges, counts, 1 / SCORE_BINS, align="edge", color=colour, alpha=0.65, label=label)
        axes.axvline(performance.threshold, color=BLACK, linewidth=1.6)
        axes.set(xlim=(0, 1), xlabel="Probability (line: threshold)", ylabel="Images", yscale="symlog")
        axes.yaxis.set_major_formatter(FuncFormatter(lambda count, _: f"{count:,.0f}"))
        axes.set_title("Answers by class (log scale)")
        axes.legend(loc="upper center")
        return to_svg(figure, f"scores-{name}", "Distribution of the predicted probabilities by class")


def frequencies(groups: Sequence[tuple[str, float]], name: str, label: str) -> Svg:
    """Two shares, each as a hundred dots: right ones blue, wrong ones crosses (Gigerenzer's natural frequencies)."""
    with style():
        figure, axes = panel(height=2.4, left=0.05, bottom=0.05)
        for (title, share), left in zip(groups, (0.0, 11.5), strict=True):
            right = round(100 * share)
            x, y = np.tile(np.arange(10), 10) + left, 9 - np.repeat(np.arange(10), 10)
            axes.scatter(x[:right], y[:right], s=26, color=BLUE, linewidths=0)
            axes.scatter(x[right:], y[right:], s=30, color=ORANGE, marker="X", linewidths=0)
            axes.text(4.5 + left, 10.4, title, ha="center", fontsize=10)
        axes.set(xlim=(-1, 21.5), ylim=(-1, 11.4), aspect="equal")
        axes.axis("off")
        return to_svg(figure, name, label)


def seconds_by_round(rounds: Sequence[Mapping[str, Any]], sites: Sequence[str]) -> Svg:
    """How long each site worked in each round."""
    with style():
        figure, axes = panel()
        # The training that begins with the model of round 0 is the first one.
        numbers = [1 + int(entry["round"]) for entry in rounds]
        for index, site in enumerate(sites):
            colour, dashes = site_look(index, len(sites))
            series = [_value(entry["sites"].get(site), "seconds") for entry in rounds]
            axes.plot(numbers, series, dashes, color=colour, linewidth=1.3, marker=".", markersize=5)
        axes.set_title("Seconds of work by round")
        axes.set_ylim(bottom=0)
        whole_numbers(axes, numbers, "Round of training")
        return to_svg(figure, "seconds", "Seconds that each site worked in each round")


def estimates(
    rows: Sequence[tuple[str, float, float | None, float | None]], name: str, title: str, zero: bool
) -> Svg:
    """Estimates with their intervals, one line each: (label, value, low, high); `zero` marks no difference."""
    with style():
        longest = max(len(row[0]) for row in rows)
        figure, axes = panel(0.8 + 0.32 * len(rows), left=min(2.4, 0.3 + 0.075 * longest), bottom=0.32)
        for place, (_, value, low, high) in enumerate(rows):
            if low is not None and high is not None:
                axes.plot([low, high], [-place, -place], color=BLUE, linewidth=2.2, solid_capstyle="butt")
            axes.plot([value], [-place], "D", color=ORANGE, markeredgecolor=BLACK, markersize=6)
        if zero:
            axes.axvline(0, color=GREY, linestyle=":", linewidth=1.4)
        axes.set_yticks([-place for place in range(len(rows))], [row[0] for row in rows])
        axes.set_ylim(-len(rows) + 0.4, 0.6)
        axes.grid(axis="y", visible=False)
        axes.set_title(title)
        said = "; ".join(f"{label} {value:.3f}" for label, value, _, _ in rows)
        return to_svg(figure, name, f"{title}: {said}")


def _value(values: Mapping[str, Any] | None, key: str) -> float:
    value = (values or {}).get(key)
    return float("nan") if value is None else float(value)


def _curve(axes: Axes, curve: Curve, x: str, y: str, colour: str, label: str) -> None:
    across: Floats = np.asarray(curve[x], dtype=np.float64)
    axes.plot(across, np.asarray(curve[y], dtype=np.float64), color=colour, linewidth=2, label=label)
    if curve.get("low") and curve.get("high"):
        low, high = (np.asarray(curve[key], dtype=np.float64) for key in ("low", "high"))
        axes.fill_between(across, low, high, color=colour, alpha=0.18, linewidth=0)


def _area(performance: Performance) -> str:
    value = performance.metrics.get("auroc")
    return "n/a" if value is None else f"AUROC {value:.3f}"


def _points(axes: Axes, points: Sequence[Curve], colour: str, label: str, dashes: str) -> None:
    predicted, observed, images = (
        np.array([point[key] for point in points], dtype=np.float64) for key in ("predicted", "observed", "n")
    )
    axes.plot(predicted, observed, dashes, color=colour, linewidth=1.6, label=label)
    axes.scatter(predicted, observed, 8 + 90 * images / images.sum(), color=colour, zorder=3)


def _unit_square(axes: Axes, x: str, y: str) -> None:
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal", xlabel=x, ylabel=y)
