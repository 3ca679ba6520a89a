import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pneumonia_fl.config.job import JobConfig, SiteSettings
from pneumonia_fl.config.sections import AugmentConfig, Preprocess, TrainConfig
from pneumonia_fl.config.strict import parse
from pneumonia_fl.data.store import ImageSet
from pneumonia_fl.errors import DataError, SiteError
from pneumonia_fl.evaluation.scoring import evaluate
from pneumonia_fl.metrics.binary import summarise
from pneumonia_fl.training.augment import _grid, augment
from pneumonia_fl.training.local import (
    OptimizerState,
    RoundContext,
    class_weights,
    learning_rate,
    train_epochs,
)

SIZE = 16
SPEC = Preprocess(size=SIZE)
PLAIN = AugmentConfig(rotate=0, translate=0, scale=0, contrast=0, brightness=0, gamma=0, sharpness=0, noise=0)
FIRST = RoundContext()
EVERYTHING = AugmentConfig(flip=True)
pytestmark = pytest.mark.usefixtures("one_thread")


def network() -> nn.Sequential:
    """A small network with batch norm and dropout, the same at every call."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return nn.Sequential(
            nn.Conv2d(1, 8, 3, 2, 1, bias=False),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.AdaptiveMaxPool2d(4),
            nn.Flatten(),
            nn.Dropout(0.1),
            nn.Linear(128, 2),
        )


def spots(n: int, share: float = 0.5, seed: int = 0) -> ImageSet:
    """Noise, with a bright spot somewhere in each image of class 1: learnable in a few steps."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(80, 100, (n, SIZE, SIZE))
    labels = (np.arange(n) < share * n).astype(np.int64)
    for image, label in zip(pixels, labels, strict=True):
        x, y = rng.integers(0, SIZE - 5, 2)
        image[y : y + 5, x : x + 5] += 120 * int(label)
    return ImageSet(pixels.astype(np.uint8), labels, [str(i) for i in range(n)], ["unknown"] * n)


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in model.state_dict().items()}


def settings_of(augmentation: AugmentConfig, **train: Any) -> SiteSettings:
    values = {"name": "job", "preprocess": SPEC, "augment": augmentation, "train": train}
    return parse(JobConfig, values, "the test").site_settings()


def trained(
    data: ImageSet, context: RoundContext = FIRST, augmentation: AugmentConfig = EVERYTHING, **settings: Any
) -> nn.Module:
    model = network()
    train_epochs(model, data, settings_of(augmentation, **settings), context=context)
    return model


def same(first: nn.Module, second: nn.Module) -> bool:
    other = second.state_dict()
    return all(torch.equal(value, other[key]) for key, value in first.state_dict().items())


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_training_learns_what_the_images_show(optimizer: str) -> None:
    model = network()
    settings = settings_of(
        PLAIN, local_epochs=10, lr=0.02 if optimizer == "adamw" else 0.1, optimizer=optimizer
    )
    train_epochs(model, spots(96), settings)
    auroc = summarise(evaluate(model, spots(64, seed=9), SPEC)).auroc
    assert auroc is not None
    assert auroc > 0.95


def test_equal_seeds_give_bitwise_equal_weights() -> None:
    assert same(trained(spots(40)), trained(spots(40)))


@pytest.mark.parametrize(
    "other", [{"seed": 8}, {"context": RoundContext("b", 0, 3)}, {"context": RoundContext("a", 1, 3)}]
)
def test_seed_site_and_round_each_choose_another_random_stream(other: dict[str, Any]) -> None:
    usual: dict[str, Any] = {"context": RoundContext("a", 0, 3), "schedule": "constant", "warmup": 0}
    assert not same(trained(spots(40), **usual), trained(spots(40), **(usual | other)))


def test_the_global_random_stream_is_left_alone() -> None:
    before = torch.get_rng_state()
    trained(spots(8))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(("n", "steps"), [(1, 1), (2, 1), (32, 1), (33, 2), (65, 3)])
def test_no_batch_is_too_small_for_batch_norm_and_every_image_counts(n: int, steps: int) -> None:
    sizes: list[int] = []
    model = network()
    model.register_forward_hook(lambda _model, inputs, _output: sizes.append(len(inputs[0])))
    result = train_epochs(model, spots(n), settings_of(EVERYTHING, batch_size=32))
    assert (result.samples, result.steps) == (n, steps)
    assert min(sizes) >= 2
    assert sum(sizes) == max(n, 2)
    assert 0 <= result.accuracy <= 1
    assert result.seconds > 0


def test_samples_and_steps_count_all_local_epochs() -> None:
    seen: list[tuple[int, float]] = []
    result = train_epochs(
        network(),
        spots(40),
        settings_of(PLAIN, local_epochs=3),
        on_step=lambda step, loss: seen.append((step, loss)),
    )
    assert (result.samples, result.steps) == (120, 6)
    assert [step for step, _ in seen] == [1, 2, 3, 4, 5, 6]
    assert result.loss == pytest.approx(np.mean([loss for _, loss in seen]))


def test_the_optimiser_goes_on_with_its_moments_where_it_is_given_them() -> None:
    def two_rounds(optimizer_state: OptimizerState | None) -> nn.Module:
        model = network()
        for number in range(2):
            train_epochs(
                model,
                spots(64),
                settings_of(PLAIN),
                context=RoundContext("a", number, 2),
                optimizer_state=optimizer_state,
            )
        return model

    optimizer_state: OptimizerState = {}
    going_on, anew = two_rounds(optimizer_state), two_rounds(None)
    assert {float(state["step"]) for state in optimizer_state["state"].values()} == {4.0}
    assert not same(going_on, anew)
    assert same(going_on, two_rounds({}))


def test_an_empty_training_split_is_an_error_that_names_the_site() -> None:
    with pytest.raises(DataError, match="north: no training images"):
        trained(spots(0), context=RoundContext("north"))


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_a_site_with_one_class_trains_without_weights(share: float) -> None:
    data = spots(12, share)
    assert class_weights(np.bincount(data.labels, minlength=2), True) == (1.0, 1.0)
    assert all(torch.isfinite(value).all() for value in trained(data).state_dict().values())


def test_class_weights_let_both_classes_count_alike() -> None:
    normal, pneumonia = class_weights((10, 30), True)
    assert 10 * normal == pytest.approx(30 * pneumonia)
    assert 10 * normal + 30 * pneumonia == pytest.approx(40)
    assert class_weights((10, 30), False) == (1.0, 1.0)


def test_class_balance_moves_the_answer_towards_the_rare_class() -> None:
    data, fair = spots(80, 0.9), spots(80, seed=3)
    means = [
        evaluate(trained(data, class_balance=balance, lr=0.001), fair, SPEC).counts @ np.arange(1024)
        for balance in (True, False)
    ]
    assert means[0].sum() < means[1].sum()


@pytest.mark.parametrize("value", ["nan", "inf"])
def test_a_loss_that_is_not_a_number_stops_with_advice(value: str) -> None:
    with pytest.raises(
        SiteError, match=rf"south: the loss became {value} in round 3, step 1; lower train\.lr"
    ):
        train_epochs(
            network(),
            spots(8),
            settings_of(PLAIN),
            context=RoundContext("south", 2, 4),
            penalty=lambda _model: torch.tensor(float(value)),
        )


def test_a_penalty_holds_the_model_back() -> None:
    start = {name: value.detach().clone() for name, value in network().named_parameters()}

    def distance(model: nn.Module) -> Tensor:
        return torch.stack(
            [(value - start[name]).square().sum() for name, value in model.named_parameters()]
        ).sum()

    free, held = (network() for _ in range(2))
    settings = settings_of(PLAIN, local_epochs=4)
    train_epochs(free, spots(64), settings)
    train_epochs(held, spots(64), settings, penalty=lambda model: 100 * distance(model))
    assert distance(held) < 0.5 * distance(free)


def test_the_rate_rises_then_falls_over_all_rounds() -> None:
    train = TrainConfig(lr=0.1, warmup=0.1)
    assert learning_rate(train, 0.05) == pytest.approx(0.05, rel=0.01)
    assert learning_rate(train, 0.1) == pytest.approx(0.1 * 0.5 * (1 + math.cos(0.1 * math.pi)))
    assert learning_rate(train, 1.0) == pytest.approx(0.0, abs=1e-12)
    constant = TrainConfig(lr=0.1, warmup=0, schedule="constant")
    assert {learning_rate(constant, done) for done in (0.01, 0.5, 1.0)} == {0.1}


def test_a_job_of_a_single_step_learns() -> None:
    before = weights(network())
    after = weights(trained(spots(8), RoundContext("site", 0, 1)))
    assert any(not torch.equal(value, after[key]) for key, value in before.items() if "weight" in key)


def test_the_last_round_changes_less_than_the_first() -> None:
    start = weights(network())
    moved = [
        sum(
            float((value.detach() - start[key]).abs().sum())
            for key, value in trained(spots(64), context).named_parameters()
        )
        for context in (RoundContext("a", 1, 10), RoundContext("a", 9, 10))
    ]
    assert moved[1] < 0.3 * moved[0]


def test_a_memory_map_trains_like_an_array_and_is_not_changed(tmp_path: Path) -> None:
    data = spots(40)
    np.save(tmp_path / "images.npy", data.images)
    mapped = np.load(tmp_path / "images.npy", mmap_mode="c")
    assert same(trained(data), trained(ImageSet(mapped, data.labels, data.patients, data.subtypes)))
    assert np.array_equal(np.load(tmp_path / "images.npy"), data.images)


def changed(config: AugmentConfig, seed: int = 0, batch: Tensor | None = None) -> Tensor:
    images = torch.from_numpy(spots(6).images) if batch is None else batch
    return augment(images, config, torch.Generator().manual_seed(seed))


def test_without_any_change_the_levels_stay_as_they_are() -> None:
    assert torch.equal(changed(PLAIN), torch.from_numpy(spots(6).images).float())


@pytest.mark.parametrize("name", [name for name in AugmentConfig.model_fields if name != "flip"])
def test_each_change_acts_alone_and_differently_on_each_image(name: str) -> None:
    batch = torch.from_numpy(spots(1).images).expand(6, -1, -1)
    result = changed(PLAIN.model_copy(update={name: 0.9 if name != "rotate" else 20.0}), batch=batch)
    assert result.shape == batch.shape
    assert result.dtype == torch.float32
    assert not torch.equal(result[0], result[-1])
    assert result.min() >= 0
    assert result.max() <= 255
    assert (result - batch).abs().max() > 1


def test_a_flip_mirrors_left_and_right_or_leaves_the_image() -> None:
    batch = torch.from_numpy(spots(32).images)
    result, original = changed(PLAIN.model_copy(update={"flip": True}), batch=batch), batch.float()
    mirrored = [torch.allclose(a, b.flip(1), atol=0.01) for a, b in zip(result, original, strict=True)]
    kept = [torch.allclose(a, b, atol=0.01) for a, b in zip(result, original, strict=True)]
    assert all(m != k for m, k in zip(mirrored, kept, strict=True))
    assert 0 < sum(mirrored) < 32


def test_augmentation_repeats_with_its_generator() -> None:
    assert torch.equal(changed(EVERYTHING, 3), changed(EVERYTHING, 3))
    assert not torch.equal(changed(EVERYTHING, 3), changed(EVERYTHING, 4))


def test_the_sampling_grid_is_that_of_affine_grid() -> None:
    images = torch.rand(3, 1, 8, 8)
    theta = torch.randn(3, 2, 3)
    expected = nn.functional.affine_grid(theta, [3, 1, 8, 8], align_corners=False)
    rows = [tuple(theta[:, row, column] for column in range(3)) for row in range(2)]
    torch.testing.assert_close(_grid(images, *rows), expected)  # type: ignore[arg-type]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_training_runs_in_mixed_precision_on_a_gpu() -> None:
    model = network().cuda()
    result = train_epochs(model, spots(40), settings_of(EVERYTHING))
    assert math.isfinite(result.loss)
