"""The picture of a comparison: every model with its interval, and the paired differences that answer the question."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from pneumonia_fl.errors import DataError
from pneumonia_fl.report.figures.canvas import BLACK, BLUE, GREY, ORANGE, new_figure, save

_COLOURS = {"central": BLACK, "alone": GREY, "federated": BLUE}
_ROLES = {"central": "less central", "best_alone": "less the best site alone"}

Arm = Mapping[str, Any]


def forest(summary: Mapping[str, Any], out: Path) -> Path:
    """Draw `summary.json` of a comparison into the PNG `out`: each arm's AUROC, and the federated ones' differences.

    Raises:
        DataError: no model is trained yet.
        OutputError: `out` cannot be written.
    """
    arms = [arm for arm in summary["arms"] if arm.get("pooled")]
    if not arms:
        raise DataError("the comparison has no trained model yet; run the same command again")
    differences = [
        (f"{arm['name']} {_ROLES[role]}", values["auroc"])
        for arm in arms
        if arm["kind"] == "federated"
        for role, values in arm["differences"].items()
    ]
    figure = new_figure(9.6, 1.9 + 0.42 * max(len(arms), len(differences)))
    left, right = figure.subplots(1, 2)
    test = summary["test"]
    figure.suptitle(
        f"AUROC on {test['n']:,} test images of {test['patients']:,} patients, {len(summary['seeds'])} seeds",
        fontweight="bold",
    )
    _draw(
        left, [(arm["name"], arm["pooled"]["auroc"]) for arm in arms], [_COLOURS[arm["kind"]] for arm in arms]
    )
    left.set_title("Each model (dots: seeds; bar: 95 % CI by patient)", fontsize=10)
    right.axvline(0, color=GREY, linestyle=":", linewidth=1.2)
    _draw(right, differences, [ORANGE] * len(differences))
    right.set_title("Paired differences (right of 0: federated better)", fontsize=10)
    return save(figure, out)


def _draw(axes: Axes, rows: Sequence[tuple[str, Mapping[str, Any] | None]], colours: Sequence[str]) -> None:
    for place, ((_, value), colour) in enumerate(zip(rows, colours, strict=True)):
        if value is None:
            axes.annotate(
                "n/a (a class is missing)", (0.5, place), xycoords=("axes fraction", "data"), va="center"
            )
            continue
        if value["low"] is not None:
            axes.plot([value["low"], value["high"]], [place, place], color=colour, linewidth=2.2)
        seeds = value.get("values", [])
        axes.plot(seeds, [place] * len(seeds), ".", color=colour, alpha=0.5, markersize=7)
        axes.plot([value["mean"]], [place], "D", color=colour, markeredgecolor=BLACK, markersize=6)
    axes.set_yticks(range(len(rows)), [name for name, _ in rows], parse_math=False)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.margins(x=0.08)
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.grid(axis="x", alpha=0.3, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
