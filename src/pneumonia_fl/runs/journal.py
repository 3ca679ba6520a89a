"""The journal of a run: one JSON line per event, written by the server as things happen.

The command line follows it to show progress, and `metrics.json` is made from it, so that nothing is lost when a
run is killed or a tracking server is down. It holds numbers and site names only.
"""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pneumonia_fl.errors import RunError
from pneumonia_fl.files import private
from pneumonia_fl.inputs.json_files import MAX_RECORD_BYTES, parse_json
from pneumonia_fl.inputs.text import printable_values

JOURNAL_NAME = "journal.jsonl"
LOSS_POINTS = 10
"""How many times per round a site reports its training loss."""

Event = dict[str, Any]


class Journal:
    """Appends events to `folder/journal.jsonl`; each line is complete and flushed."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / JOURNAL_NAME

    def write(self, event: str, **values: Any) -> None:
        """Append one event with the time in seconds since the epoch."""
        line = json.dumps({"event": event, "time": round(time.time(), 3), **values}, allow_nan=False)
        with open(self.path, "a", encoding="utf-8", opener=private) as file:
            file.write(line + "\n")


class JournalReader:
    """Reads a growing journal; each call of `new_events` returns what came since the last."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0

    def new_events(self) -> Iterator[Event]:
        """Yield complete new lines; a half-written last line waits for the next call."""
        if not self._path.exists():
            return
        with self._path.open("rb") as file:
            file.seek(self._offset)
            for line in file:
                if not line.endswith(b"\n"):
                    return
                self._offset += len(line)
                try:
                    yield printable_values(parse_json(line, MAX_RECORD_BYTES))
                except ValueError as error:
                    raise RunError(f"{self._path} has a broken line ({error})") from None


def read_journal(path: Path) -> list[Event]:
    """Read all complete events of a journal; empty when there is none."""
    return list(JournalReader(path).new_events())


def summarise_rounds(events: list[Event]) -> dict[str, Any]:
    """Convert events to the content of `metrics.json`.

    The entry of round r has the metrics of the global model after r aggregations (round 0: the initial model), and
    what each site did to train from it. An entry with `averaged` is no round: it is the mean of this many of the last
    global models. `stopped_early` says why there are fewer rounds than planned ("" when there are not), `problems`
    names the answers that did not count, `missing` the sites that never contributed.
    """
    rounds: dict[int, dict[str, Any]] = {}
    sites: set[str] = set()
    best: int | None = None
    for event in events:
        entry = rounds.setdefault(event.get("round", 0), {"global": None, "sites": {}})
        if event["event"] == "site":
            sites.add(event["site"])
            entry["sites"].setdefault(event["site"], {}).update(event["values"])
        elif event["event"] == "global":
            entry["global"] = event["values"]
            if event.get("averaged"):
                entry["averaged"] = event["averaged"]
            best = event["round"] if event["best"] else best
    listed = [{"round": number, **rounds[number]} for number in sorted(rounds) if rounds[number]["sites"]]
    problems = [
        {key: event[key] for key in ("round", "site", "state", "problem")}
        for event in events
        if event["event"] == "problem"
    ]
    missing: list[str] = next((event["missing"] for event in reversed(events) if "missing" in event), [])
    early = next((event["reason"] for event in events if event["event"] == "stopped_early"), "")
    summary = {"rounds": listed, "best_round": best, "sites": sorted(sites), "stopped_early": early}
    return {**summary, "problems": problems, "missing": missing}
