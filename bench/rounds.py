"""What a run's records say about where its time went."""

import json
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from pneumonia_fl.runs.folder import RunFolder
from pneumonia_fl.runs.journal import Event

EDGE = 0.1
"""Share of a training at either end in which no other counts as beside it: the times are those of arrival."""


@dataclass(frozen=True)
class Round:
    """One training round; seconds.

    Args:
        begun: the clock when the server sent the model.
        ended: the clock when the next model was sent.
        settling: the exchange of batch norm's statistics.
        trained: for each site the clock when its result had arrived, and its own seconds of training.
    """

    begun: float
    ended: float
    settling: float
    trained: dict[str, tuple[float, float]]

    @property
    def slowest(self) -> float:
        """Return the training of the slowest site."""
        return max(seconds for _, seconds in self.trained.values())

    @property
    def first_training(self) -> float:
        """Return the clock when the first site began to train."""
        return min(arrived - seconds for arrived, seconds in self.trained.values())

    @property
    def at_once(self) -> int:
        """Return how many sites trained at the same time."""
        edges = []
        for arrived, seconds in self.trained.values():
            begun = arrived - seconds
            edges += [(begun + EDGE * seconds, 1), (arrived - EDGE * seconds, -1)]
        now = most = 0
        for _, change in sorted(edges):
            now += change
            most = max(most, now)
        return max(1, most)

    @property
    def training(self) -> float:
        """Return the least time that the trainings take when `at_once` go on: of the slowest, if all do."""
        return max(self.slowest, sum(seconds for _, seconds in self.trained.values()) / self.at_once)

    @property
    def overhead(self) -> float:
        """Return what else the round took, without the exchange of batch norm's statistics."""
        return self.ended - self.begun - self.training - self.settling


def rounds_of(events: list[Event]) -> list[Round]:
    """Return the training rounds of a journal in their order."""
    begins = {event["round"]: event["time"] for event in events if event["event"] == "round_started"}
    end = time_of(events, "finished")
    numbers = [event["round"] for event in events if event.get("task") == "train"]
    return [
        Round(
            begins[number], begins.get(number + 1, end), _settling(events, number), _trained(events, number)
        )
        for number in numbers
    ]


def time_of(events: list[Event], kind: str) -> float:
    """Return the clock of the last event of a kind."""
    return float([event["time"] for event in events if event["event"] == kind][-1])


def later_overhead(rounds: list[Round]) -> float:
    """Return the median overhead of the rounds after the first, in which sites start up."""
    return median(each.overhead for each in rounds[1:] or rounds)


def _settling(events: list[Event], number: int) -> float:
    times = {
        event["event"]: event["time"]
        for event in events
        if event["event"] in ("settling", "settled") and event["round"] == number
    }
    return float(times["settled"] - times["settling"]) if len(times) == 2 else 0.0


def _trained(events: list[Event], number: int) -> dict[str, tuple[float, float]]:
    return {
        event["site"]: (event["time"], event["values"]["seconds"])
        for event in events
        if event["event"] == "site" and event["round"] == number and "seconds" in event["values"]
    }


def milestones(out: Path, begun: float, ended: float) -> list[tuple[str, float]]:
    """Return what a run's wall time went to, in order, as seconds; together they are the time of the command.

    Args:
        out: the run folder.
        begun: the clock when the command was started.
        ended: the clock when it had ended.
    """
    run = RunFolder(out)
    events, state = run.events(), run.state()
    rounds = rounds_of(events)
    points = [
        ("command: arguments, checks, run folder", state["started"]),
        ("until the server sends round 1", rounds[0].begun),
        ("until the first site trains", rounds[0].first_training),
        ("rounds", rounds[-1].ended),
        ("final evaluation", time_of(events, "finished")),
        ("records closed", time_of(events, "closed")),
        ("models saved, workspace removed", state["finished"]),
        *_files(run, state),
        ("exit", ended),
    ]
    times = [begun, *(time for _, time in points)]
    return [(name, time - before) for (name, time), before in zip(points, times, strict=False)]


def _files(run: RunFolder, state: dict[str, Any]) -> list[tuple[str, float]]:
    """Return when figures, report and MLflow's records were last written, in the order in which they were."""
    written = {"figures": run.curves, "report": run.report, "MLflow": run.mlflow_db}
    times = {name: file.stat().st_mtime for name, file in written.items() if file.exists()}
    # A file that was complete before its time is no part of the end.
    return sorted(
        ((name, time) for name, time in times.items() if time > state["finished"]), key=lambda pair: pair[1]
    )


def auroc_of(out: Path) -> float | None:
    """Return the pooled AUROC of a run's last model."""
    metrics = json.loads((out / "metrics.json").read_text(encoding="utf-8"))
    values = metrics["rounds"][-1]["global"]
    return None if values is None else values["auroc"]
