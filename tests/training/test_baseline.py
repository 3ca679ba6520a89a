"""Baselines train like a site does, for as many steps as a federation, and keep their best round."""

import numpy as np
import pytest
import torch

from pneumonia_fl.config.job import JobConfig
from pneumonia_fl.config.sections import Preprocess, TrainConfig
from pneumonia_fl.data.store import ImageSet
from pneumonia_fl.metrics.binary import summarise
from pneumonia_fl.models.architectures import build_model
from pneumonia_fl.training.baseline import federated_steps, train_baseline
from pneumonia_fl.training.local import train_epochs

SIZE = 16
pytestmark = pytest.mark.usefixtures("one_thread")
SETTINGS = JobConfig(
    name="job",
    rounds=3,
    preprocess=Preprocess(size=SIZE),
    train=TrainConfig(batch_size=16, lr=0.005),
).site_settings()


def bright(n: int, share: float = 0.5, seed: int = 0) -> ImageSet:
    """Images of which those of class 1 have a bright half."""
    pixels = np.random.default_rng(seed).integers(0, 120, (n, SIZE, SIZE))
    labels = (np.arange(n) < share * n).astype(np.int64)
    pixels[:, :, : SIZE // 2] += 100 * labels[:, None, None]
    return ImageSet(pixels.astype(np.uint8), labels, [str(i) for i in range(n)], ["unknown"] * n)


def test_a_federated_round_has_the_steps_of_all_its_sites() -> None:
    train = TrainConfig(batch_size=32, local_epochs=3)
    assert federated_steps([32, 33, 1], train) == 3 * (1 + 2 + 1)


@pytest.mark.parametrize("steps", [1, 5, 11])
def test_training_takes_exactly_the_steps_it_is_given(steps: int) -> None:
    seen: list[int] = []
    done = train_epochs(
        build_model(size=SIZE, seed=1),
        bright(40),
        SETTINGS,
        steps=steps,
        on_step=lambda step, loss: seen.append(step),
    )
    assert (done.steps, seen) == (steps, list(range(1, steps + 1)))


def test_the_best_round_is_kept_and_judged_on_validation() -> None:
    areas: list[float | None] = []
    done = train_baseline(
        "central", SETTINGS, bright(64), bright(40, seed=5), 6, lambda number, area: areas.append(area)
    )
    assert (len(areas), done.steps) == (3, 18)
    best = max(area for area in areas if area is not None)
    assert areas[done.round - 1] == best == summarise(done.validation).auroc
    assert best > 0.8


def test_the_same_baseline_twice_is_the_same_model() -> None:
    first, second = (train_baseline("central", SETTINGS, bright(24), bright(12), 2) for _ in range(2))
    assert all(torch.equal(value, second.state[key]) for key, value in first.state.items())
    other = train_baseline("site-1 alone", SETTINGS, bright(24), bright(12), 2)
    assert any(not torch.equal(value, other.state[key]) for key, value in first.state.items())


def test_without_two_classes_to_validate_with_the_last_round_is_kept() -> None:
    done = train_baseline("site", SETTINGS, bright(16), bright(8, share=1.0), 1)
    assert done.round == 3
