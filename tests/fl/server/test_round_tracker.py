"""Tracking the rounds of a job: quorum, grace, who is named and why."""

import threading
from pathlib import Path

import pytest

from pneumonia_fl.fl.server.tasks.round_tracker import RoundTracker, SiteProblems
from pneumonia_fl.runs.journal import Journal, read_journal

SITES = ("asia", "europe", "us")


class Clock:
    """Seconds that pass when the test says so."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def tracker(clock: Clock, quorum: int = 2, grace: float = 10) -> RoundTracker:
    made = RoundTracker(SITES, quorum, grace, clock)
    made.open(0, "train")
    return made


def test_a_round_waits_for_the_others_until_the_grace_is_over(clock: Clock) -> None:
    rounds = tracker(clock)
    rounds.accept("asia", 0.9, 5)
    assert not rounds.should_close()
    clock.now += 50
    rounds.accept("us", 0.8, 5)
    assert rounds.complete
    assert not rounds.should_close()
    clock.now += 9.9
    assert not rounds.should_close()
    clock.now += 0.2
    assert rounds.should_close()
    assert rounds.waiting() == ["europe"]


def test_the_grace_begins_with_the_quorum_and_not_with_later_answers(clock: Clock) -> None:
    rounds = tracker(clock, quorum=1)
    rounds.accept("asia", 0.9, 5)
    clock.now += 9
    rounds.accept("us", 0.9, 5)
    clock.now += 2
    assert rounds.should_close()


def test_without_a_quorum_all_sites_must_answer(clock: Clock) -> None:
    rounds = tracker(clock, quorum=0, grace=0)
    rounds.accept("asia", 0.9, 5)
    rounds.accept("us", 0.9, 5)
    assert not rounds.complete
    assert not rounds.should_close()
    rounds.accept("europe", None, 5)
    assert rounds.complete


def test_a_round_that_cannot_reach_its_quorum_closes_at_once(clock: Clock) -> None:
    rounds = tracker(clock, quorum=2)
    rounds.reject("asia", "failed", "out of memory")
    assert not rounds.should_close()
    rounds.reject("us", "refused", "NaN")
    assert rounds.should_close()
    assert not rounds.complete
    assert rounds.shortfall() == (
        "round 1: 0 of at least 2 sites contributed; asia failed: out of memory; us refused: NaN"
    )


def test_an_answer_that_does_not_count_is_no_contribution(clock: Clock) -> None:
    rounds = tracker(clock)
    rounds.accept("asia", 0.9, 5)
    rounds.reject("us", "refused", "NaN")
    assert rounds.accepted == ["asia"]
    assert rounds.missing() == ["europe", "us"]
    assert rounds.snapshot()["sites"]["us"]["problem"] == "NaN"


def test_an_evaluation_is_no_contribution(clock: Clock) -> None:
    rounds = tracker(clock)
    rounds.accept("asia", 0.9, 0)
    assert rounds.missing() == ["asia", "europe", "us"]
    assert rounds.snapshot()["sites"]["asia"]["accepted_round"] is None


def test_a_new_round_forgets_the_old_ones_problems_but_not_its_contributions(clock: Clock) -> None:
    rounds = tracker(clock)
    rounds.accept("asia", 0.9, 5)
    rounds.reject("us", "late", "no answer in time")
    rounds.open(1, "train")
    assert rounds.waiting() == list(SITES)
    assert rounds.snapshot()["sites"]["us"]["problem"] == ""
    assert rounds.snapshot()["sites"]["asia"]["contributions"] == 1
    rounds.accept("asia", 0.95, 7)
    assert rounds.sites["asia"].steps == 12
    assert rounds.snapshot()["sites"]["asia"]["accepted_round"] == 1


def test_silence_is_counted_from_the_last_sign_of_any_site(clock: Clock) -> None:
    rounds = tracker(clock)
    clock.now += 30
    assert rounds.silent_seconds() == 30
    rounds.heartbeat("us")
    clock.now += 5
    assert rounds.silent_seconds() == 5
    assert rounds.snapshot()["sites"]["us"]["heard"] == 130.0


def test_a_stranger_is_not_heard(clock: Clock) -> None:
    rounds = tracker(clock)
    clock.now += 30
    rounds.heartbeat("")
    assert rounds.silent_seconds() == 30
    assert list(rounds.snapshot()["sites"]) == list(SITES)


def test_a_job_that_goes_on_takes_its_counts_along(clock: Clock) -> None:
    earlier, later = tracker(clock), tracker(clock)
    earlier.accept("asia", 0.9, 40)
    later.restore(earlier.counts())
    assert later.missing() == ["europe", "us"]
    assert later.sites["asia"].steps == 40
    assert later.snapshot()["sites"]["asia"]["accepted_round"] == 0


def test_an_answer_that_has_counted_is_not_taken_back(clock: Clock) -> None:
    rounds = tracker(clock)
    rounds.accept("asia", 0.9, 5)
    rounds.reject("asia", "refused", "came again, and broken")
    assert rounds.accepted == ["asia"]


def test_a_site_that_joins_while_the_tracker_is_read_breaks_nothing(clock: Clock) -> None:
    rounds, done = tracker(clock), threading.Event()

    def join() -> None:
        for number in range(3000):
            rounds.accept(f"late-{number}", None, 1)
        done.set()

    thread = threading.Thread(target=join)
    thread.start()
    while not done.is_set():
        rounds.waiting(), rounds.snapshot(), rounds.counts(), rounds.missing(), rounds.shortfall()
    thread.join()
    assert len(rounds.accepted) == 3000


def test_a_site_that_is_late_has_given_no_sign_of_life(clock: Clock) -> None:
    rounds = tracker(clock)
    clock.now += 30
    rounds.reject("us", "late", "no answer in time")
    assert not rounds.heard_from("us")
    assert rounds.silent_seconds() == 30
    rounds.reject("us", "failed", "no data")
    assert rounds.heard_from("us")


def test_the_first_sign_is_when_the_first_trainer_is_up(clock: Clock) -> None:
    rounds = tracker(clock)
    assert rounds.first_sign is None
    clock.now += 20
    rounds.heartbeat("asia")
    clock.now += 20
    rounds.heartbeat("us")
    assert rounds.first_sign == 120.0


def test_a_result_for_which_nothing_was_trained_leaves_metrics_and_counts(clock: Clock) -> None:
    rounds = tracker(clock)
    rounds.accept("asia", 0.9, 5)
    rounds.open(0, "settle")
    rounds.acknowledge("asia")
    assert rounds.accepted == ["asia"]
    assert rounds.snapshot()["sites"]["asia"] == {
        "state": "answered", "accepted_round": 0, "contributions": 1, "auroc": 0.9, "heard": 100.0, "problem": ""
    }  # fmt: skip


def test_a_problem_is_named_once_per_round_in_log_and_journal(clock: Clock, tmp_path: Path) -> None:
    rounds, journal, log = tracker(clock), Journal(tmp_path), list[str]()
    problems = SiteProblems(rounds, journal, log.append)
    for _ in range(3):
        problems.reject("us", "refused", "NaN")
    rounds.open(1, "train")
    problems.note("us", "late", "answered after the round had closed")
    assert log == ["round 1: us refused: NaN", "round 2: us late: answered after the round had closed"]
    written = [(event["round"], event["state"]) for event in read_journal(journal.path)]
    assert written == [(0, "refused"), (1, "late")]
    assert rounds.waiting() == list(SITES), "a note leaves the state of the round"
    assert (problems.last("us"), problems.last("asia")) == ("answered after the round had closed", "")
