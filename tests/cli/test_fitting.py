"""Tables leave out whole columns; names and numbers are never cut."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from job_metas import meta, result
from rich.table import Table
from run_folders import write_comparison, write_run

from conftest import pneumonia_fl
from pneumonia_fl.cli.kit_commands.services import _table as participants
from pneumonia_fl.cli.views.compare_view import show_comparison
from pneumonia_fl.cli.views.fitting import FittingTable
from pneumonia_fl.cli.views.job_view import jobs_table
from pneumonia_fl.cli.views.terminal import terminal
from pneumonia_fl.cli.views.terminal_tables import matrix_table, rounds_table, sites_table
from pneumonia_fl.evaluation.evaluate import Evaluation
from pneumonia_fl.fl.admin.job_record import record
from pneumonia_fl.runs.folder import RunFolder

SHIPPED = ("asia-hospital", "europe-hospital", "us-hospital")
PEOPLE = ("lead@consortium.org", "lead@europe-hospital.org")
WIDTHS = pytest.mark.parametrize("width", [80, 60])


def shown(table: Table, capsys: pytest.CaptureFixture[str]) -> list[str]:
    terminal().print(table)
    return capsys.readouterr().out.splitlines()


def narrow(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(width))


@WIDTHS
def test_rounds_show_every_site_and_its_auroc(
    width: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    narrow(width, monkeypatch)
    metrics = RunFolder(write_run(tmp_path / "run", sites=SHIPPED, rounds=1, images=20)).metrics()
    lines = shown(rounds_table(metrics), capsys)
    assert max(map(len, lines)) <= width
    for site, values in metrics["rounds"][1]["sites"].items():
        assert any(site in line and f"{values['auroc']:.4f}" in line for line in lines)
    assert "Loss" in " ".join(lines).partition("Not shown in this width: ")[2]


@WIDTHS
def test_jobs_and_kits_show_whole_names(
    width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    narrow(width, monkeypatch)
    jobs = [record(meta("FINISHED:COMPLETED", submitter_name=name, **result())) for name in PEOPLE]
    lines = shown(jobs_table(jobs), capsys)
    entries = [
        {"name": site, "kind": "site", "running": True, "ready": True, "connected": True, "since": 1.8e9}
        | {"pid": 1234567, "port": 8102, "jobs": ["fedavg"]}
        for site in SHIPPED
    ]
    lines += shown(participants(entries), capsys)
    assert max(map(len, lines)) <= width
    for name in (*PEOPLE, *SHIPPED):
        assert any(name in line for line in lines)
    assert any("europe-hospital" in line and "registered" in line for line in lines)


@WIDTHS
def test_comparisons_show_whole_models_and_numbers(
    width: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    narrow(width, monkeypatch)
    folder = write_comparison(tmp_path, sites=SHIPPED)
    summary = json.loads((folder / "summary.json").read_text())
    show_comparison(summary, folder)
    out = capsys.readouterr().out
    for arm in summary["arms"]:
        mean = f"{arm['pooled']['auroc']['mean']:.4f}"
        assert any(arm["name"] in line and mean in line for line in out.splitlines())
    assert max(len(line) for line in out.splitlines() if line[:1] in "│┃┏└") <= width


@WIDTHS
def test_evaluations_at_sites_show_whole_names(
    width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    narrow(width, monkeypatch)
    values = {
        "n": 12,
        "patients": 7,
        "metrics": dict.fromkeys(("auroc", "sensitivity", "specificity"), 0.5),
        "intervals": {"auroc": (0.25, 0.75)},
    }
    found = SimpleNamespace(split="test", sites=dict.fromkeys(SHIPPED, values))
    lines = shown(sites_table(cast(Evaluation, found)), capsys)
    assert max(map(len, lines)) <= width
    assert all(any(site in line and "0.2500–0.7500" in line for line in lines) for site in SHIPPED)
    rows = {model: {site: {"auroc": 0.5} for site in SHIPPED} for model in ("best", *SHIPPED)}
    matrix = shown(
        matrix_table({"split": "val", "sites": SHIPPED, "models": list(rows), "cells": rows}), capsys
    )
    assert all(any(line.split()[:1] == [model] for line in matrix) for model in rows)
    assert any(all(site in line for site in SHIPPED) for line in matrix)


def test_a_piped_list_has_every_column_and_whole_names(tmp_path: Path) -> None:
    name = "azure_pneumonia_network-20261122-160000"
    write_run(tmp_path / name, sites=SHIPPED, rounds=1, images=20)
    env = {"PATH": "/usr/bin:/bin"}
    wide = pneumonia_fl("runs", "--root", tmp_path, env=env).stdout
    assert any(name in line and "finished" in line for line in wide.splitlines())
    assert "Not shown" not in wide
    assert "…" not in wide


def test_what_does_not_fit_at_all_runs_over_the_edge(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    narrow(20, monkeypatch)
    table = FittingTable("Name", "Number", "Other", drop=("Other",))
    table.add_row("n" * 63, "0.1234", "x")
    lines = shown(table, capsys)
    assert any("n" * 63 in line and "0.1234" in line for line in lines)
    assert "Not shown in this width: Other" in " ".join(" ".join(lines).split())
