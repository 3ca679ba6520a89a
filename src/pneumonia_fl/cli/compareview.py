"""What the user sees of a comparison: trainings one by one, then the table and what it says."""

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from rich.console import Console
from rich.table import Table

from pneumonia_fl import DISCLAIMER
from pneumonia_fl.cli.live import RunView
from pneumonia_fl.cli.progress import progress_bars

if TYPE_CHECKING:
    from pneumonia_fl.fl.compare.plan import ComparePlan

MEASURES = {
    "auroc": "AUROC",
    "sensitivity": "Sens.",
    "specificity": "Spec.",
    "f1": "F1",
    "balanced_accuracy": "Bal. acc.",
    "brier": "Brier",
    "ece": "ECE",
}
ROLES = {"central": "− central", "best_alone": "− best alone"}


class CompareView:
    """Follows a comparison on the terminal; `quiet` prints nothing."""

    def __init__(self, quiet: bool = False) -> None:
        self._quiet, self._left, self._done = quiet, 0, 0
        self._console = Console(stderr=True, quiet=quiet)
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        self.progress = self._stack.enter_context(progress_bars(self._quiet))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def planned(self, plan: "ComparePlan", out: Path, left: int, total: int) -> None:
        """Say what will be trained."""
        self._left = left
        arms = ", ".join(arm.name for arm in plan.arms if not arm.skipped)
        self._say(f"[bold]compare[/bold] {arms}; seeds {', '.join(map(str, plan.seeds))}")
        for arm in plan.arms:
            if arm.skipped:
                self._say(f"[yellow]left out: {arm.name}: {arm.skipped}[/yellow]")
        self._say(f"comparison: {out}   {left} of {total} trainings to do")

    @contextlib.contextmanager
    def federated(self, label: str) -> Iterator[RunView]:
        """Show a federated run as `run` does; bars of two kinds do not live together."""
        self._stack.close()
        with RunView(self._quiet) as view:
            yield view
        self.progress = self._stack.enter_context(progress_bars(self._quiet))

    def trained(self, label: str, auroc: float | None) -> None:
        """Count it."""
        self._done += 1
        area = "n/a" if auroc is None else f"{auroc:.4f}"
        self._say(f"{label}: validation AUROC {area}   ({self._done} of {self._left})")

    def _say(self, text: str) -> None:
        self._console.print(text, highlight=False, soft_wrap=True)


def show_comparison(summary: Mapping[str, Any], out: Path) -> None:
    """Print the table, what it says, and where everything is."""
    console = Console()
    console.print(_table(summary))
    for sentence in summary["findings"]:
        console.print(f"• {sentence}", highlight=False, soft_wrap=True)
    for sentence in summary["warnings"]:
        console.print(f"[yellow]! {sentence}[/yellow]", highlight=False, soft_wrap=True)
    places = {
        "figure": out / "figures" / "comparison.png",
        "numbers": out / "summary.json",
        "raw": out / "comparison.json",
    }
    for name, path in places.items():
        console.print(f"{name + ':':<10}{path}", soft_wrap=True, highlight=False)
    console.print(f"report:   pneumonia-fl report {out}", soft_wrap=True, highlight=False)
    console.print(f"[dim]{DISCLAIMER}[/dim]")


def _table(summary: Mapping[str, Any]) -> Table:
    test = summary["test"]
    table = Table(
        title=f"{test['n']} test images of {test['patients']} patients; mean ± SD over "
        f"{len(summary['seeds'])} seeds, below it the 95 % CI by patient"
    )
    table.add_column("Model", overflow="fold")
    for title in (*MEASURES.values(), *(f"AUROC {role}" for role in ROLES.values())):
        table.add_column(title, justify="right")
    for arm in summary["arms"]:
        if not arm.get("pooled"):
            table.add_row(arm["name"], *["" for _ in (*MEASURES, *ROLES)])
            continue
        cells = [_cell(arm["pooled"][name]) for name in MEASURES]
        differences = [_difference(arm["differences"].get(role)) for role in ROLES]
        table.add_row(arm["name"], *cells, *differences, end_section=True)
    table.caption = (
        "Threshold and temperature fitted on validation data; the best site alone is the best on this test."
    )
    return table


def _cell(value: Mapping[str, Any] | None) -> str:
    if value is None:
        return "n/a"
    sd = "" if value["sd"] is None else f" ± {value['sd']:.3f}"
    return f"{value['mean']:.3f}{sd}\n{_range(value)}"


def _difference(values: Mapping[str, Any] | None) -> str:
    value = values and values["auroc"]
    return f"{value['mean']:+.4f}\n{_range(value, 4)}" if value else ""


def _range(value: Mapping[str, Any], digits: int = 3) -> str:
    return "" if value["low"] is None else f"{value['low']:.{digits}f}–{value['high']:.{digits}f}"
