"""The audit log: what others say never becomes a line or a field of its own, in NVFlare's own lines neither."""

import errno
import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nvflare.fuel.sec import audit
from nvflare.fuel.sec.audit import Auditor, AuditService

from pneumonia_fl.fl.parent.audit_lines import MOST_MESSAGE, AuditFiles, Entry, clean
from pneumonia_fl.fl.parent.audit_log import CleanAuditor, Peer, install, on_behalf_of, tell_refusal

SECOND_LINE = "x\n[E:1][T:2026-11-25 12:00:00.000000][U:lead-it@consortium.org][A:login]"
SEPARATORS = ("\n", "\r", "\x0b", "\x0c", "\x1c", "\x1d", "\x1e", "\x85", "\u2028", "\u2029")


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The audit log of a process in which NVFlare has been told to write through ours."""
    monkeypatch.setattr(audit, "Auditor", Auditor)
    monkeypatch.setattr(AuditService, "the_auditor", None)
    install()
    AuditService.initialize(str(tmp_path / "audit.log"))
    yield tmp_path / "audit.log"
    AuditService.close()


class FullDisk(AuditFiles):
    """Files that nothing can be appended to."""

    def write(self, entry: Entry) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def records(log: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in log.with_suffix(".jsonl").read_text().splitlines()]


def test_nvflares_own_lines_hold_one_event_each(log: Path) -> None:
    event = AuditService.add_event(user=SECOND_LINE, action=SECOND_LINE, ref=SECOND_LINE, msg=SECOND_LINE)
    (line,) = log.read_text().splitlines()
    assert line.startswith(f"[E:{event}][R:x (E:1)(T:")
    assert [line.count(f"[{letter}:") for letter in "ERTUA"] == [1, 1, 1, 1, 1]
    (record,) = records(log)
    assert (record["event"], record["user"]) == (event, clean(SECOND_LINE))


def test_the_lines_of_a_job_as_well(log: Path) -> None:
    AuditService.add_job_event("job\n[U:a]", "scope", "train", "1", msg="done]")
    (line,) = log.read_text().splitlines()
    assert "[S:scope][J:job (U:a)][A:train#1]done)" in line


def test_an_auditor_that_a_job_process_has_already(log: Path, tmp_path: Path) -> None:
    AuditService.the_auditor = Auditor(str(tmp_path / "job.log"))
    install()
    assert isinstance(AuditService.get_auditor(), CleanAuditor)
    AuditService.add_event(user="a\nb", action="x")
    assert "[U:a b][A:x]" in (tmp_path / "job.log").read_text()


def test_both_files_are_their_owners_alone(log: Path) -> None:
    assert {stat.S_IMODE(file.stat().st_mode) for file in (log, log.with_suffix(".jsonl"))} == {0o600}


def test_a_refusal_is_told_once_in_a_while(log: Path) -> None:
    for _ in range(3):
        tell_refusal("evil\n[E:1]", "sys.shell\u2028", "not from here\x1b]0;")
    (line,) = log.read_text().splitlines()
    assert line.endswith("[U:evil (E:1)][A:sys.shell]refused: not from here )0;")
    tell_refusal("", "sys.shell", "another reason")
    assert "[U:?][A:sys.shell]" in log.read_text()


def test_a_line_names_the_connection(log: Path) -> None:
    with on_behalf_of(Peer("admin_1", "lead@consortium.org")):
        AuditService.add_event(user="?", action="_cert_login")
    AuditService.add_event(user="", action="later")
    first, later = records(log)
    assert (first["endpoint"], first["certificate"]) == ("admin_1", "lead@consortium.org")
    assert first["user"] == "lead@consortium.org"
    assert "certificate" not in later


def test_no_refusal_is_lost_with_an_error_when_nothing_can_be_written(
    log: Path, caplog: pytest.LogCaptureFixture
) -> None:
    AuditService.get_auditor().audit_file = FullDisk(log)
    tell_refusal("somebody", "sys.shell", "no right to do so")
    assert "No space left" in caplog.text
    assert "no right to do so" in caplog.text


@given(st.text(max_size=3000))
def test_any_text_is_one_bounded_line_without_fields(text: str) -> None:
    line = Entry(text, user=text, message=text, ref=text, scope=text, job=text).text()
    assert line.isprintable()
    assert line.count("[") == line.count("]") <= 7
    assert len(clean(text, MOST_MESSAGE)) <= MOST_MESSAGE


@pytest.mark.parametrize("separator", SEPARATORS)
def test_separators_of_lines(separator: str) -> None:
    assert clean(f"a{separator}b") == "a b"
