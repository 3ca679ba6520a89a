import json
from pathlib import Path
from typing import Any

import pytest

from pneumonia_fl.runs.journal import JOURNAL_NAME, Journal, JournalReader, read_journal, summarise_rounds


def site(number: int, name: str, **values: Any) -> dict[str, Any]:
    return {"event": "site", "round": number, "site": name, "values": values}


def pooled(number: int, best: bool, auroc: float | None = 0.9) -> dict[str, Any]:
    return {"event": "global", "round": number, "best": best, "values": {"auroc": auroc}}


def test_what_is_written_is_read_in_order(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.write("started", rounds=2, sites=["a"])
    journal.write("finished")
    events = read_journal(tmp_path / JOURNAL_NAME)
    assert [event["event"] for event in events] == ["started", "finished"]
    assert events[0]["sites"] == ["a"]
    assert events[0]["time"] > 0


def test_a_number_that_json_does_not_know_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        Journal(tmp_path).write("loss", value=float("nan"))
    assert read_journal(tmp_path / JOURNAL_NAME) == []


def test_there_is_no_journal_yet(tmp_path: Path) -> None:
    assert read_journal(tmp_path / JOURNAL_NAME) == []


def test_each_event_is_read_once(tmp_path: Path) -> None:
    journal, reader = Journal(tmp_path), JournalReader(tmp_path / JOURNAL_NAME)
    assert list(reader.new_events()) == []
    journal.write("started")
    assert [event["event"] for event in reader.new_events()] == ["started"]
    assert list(reader.new_events()) == []
    journal.write("finished")
    assert [event["event"] for event in reader.new_events()] == ["finished"]


def test_a_half_written_line_waits_until_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / JOURNAL_NAME
    line = json.dumps({"event": "site", "site": "Zürich"}, ensure_ascii=False).encode() + b"\n"
    reader = JournalReader(path)
    seen = []
    with path.open("ab", buffering=0) as file:
        for position in range(len(line)):
            file.write(line[position : position + 1])
            seen.append(len(list(reader.new_events())))
    assert seen == [0] * (len(line) - 1) + [1]


def test_what_follows_a_half_written_line_is_not_lost(tmp_path: Path) -> None:
    path = tmp_path / JOURNAL_NAME
    path.write_bytes(b'{"event": "a"}\n{"event"')
    reader = JournalReader(path)
    assert [event["event"] for event in reader.new_events()] == ["a"]
    with path.open("ab") as file:
        file.write(b': "b"}\n{"event": "c"}\n')
    assert [event["event"] for event in reader.new_events()] == ["b", "c"]


def test_a_round_unites_its_sites_and_the_pooled_metrics() -> None:
    summary = summarise_rounds(
        [
            {"event": "started", "rounds": 1, "sites": ["b", "a"]},
            {"event": "round_started", "round": 0, "task": "train"},
            site(0, "b", auroc=0.4, train_loss=0.7),
            {"event": "loss", "site": "a", "step": 1, "value": 0.5},
            site(0, "a", auroc=0.5, train_loss=0.6),
            pooled(0, best=False, auroc=0.45),
            site(1, "a", auroc=0.8),
            site(1, "b", auroc=0.9),
            pooled(1, best=True, auroc=0.85),
            {"event": "finished"},
        ]
    )
    assert summary["sites"] == ["a", "b"]
    assert summary["best_round"] == 1
    assert [entry["round"] for entry in summary["rounds"]] == [0, 1]
    assert summary["rounds"][0]["sites"]["b"] == {"auroc": 0.4, "train_loss": 0.7}
    assert summary["rounds"][1]["global"] == {"auroc": 0.85}


def test_the_latest_best_is_the_best() -> None:
    events = [site(0, "a"), site(1, "a"), site(2, "a"), pooled(1, True), pooled(2, True)]
    assert summarise_rounds(events)["best_round"] == 2


def test_a_run_that_broke_off_keeps_the_round_it_was_in() -> None:
    events = [{"event": "round_started", "round": 0}, site(0, "a", auroc=None)]
    assert summarise_rounds(events) == {
        "rounds": [{"round": 0, "global": None, "sites": {"a": {"auroc": None}}}],
        "best_round": None,
        "sites": ["a"],
        "stopped_early": "",
        "problems": [],
        "missing": [],
    }


def test_problems_and_missing_sites_are_named() -> None:
    problem = {"round": 1, "site": "a", "state": "refused", "problem": "NaN"}
    events = [{"event": "problem", "time": 1.0, **problem}, {"event": "finished", "missing": ["b"]}]
    assert summarise_rounds(events)["problems"] == [problem]
    assert summarise_rounds(events)["missing"] == ["b"]


def test_why_rounds_are_missing_and_what_is_a_mean_is_said() -> None:
    mean = {**pooled(3, best=True), "averaged": 2}
    stop: dict[str, Any] = {
        "event": "stopped_early",
        "round": 2,
        "reason": "stopped early after round 2 of 9",
    }
    events: list[dict[str, Any]] = [site(1, "a"), site(2, "a"), stop, site(3, "a"), mean]
    summary = summarise_rounds(events)
    assert summary["stopped_early"] == "stopped early after round 2 of 9"
    assert [entry.get("averaged") for entry in summary["rounds"]] == [None, None, 2]


def test_a_round_in_which_nothing_came_is_no_round() -> None:
    events = [{"event": "started", "rounds": 1, "sites": ["a"]}, {"event": "round_started", "round": 0}]
    nothing: dict[str, Any] = {
        "rounds": [],
        "best_round": None,
        "sites": [],
        "stopped_early": "",
        "problems": [],
        "missing": [],
    }
    assert summarise_rounds(events) == nothing
    assert summarise_rounds([]) == nothing
