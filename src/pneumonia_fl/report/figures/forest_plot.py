"""A comparison's estimates: every model's AUROC and the paired differences, as rows of a chart and as a PNG file."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

from pneumonia_fl.errors import DataError
from pneumonia_fl.report.figures.canvas import BLACK, BLUE, GREY, STYLE, new_figure, save
from pneumonia_fl.report.figures.charts import MAX_ROWS, Estimate, estimates

REFERENCES = {"central": "central training", "best_alone": "the best site alone"}

Arm = Mapping[str, Any]
Statistic = Mapping[str, Any]


@mpl.rc_context(STYLE)
def forest(summary: Mapping[str, Any], out: Path) -> Path:
    """Draw `summary.json` of a comparison into the PNG `out`: each model's AUROC, and the federated ones' differences.

    Raises:
        DataError: no model is trained yet.
        OutputError: `out` cannot be written.
    """
    arms = [arm for arm in summary["arms"] if arm.get("pooled")]
    if not arms:
        raise DataError("the comparison has no trained model yet; run the same command again")
    models, differences = model_estimates(arms), difference_estimates(arms)
    figure = new_figure(9.6, 1.9 + 0.42 * min(MAX_ROWS, max(len(models), len(differences))))
    test, seeds = summary["test"], len(summary["seeds"])
    counted = f"{test['n']:,} test images of {test['patients']:,} patients"
    figure.suptitle(f"AUROC on {counted}, {seeds} seeds", fontweight="bold")
    left, *rest = figure.subplots(1, 2 if differences else 1, squeeze=False)[0]
    estimates(models, "AUROC with 95 % CI (dots: seeds)", zero=False, axes=left)
    for right in rest:
        estimates(differences, "Difference in AUROC", zero=True, axes=right)
    return save(figure, out)


def pooled(arm: Arm, key: str) -> Statistic:
    """Return a measure on all test images; empty where it is not defined."""
    return (arm.get("pooled") or {}).get(key) or {}


def model_estimates(arms: Sequence[Arm]) -> list[Estimate]:
    """Return each model's AUROC for a chart."""
    colours = {"central": BLACK, "alone": GREY}
    return [_estimate(str(arm["name"]), pooled(arm, "auroc"), colours.get(arm["kind"], BLUE)) for arm in arms]


def difference_estimates(arms: Sequence[Arm]) -> list[Estimate]:
    """Return the differences in AUROC between federated models and what they are compared with, for a chart."""
    return [
        _estimate(f"{arm['name']} less {REFERENCES.get(role, role)}", (values or {}).get("auroc") or {})
        for arm in arms
        if arm.get("kind") == "federated"
        for role, values in (arm.get("differences") or {}).items()
    ]


def _estimate(label: str, value: Statistic, colour: str = BLUE) -> Estimate:
    mean, low, high = (value.get(key) for key in ("mean", "low", "high"))
    return Estimate(label.replace(" training", ""), mean, low, high, value.get("values") or (), colour)
