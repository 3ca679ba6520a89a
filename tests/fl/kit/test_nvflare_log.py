"""Which line of NVFlare's logs is the error that is shown."""

from pathlib import Path

import pytest

from pneumonia_fl.fl.kit.nvflare_log import attempts, first_error, last_error, last_words

TIME = "2026-11-22 10:52:41,811"
FINE = f"{TIME} - Cell - INFO - Register blob CB\n"


@pytest.mark.parametrize(
    ("line", "error"),
    [
        (f"{TIME} - Cell - ERROR - first thing", "first thing"),
        (f"{TIME} - ERROR - one thing - and another", "one thing - and another"),
        (f"{TIME} - Cell - CRITICAL - [identity=a, run=?] - no way", "no way"),
        ("ValueError: not a number", "ValueError: not a number"),
        ("nvflare.apis.fl_exception.NotAuthenticated: who?", "NotAuthenticated: who?"),
        (f"{TIME} - Cell - INFO - ValueError: somebody else's", ""),
    ],
)
def test_an_error_is_told_without_its_time_and_origin(line: str, error: str) -> None:
    assert last_error(f"{FINE}{line}\n{FINE}") == error


def test_the_last_error_of_a_log_is_the_one_that_counts() -> None:
    log = f"{TIME} - Cell - ERROR - first thing\nTraceback\n  File x\nValueError: not a number\n"
    assert last_error(log) == "ValueError: not a number"
    assert last_error(FINE) == ""


def test_the_first_error_of_several_logs_is_the_earliest(tmp_path: Path) -> None:
    for second, place in ((5, "server"), (1, "site-1"), (3, "site-2")):
        (tmp_path / place).mkdir()
        text = f"{FINE}2026-11-23 10:00:0{second},000 - Cell - ERROR - [run=1] - {place}\n"
        (tmp_path / place / "log.txt").write_text(text)
    assert first_error(tmp_path) == "site-1"
    assert first_error(tmp_path / "gone") == ""


def test_what_the_restart_loop_says_is_not_the_last_word() -> None:
    assert last_words("WORKSPACE set to /kits\nnew pid 7\nKilled\nSystem is in trouble\n") == "Killed"
    assert last_words("new pid 7\n") == ""


def test_a_start_that_came_too_early_does_not_count() -> None:
    assert attempts("new pid 7\nRuntimeError: Login failed.\nnew pid 8\nfine\n") == ["8\nfine\n"]
    assert attempts("WORKSPACE set to /kits\n") == []
