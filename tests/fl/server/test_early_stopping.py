"""When a job ends before its last round."""

from pathlib import Path

import numpy as np
import pytest
from servers import Surroundings, begun

from pneumonia_fl.config import algorithm as learning
from pneumonia_fl.fl.admin.job_record import record
from pneumonia_fl.fl.admin.job_status import position
from pneumonia_fl.fl.admin.watch import ending
from pneumonia_fl.fl.protocol.messages import RESULT_KEY
from pneumonia_fl.fl.server.controller import PooledFedAvg
from pneumonia_fl.fl.server.early_stopping import EarlyStopping


def stops_at(aurocs: list[float | None], patience: int, min_delta: float = 0.0) -> int | None:
    """The round whose model was judged when the patience was over; the first value is the initial model's."""
    counted = EarlyStopping(learning.EarlyStopping(patience=patience, min_delta=min_delta))
    for number, auroc in enumerate(aurocs):
        counted.note(number, auroc)
        if counted.should_stop():
            return number
    return None


@pytest.mark.parametrize(
    ("aurocs", "patience", "min_delta", "stop"),
    [
        ([0.5, 0.8, 0.9, 0.85, 0.89], 2, 0.0, 4),
        ([0.5, 0.8, 0.9, 0.85, 0.91, 0.9, 0.9], 2, 0.0, 6),
        ([0.5, 0.9, 0.9], 1, 0.0, 2),  # as good is not better
        ([0.5, 0.8, 0.805, 0.81], 2, 0.01, 3),  # what counts is the sum of small steps
        ([0.5, 0.8, 0.805, 0.811], 2, 0.01, None),
        ([0.99, 0.6, 0.7, 0.8], 1, 0.0, None),  # the initial model does not count
        ([0.5, 0.8, 0.7, 0.6, 0.5], 0, 0.0, None),  # patience 0: never
        ([None] * 9, 1, 0.0, None),  # one class only: nothing is known
        ([0.5, 0.8, None, None, 0.7], 1, 0.0, 4),
    ],
)
def test_it_ends_after_so_many_rounds_without_a_better_model(
    aurocs: list[float | None], patience: int, min_delta: float, stop: int | None
) -> None:
    assert stops_at(aurocs, patience, min_delta) == stop


def test_the_reason_is_said_in_words() -> None:
    stopping = EarlyStopping(learning.EarlyStopping(patience=1))
    stopping.note(1, 0.9)
    stopping.note(2, 0.8)
    assert stopping.reason(3, 10) == "stopped early after round 3 of 10: no better model for 1 round"
    stopping.note(3, 0.8)
    assert stopping.reason(4, 10).endswith("no better model for 2 rounds")


def test_a_job_that_goes_on_counts_on() -> None:
    settings = learning.EarlyStopping(patience=2)
    first, second = EarlyStopping(settings), EarlyStopping(settings)
    for number, auroc in ((1, 0.9), (2, 0.8)):
        first.note(number, auroc)
    second.restore(first.state())
    assert not second.should_stop()
    second.note(3, 0.85)
    assert second.should_stop()


def test_who_watches_is_told() -> None:
    words = "stopped early after round 3 of 9: no better model for 2 rounds"
    assert position({"state": "finished", "stopped_early": words}) == words
    meta = {"job_id": "a-job", "status": "FINISHED:COMPLETED"}
    ended = ending(record({**meta, RESULT_KEY: {"state": "finished", "stopped_early": words}}), lambda: "")
    assert (ended.how, ended.reason) == ("complete", words)


class Server:
    """A controller between two rounds."""

    def __init__(self, kit: Path, job: str, resume_from: str = "") -> None:
        settings = {"algorithm": {"average_last": 2}, "early_stopping": {"patience": 1}}
        self.controller = PooledFedAvg(num_rounds=9, resume_from=resume_from, **settings)  # type: ignore[arg-type]
        self.around = Surroundings(self.controller, kit, job=job)

    def begin(self) -> "Server":
        self.job = begun(self.controller)
        if self.controller.resume_from:
            self.controller._first_model()
        return self

    def round(self, number: int, auroc: float) -> None:
        """The model of round `number` is judged, the next one kept."""
        self.controller._stopping.note(number, auroc)
        self.job.progress.done = number + 1
        self.controller._resume.checkpoint({"weight": np.float64(number + 1)})

    def kept(self) -> list[float]:
        return [float(model["weight"]) for model in self.job.state.kept()]


def test_a_job_that_goes_on_trains_what_is_left(tmp_path: Path) -> None:
    first = Server(tmp_path, "first").begin()
    for number, auroc in ((0, 0.5), (1, 0.8), (2, 0.9)):
        first.round(number, auroc)
    second = Server(tmp_path, "second", resume_from="first").begin()
    assert (second.job.progress.start_round, second.job.progress.done) == (3, 3)
    assert not second.controller._stops_early()
    second.round(3, 0.85)
    assert second.controller._stops_early()
    assert second.kept() == [3, 4]


def test_a_job_that_was_about_to_stop_trains_no_further(tmp_path: Path) -> None:
    first = Server(tmp_path, "first").begin()
    for number, auroc in ((1, 0.8), (2, 0.7)):
        first.round(number, auroc)
    second = Server(tmp_path, "second", resume_from="first")
    second.controller.run()
    assert {task for task, _, _ in second.around.sent} == {"validate"}
    stopped = second.controller.job.snapshot()["stopped_early"]
    assert stopped.startswith("stopped early after round 3 of 9")
