"""What the algorithms do at the server between two rounds, by hand: FedAvgM, FedAdam, FedYogi; early stopping."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from pneumonia_fl.config.algorithm import Algorithm
from pneumonia_fl.fl.algorithms.registry import server_algorithm
from pneumonia_fl.fl.algorithms.server_base import Parameters, ServerAlgorithm
from pneumonia_fl.fl.algorithms.weighted_average import weighted_average
from pneumonia_fl.fl.state.job_state import JobState
from pneumonia_fl.models.architectures import build_model

OPTIMIZERS = ("fedavgm", "fedadam", "fedyogi")
WEIGHT = frozenset({"weight"})


def algorithm(name: str, trainable: frozenset[str] = WEIGHT, **settings: float) -> ServerAlgorithm:
    return server_algorithm(Algorithm(name=name, **settings), trainable)


def scalar(value: float) -> Parameters:
    return {"weight": np.float64(value)}


def two_rounds(optimizer: ServerAlgorithm) -> list[float]:
    """From 1.0 where the sites' average is 1.5 in the first round, and 0.25 below what was sent in the second."""
    first = optimizer.update(scalar(1.0), scalar(1.5))
    second = optimizer.update(first, scalar(first["weight"] - 0.25))
    return [float(first["weight"]), float(second["weight"])]


def test_fedavgm_by_hand() -> None:
    got = two_rounds(algorithm("fedavgm", server_lr=0.5, momentum=0.9))
    assert got == pytest.approx([1 + 0.5 * 0.5, 1.25 + 0.5 * (0.9 * 0.5 - 0.25)], rel=1e-14)


def test_fedadam_by_hand() -> None:
    lr, tau = 0.1, 0.01
    m1, v1 = 0.1 * 0.5, 0.99 * tau**2 + 0.01 * 0.25
    first = 1 + lr * m1 / (math.sqrt(v1) + tau)
    m2, v2 = 0.9 * m1 - 0.1 * 0.25, 0.99 * v1 + 0.01 * 0.0625
    got = two_rounds(algorithm("fedadam", server_lr=lr, tau=tau))
    assert got == pytest.approx([first, first + lr * m2 / (math.sqrt(v2) + tau)], rel=1e-14)


def test_fedyogi_by_hand() -> None:
    lr, tau = 0.1, 0.2
    m1, v1 = 0.1 * 0.5, tau**2 + 0.01 * 0.25  # the square of delta is above tau²: it rises
    first = 1 + lr * m1 / (math.sqrt(v1) + tau)
    m2, v2 = 0.9 * m1 - 0.1 * 0.25, v1 + 0.01 * 0.0625
    got = two_rounds(algorithm("fedyogi", server_lr=lr, tau=tau))
    assert got == pytest.approx([first, first + lr * m2 / (math.sqrt(v2) + tau)], rel=1e-14)


def test_fedyogis_second_moment_falls_by_the_square_alone() -> None:
    optimizer = algorithm("fedyogi", tau=1.0)
    optimizer.update(scalar(1.0), scalar(1.5))
    assert float(optimizer.state()["v.weight"]) == pytest.approx(1 - 0.01 * 0.25, rel=1e-14)


def test_fedavgm_is_the_step_of_torchs_sgd() -> None:
    weight = torch.tensor([1.0, -2.0], dtype=torch.float64, requires_grad=True)
    reference = torch.optim.SGD([weight], lr=0.3, momentum=0.8, maximize=True)
    optimizer = algorithm("fedavgm", server_lr=0.3, momentum=0.8)
    model: Parameters = {"weight": weight.detach().numpy().copy()}
    for delta in ([0.5, 0.1], [-0.2, 0.3], [0.0, -0.7]):
        weight.grad = torch.tensor(delta, dtype=torch.float64)
        reference.step()
        model = optimizer.update(model, {"weight": model["weight"] + np.array(delta)})
    np.testing.assert_allclose(model["weight"], weight.detach().numpy(), rtol=1e-13)


def federation(seed: int) -> tuple[Parameters, Parameters, frozenset[str]]:
    """A real model, and the average of two sites that have moved from it; statistics and counters included."""
    model = build_model("small_resnet", norm="batch", size=32, seed=seed)
    previous = {name: value.numpy().copy() for name, value in model.state_dict().items()}
    rng = np.random.default_rng(seed)
    sites = [
        (weight, {name: _moved(value, rng, int(weight)) for name, value in previous.items()})
        for weight in (30.0, 70.0)
    ]
    return previous, weighted_average(sites), frozenset(name for name, _ in model.named_parameters())


def _moved(value: np.ndarray, rng: np.random.Generator, steps: int) -> np.ndarray:
    if value.dtype == np.int64:
        return np.asarray(value + steps)
    return np.asarray(value + rng.normal(0, 0.02, value.shape), value.dtype)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_statistics_and_counters_take_the_plain_average(name: str) -> None:
    previous, average, trainable = federation(3)
    model = algorithm(name, trainable, server_lr=0.1).update(previous, average)
    buffers = model.keys() - trainable
    assert {key.rpartition(".")[2] for key in buffers} == {
        "running_mean",
        "running_var",
        "num_batches_tracked",
    }
    assert all(np.array_equal(model[key], average[key]) for key in buffers)
    assert not any(np.array_equal(model[key], average[key]) for key in trainable)
    assert {key: value.dtype for key, value in model.items()} == {
        key: value.dtype for key, value in previous.items()
    }


def test_fedavgm_without_momentum_at_rate_one_is_fedavg() -> None:
    previous, average, trainable = federation(4)
    model = algorithm("fedavgm", trainable, momentum=0.0).update(previous, average)
    for key in trainable:
        np.testing.assert_array_max_ulp(model[key], average[key], 1)
    assert algorithm("fedavg").update(previous, average) is average


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_job_that_goes_on_takes_the_same_steps(name: str, tmp_path: Path) -> None:
    model, average, trainable = federation(5)
    whole = algorithm(name, trainable, server_lr=0.1)
    model = whole.update(model, average)
    resumed = algorithm(name, trainable, server_lr=0.1)
    state = JobState(tmp_path, "a-job")
    state.save(model, None, {}, tmp_path, whole.state())
    resumed.restore(state.load_extra())
    later = federation(6)[1]
    expected, got = whole.update(model, later), resumed.update(model, later)
    assert all(np.array_equal(got[key], expected[key]) for key in expected)
