"""Deadlines of tests grow with the machine, and a deadline that is missed tells what was known."""

import ast
from pathlib import Path

import pytest
from faults import Job
from speed import MOST, REFERENCE_SECONDS, factor, scaled

from conftest import ROOT
from federation import SERVER, SITES, Federation, until

FILES = sorted((ROOT / "tests").rglob("*.py"))


@pytest.mark.parametrize(("times", "expected"), [(0.1, 1), (1, 1), (2.5, 2.5), (40, MOST)])
def test_a_slower_machine_gets_more_time_within_limits(times: float, expected: float) -> None:
    assert factor(times * REFERENCE_SECONDS) == expected


def test_the_machine_is_measured_once() -> None:
    assert scaled(10) == scaled(10) >= 10


def fixed(call: ast.AST) -> bool:
    """Whether a call waits for a process no longer than a number of seconds."""
    if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Attribute):
        return False
    waits = ast.unparse(call.func) == "subprocess.run" or call.func.attr in ("communicate", "wait_procs")
    return waits and any(
        word.arg == "timeout" and isinstance(word.value, ast.Constant) for word in call.keywords
    )


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_no_test_waits_for_a_process_without_looking_at_the_machine(file: Path) -> None:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    assert [ast.unparse(call) for call in ast.walk(tree) if fixed(call)] == []


def test_a_missed_deadline_shows_its_evidence() -> None:
    with pytest.raises(AssertionError, match="not within 0 s: rain\na clear sky"):
        until(lambda: False, 0, "rain", lambda: "a clear sky")


def test_a_jobs_evidence_is_its_journal_and_the_errors_of_every_log(tmp_path: Path) -> None:
    job = Job(Federation(tmp_path, tmp_path, 0), "some-job")
    job.folder.mkdir(parents=True)
    (job.folder / "journal.jsonl").write_text('{"event": "round_started", "round": 1}\n')
    for place in (SERVER, f"{SITES[0]}/some-job"):
        (tmp_path / place).mkdir(parents=True, exist_ok=True)
        (tmp_path / place / "log.txt").write_text("x - INFO - well\nx - ERROR - no disk\n")
    shown = job.evidence()
    assert '"round": 1' in shown
    assert shown.count("no disk") == 2
    assert "well" not in shown
