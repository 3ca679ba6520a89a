"""The terminal with 3 and with 300 sites: a line each, or a summary and the few that matter."""

import io
from typing import Any

import pytest
from rich.console import Console
from rich.progress import Progress, TextColumn

from pneumonia_fl.cli.views.job_view import _table
from pneumonia_fl.cli.views.site_bars import SiteBars
from pneumonia_fl.cli.views.terminal_tables import matrix_table, rounds_table
from pneumonia_fl.runs.journal import LOSS_POINTS

BEHIND = (("site-005", 1), ("site-001", 2), ("site-006", 2))


def _names(count: int) -> list[str]:
    return [f"site-{number:03d}" for number in range(count)]


def _printed(what: Any) -> str:
    console = Console(file=io.StringIO(), width=160)
    console.print(what)
    return str(console.file.getvalue())  # type: ignore[attr-defined]


def _metrics(sites: int) -> dict[str, Any]:
    def values(area: float) -> dict[str, float]:
        return {**dict.fromkeys(("sensitivity", "specificity", "accuracy", "loss"), 0.5), "auroc": area}

    told = {name: values(0.6 + number / 1000) for number, name in enumerate(_names(sites))}
    return {"rounds": [{"round": 1, "sites": told, "global": values(0.9)}], "best_round": 1}


@pytest.mark.parametrize("sites", [3, 12, 13, 300])
def test_the_table_of_rounds_has_at_most_a_dozen_lines_a_round(sites: int) -> None:
    said = _printed(rounds_table(_metrics(sites)))
    assert said.count("site-") == (sites if sites <= 12 else 0)
    assert ("median of" in said) == (sites > 12)
    if sites == 300:
        assert all(f"{area:.4f}" in said for area in (0.6, 0.7495, 0.899, 0.9))


def test_a_matrix_of_many_sites_is_three_columns() -> None:
    names = _names(100)
    cells = {"best": {name: {"auroc": 0.5 + number / 1000} for number, name in enumerate(names)}}
    said = _printed(matrix_table({"split": "val", "models": ["best"], "sites": names, "cells": cells}))
    assert "site-" not in said
    assert all(f"{area:.4f}" in said for area in (0.5, 0.5495, 0.599))


def test_many_sites_have_one_bar_that_names_who_is_behind() -> None:
    bars = Progress(TextColumn("{task.fields[note]}"), console=Console(file=io.StringIO()))
    sites = SiteBars(bars, _names(300))
    sites.begin("evaluating")
    for number, name in enumerate(_names(10)):
        for _ in range(1 + number % 5):
            sites.trained(name, 0.5)
    sites.done("site-000")
    (task,) = bars.tasks
    assert (task.completed, task.total) == (1, 300)
    behind = ", ".join(f"{name} {points}/{LOSS_POINTS}" for name, points in BEHIND)
    assert task.fields["note"] == f"1 done, 9 training, 290 evaluating ({behind})"


def test_few_sites_have_a_bar_each() -> None:
    bars = Progress(console=Console(file=io.StringIO()))
    sites = SiteBars(bars, _names(12))
    sites.trained("site-003", 0.25)
    assert [task.description.strip() for task in bars.tasks] == _names(12)
    assert bars.tasks[3].fields["note"] == "training loss 0.250"


@pytest.mark.parametrize("count", [12, 300])
def test_a_job_on_many_sites_shows_problems_and_who_is_awaited(count: int) -> None:
    sites: dict[str, Any] = {name: {"state": "answered", "heard": 100.0} for name in _names(count)}
    sites["site-007"] = {"state": "waiting", "heard": 20.0}
    sites["site-009"] = {"state": "refused", "problem": "no model", "heard": 90.0}
    snapshot = {
        "state": "running",
        "rounds": 5,
        "round": 1,
        "now": 120.0,
        "started": 0.0,
        "round_started": 60.0,
    }
    lines = _printed(_table({**snapshot, "sites": sites})).splitlines()
    shown = [line.split()[1] for line in lines if "site-" in line]
    assert len(shown) == 12
    if count == 300:
        assert shown[:2] == ["site-009", "site-007"]
        assert any("298 answered, 1 refused, 1 waiting" in line for line in lines)
