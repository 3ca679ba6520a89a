"""When a job ends before its last round."""

import pytest

from pneumonia_fl.fl.stopping import Patience
from pneumonia_fl.learning import EarlyStopping


def stops_at(aurocs: list[float | None], patience: int, min_delta: float = 0.0) -> int | None:
    """The round whose model was judged when the patience was over; the first value is the initial model's."""
    counted = Patience(EarlyStopping(patience=patience, min_delta=min_delta))
    for number, auroc in enumerate(aurocs):
        counted.note(number, auroc)
        if counted.over():
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
    patience = Patience(EarlyStopping(patience=1))
    patience.note(1, 0.9)
    patience.note(2, 0.8)
    assert patience.words(3, 10) == "stopped early after round 3 of 10: no better model for 1 round"
    patience.note(3, 0.8)
    assert patience.words(4, 10).endswith("no better model for 2 rounds")


def test_a_job_that_goes_on_counts_on() -> None:
    settings = EarlyStopping(patience=2)
    first, second = Patience(settings), Patience(settings)
    for number, auroc in ((1, 0.9), (2, 0.8)):
        first.note(number, auroc)
    second.restore(first.state())
    assert not second.over()
    second.note(3, 0.85)
    assert second.over()
