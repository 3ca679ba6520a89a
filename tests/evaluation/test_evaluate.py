import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pneumonia_fl.config.sections import Preprocess
from pneumonia_fl.data.preprocess import normalise
from pneumonia_fl.data.store import ImageSet
from pneumonia_fl.errors import DataError
from pneumonia_fl.evaluation.scoring import evaluate, margins
from pneumonia_fl.metrics.binary import ScoreHistogram
from pneumonia_fl.models.architectures import build_model

SPEC = Preprocess(size=16)


def images(n: int = 11) -> ImageSet:
    pixels = np.random.default_rng(0).integers(0, 256, (n, 16, 16), dtype=np.uint8)
    return ImageSet(pixels, np.arange(n) % 2, [str(i) for i in range(n)], ["unknown"] * n)


def test_margins_are_the_difference_of_the_logits() -> None:
    model = build_model(size=16, seed=1).eval()
    data = images()
    with torch.inference_mode():
        logits = model(normalise(torch.from_numpy(data.images), SPEC))
    got = margins(model, data.images, SPEC)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, logits[:, 1] - logits[:, 0], atol=1e-5)


def test_the_batch_size_does_not_change_the_answer() -> None:
    model, data = build_model(size=16, seed=1), images()
    np.testing.assert_allclose(
        margins(model, data.images, SPEC), margins(model, data.images, SPEC, batch_size=3), atol=1e-5
    )


@pytest.mark.parametrize("training", [True, False])
def test_the_model_comes_back_in_its_own_mode_and_unchanged(training: bool) -> None:
    model = build_model(size=16, seed=1).train(training)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    evaluate(model, images(), SPEC)
    assert model.training is training
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


class Broken(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        raise RuntimeError("out of memory")


def test_the_mode_is_restored_even_when_the_model_fails() -> None:
    model = Broken().train()
    with pytest.raises(RuntimeError, match="out of memory"):
        margins(model, images().images, SPEC)
    assert model.training


def test_an_empty_split_is_an_error() -> None:
    with pytest.raises(DataError, match="no images to evaluate"):
        evaluate(build_model(size=16, seed=1), images(0), SPEC)


def test_evaluate_counts_each_image_once() -> None:
    model, data = build_model(size=16, seed=1), images()
    histogram = evaluate(model, data, SPEC)
    expected = ScoreHistogram.from_scores(margins(model, data.images, SPEC), data.labels)
    assert np.array_equal(histogram.counts, expected.counts)
    assert histogram.n == 11


def test_a_model_that_answers_nan_is_an_error() -> None:
    model = build_model(size=16, seed=1)
    with torch.no_grad():
        next(model.parameters()).fill_(float("nan"))
    with pytest.raises(DataError, match="not finite"):
        evaluate(model, images(), SPEC)
