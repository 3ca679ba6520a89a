"""Tables for the terminal."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rich.table import Table

from pneumonia_fl import DISCLAIMER

if TYPE_CHECKING:
    from pneumonia_fl.evaluation import Evaluation

COLUMNS = {
    "auroc": "AUROC",
    "sensitivity": "Sensitivity",
    "specificity": "Specificity",
    "accuracy": "Accuracy",
    "loss": "Loss",
}


def rounds_table(metrics: Mapping[str, Any]) -> Table:
    """Validation metrics by round: every site, and global (pooled); the best round is marked."""
    table = Table(title="Validation by round (round 0: the initial model; threshold 0.5)")
    table.add_column("Round", justify="right")
    table.add_column("Site", overflow="fold")
    for title in COLUMNS.values():
        table.add_column(title, justify="right")
    for entry in metrics["rounds"]:
        best = entry["round"] == metrics["best_round"]
        rows = {**dict(sorted(entry["sites"].items())), "global": entry["global"] or {}}
        for name, values in rows.items():
            number = f"{entry['round']}{' ★' if best else ''}" if name == next(iter(rows)) else ""
            style = "bold" if name == "global" else ""
            table.add_row(number, name, *_cells(values), style=style, end_section=name == "global")
    table.caption = "★ best global model, chosen on pooled validation AUROC"
    return table


def _cells(values: Mapping[str, Any]) -> list[str]:
    return [_cell(values.get(key)) for key in COLUMNS]


def evaluation_table(result: "Evaluation") -> Table:
    """One model on one split: AUROC first, accuracy last and beside its floor."""
    metrics = result.metrics
    table = Table(
        title=f"{result.model} on split {result.split}: {metrics.n} images, {result.patients} patients"
    )
    table.add_column("Metric")
    table.add_column("Value", justify="right")
    interval = result.auroc_ci and f"  (95 % CI {result.auroc_ci[0]:.4f}–{result.auroc_ci[1]:.4f})"
    table.add_row("AUROC", f"{_cell(metrics.auroc)}{interval or ''}")
    table.add_row(f"Sensitivity at {result.threshold:.3f}", _cell(metrics.sensitivity))
    table.add_row(f"Specificity at {result.threshold:.3f}", _cell(metrics.specificity))
    for name in ("balanced_accuracy", "brier", "ece", "loss"):
        table.add_row(
            name.replace("_", " ").capitalize().replace("Ece", "ECE"), _cell(getattr(metrics, name))
        )
    table.add_row("Accuracy", f"{_cell(metrics.accuracy)}  (always “pneumonia”: {metrics.floor:.4f})")
    table.caption = f"Threshold chosen on validation data. {DISCLAIMER}"
    return table


def _cell(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.4f}"
