"""A site's packed exchange: it holds what the server holds, loses nothing for long, and reads what fits only."""

from typing import Any

import numpy as np
import pytest
import torch
from exchanges import COUNTER, LARGE, SMALL, WEIGHT, arriving, moved, returning, start, two_ends
from hooks import arrays
from nvflare.app_common.abstract.fl_model import FLModel

from pneumonia_fl.errors import AnswerError
from pneumonia_fl.fl.protocol.exchange_codec import digest
from pneumonia_fl.fl.protocol.messages import EXCHANGE
from pneumonia_fl.fl.server.global_models import PackedModels
from pneumonia_fl.fl.site.exchange import LacksReferenceError, PackedExchange, SiteExchange

ROUNDS = 20


def send(server: PackedModels, model: dict[str, Any]) -> tuple[dict[str, Any], FLModel, FLModel | None]:
    received = server.as_received(model)
    return received, *server.messages(received, 0, {})


@pytest.mark.parametrize("form", ["int8", "float16"])
def test_site_and_server_hold_the_same_bits_in_every_round(form: Any) -> None:
    server, site = two_ends(form)
    model = start()
    for number in range(ROUNDS):
        model, message, _ = send(server, model)
        got = site.receive(arriving(message))
        assert digest(arrays(got.params)) == digest(model)
        answer = returning(
            *site.answer({k: torch.as_tensor(v) for k, v in moved(arrays(got.params)).items()})
        )
        model = server.unpack(answer, model)
        assert model[COUNTER] == number + 1
    np.testing.assert_allclose(model[WEIGHT][0, 0], ROUNDS * LARGE, atol=LARGE / 100)


def test_a_small_update_beside_a_large_one_is_carried_over_until_it_counts() -> None:
    """The model moves by what the sites wanted, up to the half steps that the last messages have lost."""
    server, site = two_ends()
    model, wanted = start(), 0.0
    for _ in range(ROUNDS):
        model, message, _ = send(server, model)
        got = arrays(site.receive(arriving(message)).params)
        wanted += SMALL
        model = server.unpack(
            returning(*site.answer({k: torch.as_tensor(v) for k, v in moved(got).items()})), model
        )
    step = LARGE / 127
    assert abs(model[WEIGHT][0, 1] - wanted) <= step + 1e-6
    assert model[WEIGHT][0, 1] >= step / 2, "alone it would still be zero"


def test_a_site_that_was_restarted_or_missed_a_model_asks_for_the_complete_one() -> None:
    server, site = two_ends()
    first, message, complete = send(server, start())
    assert complete is None, "the first one is complete"
    site.receive(arriving(message))
    second, _, _ = send(server, moved(first))
    third, message, complete = send(server, moved(second))
    assert complete is not None
    for one in (site, two_ends()[1]):
        with pytest.raises(LacksReferenceError):
            one.receive(arriving(message))
        assert digest(arrays(one.receive(arriving(complete)).params)) == digest(third)
        fourth, following, _ = send(server, moved(third))
        assert digest(arrays(one.receive(arriving(following)).params)) == digest(fourth)
        third, message, complete = send(server, moved(fourth))
        assert complete is not None


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda one: one.meta.pop(EXCHANGE), "not packed as this job says"),
        (lambda one: one.meta.update({EXCHANGE: "int8"}), "not packed as this job says"),
        (lambda one: one.params["int8"].add_(1), "other numbers than it was sent with"),
        (lambda one: one.params["scales"].fill_(torch.nan), "scales are no numbers"),
        (lambda one: one.params.pop("scales"), "does not have the parts"),
        (lambda one: one.meta[EXCHANGE].update(model="0" * 32), "other numbers than it was sent with"),
    ],
)
def test_what_does_not_fit_is_refused_and_the_held_model_remains(damage: Any, words: str) -> None:
    server, site = two_ends()
    first, message, _ = send(server, start())
    site.receive(arriving(message))
    second, message, _ = send(server, moved(first))
    broken = arriving(message)
    broken.params = {name: value.clone() for name, value in broken.params.items()}
    broken.meta[EXCHANGE] = dict(broken.meta[EXCHANGE])
    damage(broken)
    with pytest.raises(AnswerError, match=words):
        site.receive(broken)
    assert digest(arrays(site.receive(arriving(message)).params)) == digest(second)


def test_a_complete_model_of_another_network_is_refused() -> None:
    server, site = two_ends()
    _, message, _ = send(server, {**start(), "more": np.zeros(2, np.float32)})
    with pytest.raises(AnswerError, match="has more, which this network has not"):
        site.receive(arriving(message))


def test_a_job_of_float32_takes_no_packed_model() -> None:
    server, _ = two_ends()
    _, message, _ = send(server, start())
    with pytest.raises(AnswerError, match="this job exchanges float32"):
        SiteExchange().receive(arriving(message))


def test_a_model_that_diverged_is_not_sent_and_leaves_nothing_behind() -> None:
    server, site = two_ends()
    model, message, _ = send(server, start())
    site.receive(arriving(message))
    trained = {name: torch.as_tensor(value) for name, value in moved(model).items()}
    broken = {**trained, WEIGHT: torch.full((1, 2), torch.nan)}
    with pytest.raises(AnswerError, match="values that are no numbers"):
        site.answer(broken)
    assert isinstance(site, PackedExchange)
    got = server.unpack(returning(*site.answer(trained)), model)
    np.testing.assert_allclose(got[WEIGHT], [[LARGE, 0]])
