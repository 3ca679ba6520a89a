import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hooks import Hospital, arrays, message, network
from nvflare.app_common.abstract.fl_model import FLModel

from pneumonia_fl.config.algorithm import Algorithm
from pneumonia_fl.fl.algorithms.registry import server_algorithm
from pneumonia_fl.fl.algorithms.scaffold import CHANGE, COUNTED, GLOBAL, LOST, Scaffold, ServerScaffold
from pneumonia_fl.fl.algorithms.weighted_average import weighted_average
from pneumonia_fl.fl.protocol.update_checks import array_bytes
from pneumonia_fl.training.local import RoundContext

pytestmark = pytest.mark.usefixtures("one_thread")

SCAFFOLD = Algorithm(name="scaffold")
TRAINABLE = frozenset(name for name, _ in network().named_parameters())
NAMES = ("a", "b", "c")
Arrays = dict[str, Any]


class Federation:
    """Three sites and a server, which keeps what it must in a `state` that a crash does not take."""

    def __init__(self, folder: Path) -> None:
        self.sites = {name: Hospital(name, SCAFFOLD, folder / name, seed) for seed, name in enumerate(NAMES)}
        self.server = self.new_server()
        self.model = arrays(network().state_dict())
        self.round = 0

    def new_server(self) -> ServerScaffold:
        server = server_algorithm(SCAFFOLD, TRAINABLE)
        assert isinstance(server, ServerScaffold)
        return server

    def sent(self) -> FLModel:
        self.server.begin_round(self.model)
        return message(self.model, self.round, self.server.outgoing(self.round, len(NAMES)))

    def run(self, answering: str = "abc", late: str = "") -> dict[str, FLModel]:
        """One round; `late` sites train, but their answers do not count."""
        sent = self.sent()
        answers = {name: self.sites[name].answer(sent) for name in answering + late}
        for name in answering:
            assert self.server.problem_of(name, answers[name]) == ""
            self.server.accept(name, answers[name])
        average = weighted_average((18, answers[name].params) for name in answering)
        self.model = self.server.update(self.model, average)
        self.round += 1
        return answers

    def restart_server(self) -> None:
        """A job that goes on: another process, with what was saved as safetensors."""
        saved, self.server = self.server.state(), self.new_server()
        self.server.restore({key: np.asarray(value) for key, value in saved.items()})

    def controls(self) -> tuple[Arrays, list[Arrays]]:
        """c as it is sent next, and every c_i as the site begins the next round with it."""
        sent = self.sent()
        own = []
        for site in self.sites.values():
            site.begin(sent)
            assert isinstance(site.algorithm, Scaffold)
            own.append(site.algorithm._helper.c_local.state_dict())
        return sent.meta[GLOBAL], own

    def check(self) -> None:
        control, own = self.controls()
        for name in TRAINABLE:
            mean = sum(values[name].numpy().astype(np.float64) for values in own) / len(NAMES)
            assert np.allclose(control.get(name, 0.0), mean, atol=1e-6), name


@pytest.fixture
def federation(tmp_path: Path) -> Federation:
    return Federation(tmp_path)


def test_steps_and_control_variates_are_those_of_the_paper(federation: Federation) -> None:
    """y = y - lr (g - c_i + c), c_i+ = sum(lr g) / sum(lr) = c_i - c + (x - y) / sum(lr)."""
    federation.run()
    federation.run()
    control, own = federation.controls()
    site, before = federation.sites["b"], own[1]
    assert any(np.abs(control[name] - before[name].numpy()).max() > 1e-3 for name in TRAINABLE)
    site.begin(federation.sent())
    correct = site.algorithm.after_step(site.model)
    assert correct is not None
    received = {name: value.detach().clone() for name, value in site.model.named_parameters()}
    last, gradients, rates = dict(received), dict.fromkeys(TRAINABLE, torch.zeros(())), []

    def spy(rate: float) -> None:
        stepped = {name: value.detach().clone() for name, value in site.model.named_parameters()}
        correct(rate)
        rates.append(rate)
        for name, value in site.model.named_parameters():
            gradients[name] = gradients[name] + (last[name] - stepped[name])  # lr g
            wanted = stepped[name] - rate * (torch.as_tensor(control[name]) - before[name])
            assert torch.allclose(value, wanted, atol=1e-6)
            last[name] = value.detach().clone()

    done = site.fit(site.model, RoundContext("b", 2, 6), after_step=spy)
    assert len(set(rates)) == len(rates) > 1, "the schedule changes the rate in every step"
    change = site.algorithm.end(site.model, done, lambda model, penalty: None)[CHANGE]
    for name in TRAINABLE:
        new = before[name] + torch.as_tensor(change[name])
        assert torch.allclose(new, gradients[name] / sum(rates), atol=1e-5), name
        formula = before[name] - torch.as_tensor(control[name]) + (received[name] - last[name]) / sum(rates)
        assert torch.allclose(new, formula, atol=1e-5), name


def test_the_first_round_is_that_of_fedavg(federation: Federation, tmp_path: Path) -> None:
    plain = Hospital("a", Algorithm(name="fedavg"), tmp_path, 0)
    expected = plain.answer(message(federation.model, 0)).params
    answer = federation.run()["a"].params
    assert all((answer[name] == expected[name]).all() for name in expected)


def test_c_is_the_mean_of_all_control_variates_after_every_round(federation: Federation) -> None:
    federation.check()
    for answering, late in (("abc", ""), ("ab", ""), ("ac", "b"), ("b", "ac"), ("abc", "")):
        federation.run(answering, late)
        federation.check()


def test_it_stays_so_when_trainers_and_server_are_restarted(federation: Federation, tmp_path: Path) -> None:
    through = Federation(tmp_path / "through")
    for answering, late in (("abc", ""), ("ab", "c"), ("bc", ""), ("abc", "")):
        for site in federation.sites.values():
            site.restart()
        federation.restart_server()
        federation.run(answering, late)
        federation.check()
        through.run(answering, late)
    assert all((federation.model[name] == value).all() for name, value in through.model.items())


def test_a_round_that_is_done_again_counts_once(federation: Federation) -> None:
    federation.run()
    saved, model = federation.server.state(), federation.model
    federation.run()
    once = federation.server.outgoing(2, len(NAMES))[GLOBAL]  # the server crashes before it can tell
    federation.server, federation.model, federation.round = federation.new_server(), model, 1
    federation.server.restore(saved)
    federation.check()
    federation.run()
    federation.check()
    assert all((once[name] == value).all() for name, value in federation.controls()[0].items())


def test_when_a_site_has_lost_its_control_variate_all_begin_anew(
    federation: Federation, caplog: pytest.LogCaptureFixture
) -> None:
    federation.run()
    shutil.rmtree(federation.sites["b"].folder)
    federation.sites["b"].restart()
    answers = federation.run()
    assert "lost its control variate" in caplog.text
    assert [answers[name].meta[LOST] for name in NAMES] == [False, True, False]
    control, own = federation.controls()
    assert control == {}
    assert federation.sent().meta[COUNTED] == {}
    assert all(not value.any() for values in own for value in values.values())
    answers = federation.run()
    assert not any(answer.meta[LOST] for answer in answers.values())
    federation.check()
    assert federation.controls()[0].keys() == TRAINABLE


def test_a_site_that_lost_its_control_variate_trains_without_correction(
    federation: Federation, tmp_path: Path
) -> None:
    federation.run()
    shutil.rmtree(federation.sites["b"].folder)
    sent = federation.sent()
    plain = Hospital("b", Algorithm(name="fedavg"), tmp_path, 1).answer(message(federation.model, 1)).params
    answer = federation.sites["b"].answer(sent).params
    assert all((answer[name] == plain[name]).all() for name in plain)


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (lambda change: change.clear(), "are missing"),
        (lambda change: change.update(extra=change["0.weight"]), "unknown parameters: extra"),
        (lambda change: change.update({"6.bias": np.zeros(3, np.float32)}), r"6\.bias has shape \[3\]"),
        (lambda change: change.update({"6.bias": np.full(2, np.nan, np.float32)}), "no numbers"),
        (lambda change: change.update({"6.bias": "zero"}), "6.bias is not an array"),
    ],
)
def test_a_broken_change_is_refused_with_a_reason(federation: Federation, damage: Any, problem: str) -> None:
    answer = federation.sites["a"].answer(federation.sent())
    damage(answer.meta[CHANGE])
    found = federation.server.problem_of("a", answer)
    assert found.startswith("its control variate: ")
    assert re.search(problem, found)


def test_an_answer_without_control_variates_is_refused(federation: Federation) -> None:
    answer = Hospital("a", Algorithm(name="fedavg"), Path(), 0).answer(message(federation.model, 0))
    assert federation.server.problem_of("a", answer) == "its control variate is missing"


def test_control_variates_count_as_bytes(federation: Federation) -> None:
    answer = federation.sites["a"].answer(federation.sent())
    parameters = sum(value.nbytes for value in answer.params.values())
    assert array_bytes(answer.params, answer.meta) == parameters + sum(
        v.nbytes for v in answer.meta[CHANGE].values()
    )
