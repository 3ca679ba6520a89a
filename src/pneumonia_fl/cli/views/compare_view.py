"""Display of a comparison: trainings one by one, then the table and its findings."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from rich.table import Table

from pneumonia_fl import DISCLAIMER
from pneumonia_fl.cli.views.fitting import FittingTable
from pneumonia_fl.cli.views.progress_bars import progress_bars
from pneumonia_fl.cli.views.run_view import RunView
from pneumonia_fl.cli.views.terminal import terminal
from pneumonia_fl.metrics.binary import COLUMN_NAMES, COMPARED

if TYPE_CHECKING:
    from pneumonia_fl.experiments.compare.compare_plan import ComparePlan

SHORT = {"sensitivity": "Sens.", "specificity": "Spec.", "balanced_accuracy": "Bal. acc."}
MEASURES = {name: SHORT.get(name, COLUMN_NAMES[name]) for name in COMPARED if name != "auroc"}
DROPPED = ("F1", "Bal. acc.", "ECE", "Brier", "Spec.")
ROLES = {"central": "vs. central (Δ)", "best_alone": "vs. best single site (Δ)"}
SHOWN_SITES = 6


class CompareView:
    """Follows a comparison on the terminal; `quiet` prints nothing."""

    def __init__(self, quiet: bool = False) -> None:
        self._quiet, self._left, self._done = quiet, 0, 0
        self._console = terminal(stderr=True, quiet=quiet)
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        self.progress = self._stack.enter_context(progress_bars(self._quiet))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()
        if kind is KeyboardInterrupt:
            self._say("stopped; run the same command again to train what is missing")

    def planned(self, plan: "ComparePlan", out: Path, left: int, total: int) -> None:
        """Print what will be trained."""
        self._left = left
        arms = ", ".join(arm.name for arm in plan.arms if not arm.skipped)
        self._say(f"compare {arms}; seeds {', '.join(map(str, plan.seeds))}")
        for arm in plan.arms:
            if arm.skipped:
                self._say(f"left out: {arm.name}: {arm.skipped}", "yellow")
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

    def _say(self, text: str, style: str | None = None) -> None:
        self._console.print(text, style=style, soft_wrap=True)


def show_comparison(summary: Mapping[str, Any], out: Path) -> None:
    """Print the tables, what they say, and where everything is."""
    console = terminal()
    for table in (_ranking(summary), _decisions(summary), _by_site(summary)):
        console.print(table)
    for sentence in summary["findings"]:
        console.print(f"• {sentence}", soft_wrap=True)
    for sentence in summary["warnings"]:
        console.print(f"! {sentence}", style="yellow", soft_wrap=True)
    places = {
        "figure": out / "figures" / "comparison.png",
        "numbers": out / "summary.json",
        "raw": out / "comparison.json",
        "report": out / "report.html",
    }
    for name, path in places.items():
        console.print(f"{name + ':':<10}{path}", soft_wrap=True)
    console.print(DISCLAIMER, style="dim")


def _ranking(summary: Mapping[str, Any]) -> Table:
    test, seeds = summary["test"], len(summary["seeds"])
    over = f"mean ± SD over {seeds} seeds" if seeds > 1 else "one seed"
    table = _table(
        f"AUROC on {test['n']:,} test images of {test['patients']:,} patients: {over} (95 % CI by patient)",
        ["AUROC", *ROLES.values()],
        drop=tuple(reversed(ROLES.values())),
    )
    for arm in _trained(summary):
        value = arm["pooled"]["auroc"]
        own = f"{_mean(value)}\n{_range(value)}" if value else "n/a"
        differences = [_difference(arm["differences"].get(role)) for role in ROLES]
        table.add_row(arm["name"], own, *differences, end_section=True)
    table.caption = "The best single site is the one with the highest AUROC on this test split."
    return table


def _decisions(summary: Mapping[str, Any]) -> Table:
    table = _table(
        "At the threshold and calibration fitted on validation data", list(MEASURES.values()), DROPPED
    )
    for arm in _trained(summary):
        values = [arm["pooled"][name] for name in MEASURES]
        table.add_row(arm["name"], *["n/a" if value is None else f"{value['mean']:.3f}" for value in values])
    return table


def _by_site(summary: Mapping[str, Any]) -> Table:
    sites = [site for site in summary["sites"] if site in summary["test"]["sites"]][:SHOWN_SITES]
    table = _table("AUROC on each site's own share of the test", sites, drop=sites[:0:-1])
    for arm in _trained(summary):
        table.add_row(arm["name"], *[_mean(arm["sites"][site]["auroc"], 3) for site in sites])
    more = len(summary["sites"]) - SHOWN_SITES
    counts = ", ".join(
        f"{site} {values['n']:,} images"
        for site, values in list(summary["test"]["sites"].items())[:SHOWN_SITES]
    )
    table.caption = f"n/a: one class only. {counts}" + (f", and {more} more sites" if more > 0 else "")
    return table


def _table(title: str, columns: list[str], drop: Sequence[str]) -> Table:
    table = FittingTable(title=title, drop=drop)
    table.add_column("Model")
    for name in columns:
        table.add_column(name, justify="right")
    return table


def _trained(summary: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [arm for arm in summary["arms"] if arm.get("pooled")]


def _mean(value: Mapping[str, Any] | None, digits: int = 4) -> str:
    if value is None:
        return "n/a"
    sd = "" if value["sd"] is None else f" ± {value['sd']:.{digits}f}"
    return f"{value['mean']:.{digits}f}{sd}"


def _difference(values: Mapping[str, Any] | None) -> str:
    value = values and values["auroc"]
    return f"{value['mean']:+.4f}\n{_range(value, '+')}" if value else ""


def _range(value: Mapping[str, Any], sign: str = "") -> str:
    return "" if value["low"] is None else f"{value['low']:{sign}.4f} to {value['high']:{sign}.4f}"
