"""Tracking the rounds of a running job: who has answered, who is late, when a round may close, and why a result failed.

Plain Python without NVFlare; `watch` shows it. Results come in threads of their own, and a site that joins late is
added by one: who goes through the sites takes a copy of the list (`_listed`).
"""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

from pneumonia_fl.runs.journal import Journal

State = Literal["waiting", "answered", "late", "failed", "refused"]


@dataclass
class SiteRecord:
    """Server's record of one site."""

    state: State = "waiting"
    accepted_round: int | None = None
    contributions: int = 0
    steps: int = 0
    """Optimiser steps in all accepted rounds."""
    auroc: float | None = None
    heard: float | None = None
    """Seconds since the epoch."""
    problem: str = ""


class RoundTracker:
    """Follows the rounds of one job.

    Args:
        sites: the sites that are expected to take part.
        quorum: how many accepted answers make a round count; 0: all sites'.
        grace: seconds that a round stays open for the others once the quorum has answered.
        clock: seconds; `time.time` but for tests.
    """

    def __init__(
        self, sites: Iterable[str], quorum: int, grace: float, clock: Callable[[], float] = time.time
    ) -> None:
        self.sites = {site: SiteRecord() for site in sorted(sites)}
        self.quorum = quorum or len(self.sites)
        self._grace = grace
        self._clock = clock
        self.number = 0
        self.task, self._in_turns = "", False
        self.opened = self._quorum_since = clock()
        self.last_sign = clock()
        self.first_sign: float | None = None

    def open(self, number: int, task: str, in_turns: bool = False) -> None:
        """Begin a round without any result. `in_turns`: one site after the other, so that none is late."""
        self.number, self.task, self._in_turns = number, task, in_turns
        self.opened = self.last_sign = self._clock()
        for _, record in self._listed():
            record.state, record.problem = "waiting", ""

    def heartbeat(self, site: str) -> None:
        """Record a sign of life of a site."""
        if site in self.sites:
            self.last_sign = self.sites[site].heard = self._clock()
            self.first_sign = self.first_sign or self.last_sign

    def heard_from(self, site: str) -> bool:
        """Return True when the site has given any sign of life in this job."""
        return self._record(site).heard is not None

    def accept(self, site: str, auroc: float | None, steps: int) -> None:
        """Record an accepted result."""
        record = self._record(site)
        self.heartbeat(site)
        record.state, record.auroc, record.problem = "answered", auroc, ""
        record.steps += steps
        if steps:
            record.contributions += 1
            record.accepted_round = self.number
        if len(self.accepted) == self.quorum:
            self._quorum_since = self._clock()

    def acknowledge(self, site: str) -> None:
        """Record a result that trains nothing, whatever its content: the site is no longer waited for."""
        self.accept(site, self._record(site).auroc, 0)

    def excuse(self, site: str, reason: str) -> None:
        """Record a site that may miss the round, and why; it counts as if it had answered."""
        self.accept(site, None, 1)
        self.sites[site].problem = reason

    def reject(self, site: str, state: State, problem: str) -> None:
        """Record a rejected result and its reason; one accepted in this round remains."""
        record = self._record(site)
        if state != "late":
            self.heartbeat(site)
        if record.state != "answered":
            record.state, record.problem = state, problem

    @property
    def accepted(self) -> list[str]:
        """Return the sites whose result is accepted in this round."""
        return self._in_state("answered")

    @property
    def complete(self) -> bool:
        """Return True when enough sites have answered for the round to count."""
        return len(self.accepted) >= self.quorum

    def should_close(self) -> bool:
        """Return True when the round should close before every site has answered."""
        if self.complete:
            return not self._in_turns and self._clock() - self._quorum_since >= self._grace
        return self.cannot_reach_quorum()

    def cannot_reach_quorum(self) -> bool:
        """Return True when the round cannot reach its quorum, whatever the others answer."""
        return len(self.accepted) + len(self.waiting()) < self.quorum

    def silent_seconds(self) -> float:
        """Return the seconds since the last sign of any site."""
        return self._clock() - self.last_sign

    def waiting(self) -> list[str]:
        """Return the sites that have not answered in this round."""
        return self._in_state("waiting")

    def shortfall(self) -> str:
        """Explain why this round does not count."""
        absent = "; ".join(
            f"{site} {record.state}: {record.problem}"
            for site, record in self._listed()
            if record.state not in ("answered", "waiting")
        )
        have = len(self.accepted)
        return f"round {self.number + 1}: {have} of at least {self.quorum} sites contributed; {absent}"

    def missing(self) -> list[str]:
        """Return the sites that never contributed to the model."""
        return [site for site, record in self._listed() if not record.contributions]

    def counts(self) -> dict[str, dict[str, Any]]:
        """Return the counts of sites that a resumed job needs."""
        return {
            site: {key: getattr(record, key) for key in ("accepted_round", "contributions", "steps")}
            for site, record in self._listed()
        }

    def restore(self, counts: dict[str, dict[str, Any]]) -> None:
        """Restore the counts of an earlier part of the same job."""
        for site, values in counts.items():
            for key, value in values.items():
                setattr(self._record(site), key, value)

    def snapshot(self) -> dict[str, Any]:
        """Return the round and its sites for `watch`; times are seconds since the epoch."""
        shown = ("state", "accepted_round", "contributions", "auroc", "heard", "problem")
        return {
            "round": self.number,
            "task": self.task,
            "round_started": self.opened,
            "sites": {site: {key: getattr(record, key) for key in shown} for site, record in self._listed()},
        }

    def _listed(self) -> list[tuple[str, SiteRecord]]:
        return list(self.sites.copy().items())  # a copy is one step; listing pairs is not

    def _record(self, site: str) -> SiteRecord:
        return self.sites.setdefault(site, SiteRecord())

    def _in_state(self, state: State) -> list[str]:
        return [site for site, record in self._listed() if record.state == state]


class SiteProblems:
    """Names every result that does not count: in the tracker, the log and the journal, each once.

    Args:
        tracker: the rounds of the job.
        journal: that of the job.
        warn: writes into the server's log.
    """

    def __init__(self, tracker: RoundTracker, journal: Journal, warn: Callable[[str], None]) -> None:
        self._tracker, self._journal, self._warn = tracker, journal, warn
        self._noted: dict[str, tuple[int, State, str]] = {}

    def reject(self, site: str, state: State, problem: str) -> None:
        """Record that a site's result does not count in this round, and why."""
        self._tracker.reject(site, state, problem)
        self.note(site, state, problem)

    def note(self, site: str, state: State, problem: str) -> None:
        """Write a problem into log and journal; the site's state in this round stays."""
        number = self._tracker.number
        if self._noted.get(site) == (
            number,
            state,
            problem,
        ):  # a site that tries again and again fills no journal
            return
        self._noted[site] = (number, state, problem)
        self._warn(f"round {number + 1}: {site} {state}: {problem}")
        self._journal.write("problem", round=number, site=site, state=state, problem=problem)

    def last(self, site: str) -> str:
        """Return the reason of the site's last rejected result; "" when there is none."""
        return self._noted[site][2] if site in self._noted else ""
