"""FedNova: sites count by their images; what they share beyond the model."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hooks import Hospital, arrays, message, network, noise
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from pneumonia_fl.config.algorithm import Algorithm
from pneumonia_fl.config.sections import TrainConfig
from pneumonia_fl.data.store import ImageSet
from pneumonia_fl.fl.algorithms.fednova import (
    CLASS_COUNTS,
    SECOND_MOMENTS,
    STEPS,
    ServerFedNova,
    update_factor,
)
from pneumonia_fl.fl.algorithms.registry import server_algorithm
from pneumonia_fl.fl.algorithms.weighted_average import weighted_average
from pneumonia_fl.fl.protocol.update_checks import array_bytes
from pneumonia_fl.fl.state.job_state import JobState
from pneumonia_fl.training.shared_statistics import SharedStatistics, second_moments

pytestmark = pytest.mark.usefixtures("one_thread")

FEDNOVA = Algorithm(name="fednova")
TRAINABLE = frozenset(name for name, _ in network().named_parameters())
ADAM = TrainConfig(lr=0.01, batch_size=8, local_epochs=2)
SGD = TrainConfig(optimizer="sgd", momentum=0, lr=0.05, batch_size=8, local_epochs=2)
SIZES = {"a": 6, "b": 40, "normals": 12}
START = arrays(network().state_dict())


def images(name: str) -> ImageSet:
    data = noise(SIZES[name], seed=1)
    labels = np.zeros_like(data.labels) if name == "normals" else np.arange(SIZES[name]) % 2
    return ImageSet(data.images, labels.astype(np.int64), data.patients, data.subtypes)


class Federation:
    """Sites of different sizes, one of them with normals only."""

    def __init__(self, folder: Path, names: tuple[str, ...], train: TrainConfig) -> None:
        self.sites = {
            name: Hospital(name, FEDNOVA, folder / name, 1, train=train, data=images(name)) for name in names
        }
        self.server, self.model, self.round = server(), START, 0

    def run(self) -> dict[str, Any]:
        self.server.begin_round(self.model)
        sent = message(self.model, self.round, self.server.outgoing(self.round, len(self.sites)))
        answers = {name: site.answer(sent) for name, site in self.sites.items()}
        for name, answer in answers.items():
            assert self.server.problem_of(name, answer) == ""
            self.server.accept(name, answer)
        counted = [(answer.meta["NUM_STEPS_CURRENT_ROUND"], answer.params) for answer in answers.values()]
        self.before, self.average = self.model, weighted_average(counted)
        self.model = self.server.update(self.model, self.average)
        self.round += 1
        return answers


def server() -> ServerFedNova:
    made = server_algorithm(FEDNOVA, TRAINABLE)
    assert isinstance(made, ServerFedNova)
    return made


def factors(sites: list[tuple[float, int]]) -> list[float]:
    """By how much each site's update counts."""
    return [update_factor(sites) * images / steps for images, steps in sites]


def batch_norms(model: nn.Module) -> list[bool]:
    return [module.training for module in model.modules() if isinstance(module, _BatchNorm)]


def test_factors_are_those_of_the_paper() -> None:
    """p = 0.1, 0.9; tau = 2, 10; tau_eff = 9.2: so 0.1 * 9.2 / 2 and 0.9 * 9.2 / 10."""
    assert factors([(10, 2), (90, 10)]) == pytest.approx([0.46, 0.828], rel=1e-14)
    assert factors([(30, 5), (70, 5)]) == pytest.approx([0.3, 0.7], rel=1e-14), "FedAvg's with equal steps"


@pytest.mark.parametrize("train", [SGD, ADAM], ids=["sgd", "adamw"])
def test_weights_take_the_normalised_and_buffers_the_plain_average(
    train: TrainConfig, tmp_path: Path
) -> None:
    federation = Federation(tmp_path, ("a", "b"), train)
    answers = federation.run()
    steps = {name: answer.meta[STEPS] for name, answer in answers.items()}
    assert steps == {"a": 2 * 1, "b": 2 * 5}
    share = {"a": 6 / 46, "b": 40 / 46}
    effective = sum(share[name] * steps[name] for name in steps)
    for key, value in federation.model.items():
        start = federation.before[key].astype(np.float64)
        wanted = start + sum(
            effective * share[name] / steps[name] * (answers[name].params[key] - start) for name in answers
        )
        if key in TRAINABLE:
            np.testing.assert_allclose(value, wanted, rtol=1e-6, atol=1e-8)
            assert value.dtype == np.float32
        else:
            np.testing.assert_array_equal(value, federation.average[key])


def test_from_the_second_round_all_sites_divide_by_the_same_second_moments(tmp_path: Path) -> None:
    federation = Federation(tmp_path, ("a", "b"), ADAM)
    answers = federation.run()
    sent = federation.server.outgoing(1, 2)
    assert sent[CLASS_COUNTS] == [23, 23]
    for name in TRAINABLE:
        mean = sum(SIZES[site] / 46 * answers[site].meta[SECOND_MOMENTS][name] for site in answers)
        np.testing.assert_allclose(sent[SECOND_MOMENTS][name], mean, rtol=1e-5)
    site = federation.sites["a"]
    site.begin(message(federation.model, 1, sent))
    optimizer = torch.optim.AdamW(site.model.parameters())
    shared = site.algorithm.shared_statistics()
    assert shared is not None
    shared.apply_to(site.model, optimizer, one_class=False)
    entered = second_moments(site.model, optimizer)
    for name in TRAINABLE:
        np.testing.assert_allclose(entered[name], sent[SECOND_MOMENTS][name], rtol=1e-3)


def test_the_loss_weighs_classes_as_central_training_does(tmp_path: Path) -> None:
    """A site whose own classes are in balance gives pneumonia little weight where it abounds elsewhere."""
    site = Hospital("b", FEDNOVA, tmp_path, 1, train=ADAM, data=images("b"))
    margins = []
    for classes in ([20, 20], [30, 3000]):
        site.restart()
        site.answer(message(START, 1, {CLASS_COUNTS: classes, SECOND_MOMENTS: {}}))
        site.model.eval()
        logits = site.model(torch.from_numpy(images("b").images).unsqueeze(1) / 255.0)
        margins.append(float((logits[:, 1] - logits[:, 0]).mean().detach()))
    assert margins[1] < margins[0] - 0.1


def test_a_site_with_one_class_keeps_the_received_statistics(tmp_path: Path) -> None:
    federation = Federation(tmp_path, ("b", "normals"), ADAM)
    federation.run()
    answers = federation.run()
    statistics = [key for key in START if "running" in key]
    assert statistics
    for key in statistics:
        np.testing.assert_array_equal(answers["normals"].params[key], federation.before[key])
        assert not np.array_equal(answers["b"].params[key], federation.before[key])
    model = network().train()
    SharedStatistics((1, 1), {}).apply_to(model, torch.optim.SGD(model.parameters()), one_class=False)
    assert all(batch_norms(model))


def test_in_the_first_round_a_site_with_one_class_does_not_count_while_others_have_both(
    tmp_path: Path,
) -> None:
    both, one = (
        Federation(tmp_path / "both", ("b", "normals"), ADAM),
        Federation(tmp_path / "one", ("normals",), ADAM),
    )
    answers = both.run()
    factor = factors([(2 * 40, 10), (2 * 12, 4)])[0]
    for key in TRAINABLE:
        wanted = START[key] + factor * (answers["b"].params[key] - START[key].astype(np.float64))
        np.testing.assert_allclose(both.model[key], wanted, rtol=1e-5, atol=1e-7)
    second = both.run()["normals"].params
    assert any(not np.array_equal(second[key], both.before[key]) for key in TRAINABLE)
    one.run()
    assert any(not np.array_equal(one.model[key], START[key]) for key in TRAINABLE), "it is all there is"


def test_a_restarted_site_begins_with_everyones_second_moments(tmp_path: Path) -> None:
    federation = Federation(tmp_path, ("a", "b"), ADAM)
    federation.run()
    site = federation.sites["a"]
    site.restart()
    squares = federation.server.outgoing(1, 2)[SECOND_MOMENTS]
    answers = federation.run()
    decay = 0.999 ** answers["a"].meta[STEPS]
    for name in TRAINABLE:
        assert (answers["a"].meta[SECOND_MOMENTS][name] >= 0.999 * decay * squares[name]).all()
        assert np.abs(answers["a"].params[name] - federation.before[name]).max() > 0


def test_a_job_that_goes_on_sends_the_same(tmp_path: Path) -> None:
    federation = Federation(tmp_path, ("a", "b", "normals"), ADAM)
    federation.run()
    state, resumed = JobState(tmp_path, "a-job"), server()
    state.save(federation.model, None, {}, tmp_path, federation.server.state())
    resumed.restore(state.load_extra())
    expected, got = federation.server.outgoing(1, 3), resumed.outgoing(1, 3)
    assert got[CLASS_COUNTS] == expected[CLASS_COUNTS] == [35, 23]
    assert all(
        np.array_equal(got[SECOND_MOMENTS][name], expected[SECOND_MOMENTS][name]) for name in TRAINABLE
    )


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        (STEPS, 0, "number of steps is out of range"),
        (STEPS, True, "number of steps is out of range"),
        (STEPS, None, "number of steps is out of range"),
        (CLASS_COUNTS, [1], "class counts are invalid"),
        (CLASS_COUNTS, [1, -1], "class counts"),
        (CLASS_COUNTS, [1, 10**9], "class counts"),
        (CLASS_COUNTS, "12", "class counts"),
        (SECOND_MOMENTS, None, "second moments are missing"),
        (SECOND_MOMENTS, {"0.weight": np.zeros(3, np.float32)}, "parameters are missing"),
        (SECOND_MOMENTS, "negative", "some are negative"),
        (SECOND_MOMENTS, "nan", "no numbers"),
    ],
)
def test_a_result_with_extras_out_of_range_is_refused(
    key: str, value: Any, words: str, tmp_path: Path
) -> None:
    federation = Federation(tmp_path, ("a", "b"), ADAM)
    answer = federation.run()["a"]
    if value in ("negative", "nan"):
        squares = {name: array.copy() for name, array in answer.meta[SECOND_MOMENTS].items()}
        squares["0.weight"][0] = -1 if value == "negative" else np.nan
        value = squares
    answer.meta[key] = value
    with pytest.raises(AssertionError, match=words):
        assert not federation.server.problem_of("a", answer), federation.server.problem_of("a", answer)


def test_bytes_of_the_second_moments_are_counted(tmp_path: Path) -> None:
    answer = Federation(tmp_path, ("a", "b"), ADAM).run()["a"]
    squares = sum(value.nbytes for value in answer.meta[SECOND_MOMENTS].values())
    assert squares == sum(START[name].nbytes for name in TRAINABLE)
    parameters = sum(value.nbytes for value in answer.params.values())
    assert array_bytes(answer.params, answer.meta) == squares + parameters


def test_second_moments_are_without_bias() -> None:
    """After two steps with gradients 1 and 3 the biased one is beta2 (1 - beta2) + 9 (1 - beta2)."""
    model = nn.Linear(1, 1, bias=False)
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.75))
    for gradient in (1.0, 3.0):
        model.weight.grad = torch.full((1, 1), gradient)
        optimizer.step()
    wanted = (0.75 * 0.25 * 1 + 0.25 * 9) / (1 - 0.75**2)
    assert second_moments(model, optimizer)["weight"].item() == pytest.approx(wanted, rel=1e-6)
    assert second_moments(model, torch.optim.SGD(model.parameters())) == {}
