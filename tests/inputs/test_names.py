"""Names that a person mistyped are answered with the one that was meant."""

import pytest

from pneumonia_fl.inputs.names import did_you_mean

SITES = ["asia-hospital", "europe-hospital", "US-hospital"]


@pytest.mark.parametrize(
    ("word", "hint"),
    [
        ("asia-hospitl", "; did you mean asia-hospital?"),
        ("us-Hospital", "; did you mean US-hospital?"),
        ("eurpoe_hospital", "; did you mean europe-hospital?"),
        ("lead@consortium.org", ""),
        ("", ""),
    ],
)
def test_the_nearest_name_is_offered(word: str, hint: str) -> None:
    assert did_you_mean(word, SITES) == hint


def test_nothing_is_offered_where_nothing_is_known() -> None:
    assert did_you_mean("asia-hospital", iter(())) == ""
