"""Batch norm's statistics of a new average: measured by the sites, checked by the server, put into the model."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hooks import SIZE, arrays, network, noise, weights
from nvflare.app_common.abstract.fl_model import FLModel
from servers import Surroundings, begun
from site_reports import data
from torch import nn

from pneumonia_fl.config.sections import Preprocess
from pneumonia_fl.data.preprocess import normalise
from pneumonia_fl.errors import DataError
from pneumonia_fl.fl.protocol.messages import SETTLING, SITE_REPORT
from pneumonia_fl.fl.protocol.site_report import Facts
from pneumonia_fl.fl.server.batch_norm_exchange import SETTLING_ROUNDS
from pneumonia_fl.fl.server.controller import PooledFedAvg
from pneumonia_fl.fl.server.cyclic_controller import CyclicWeights
from pneumonia_fl.models.architectures import build_model
from pneumonia_fl.training.batch_norm import MOST_IMAGES, running_statistics, settled

SPEC = Preprocess(size=SIZE)
MEAN, VAR = "1.running_mean", "1.running_var"


def of_all(model: nn.Module, pixels: Any) -> torch.Tensor:
    """What the layer before batch norm gives for the images."""
    with torch.no_grad():
        return model[0](normalise(torch.from_numpy(pixels), SPEC))  # type: ignore[no-any-return, index, operator]


def test_the_statistics_are_those_of_the_images_with_these_weights() -> None:
    model, images = network(), noise(96, 1).images
    found, seen = settled(model, images, SPEC), of_all(model, images)
    torch.testing.assert_close(found[MEAN], seen.mean((0, 2, 3)))
    torch.testing.assert_close(found[VAR], seen.var((0, 2, 3)), rtol=0.05, atol=0)


def test_measuring_leaves_model_mode_and_random_numbers_alone() -> None:
    model = network().train()
    before, state = weights(model), torch.get_rng_state()
    settled(model, noise(40, 1).images, SPEC)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert model.training
    assert (model[1].training, model[1].momentum) == (True, 0.1)
    assert torch.equal(torch.get_rng_state(), state)


def test_measuring_again_gives_the_same_whatever_the_model_had_before() -> None:
    first, second = network(), network().eval()
    second[1].running_mean += 5
    found = [settled(model, noise(300, 1).images, SPEC) for model in (first, second)]
    assert all(torch.equal(value, found[1][key]) for key, value in found[0].items())


def test_a_large_site_passes_no_more_images_than_it_must() -> None:
    passed: list[int] = []

    class Counting(nn.BatchNorm2d):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            passed.append(len(x))
            return super().forward(x)

    model = network()
    model[1] = Counting(4)
    settled(model, noise(500, 1).images, SPEC)
    assert (sum(passed), max(passed)) == (MOST_IMAGES, 32)


@pytest.mark.parametrize("count", [1, 2, 33])
def test_few_images_are_enough(count: int) -> None:
    found = settled(build_model(size=32, seed=1), np.zeros((count, 32, 32), np.uint8), Preprocess(size=32))
    assert all(bool(torch.isfinite(value).all()) for value in found.values())


def test_no_image_is_an_error_in_words() -> None:
    with pytest.raises(DataError, match="no training images"):
        settled(network(), np.zeros((0, SIZE, SIZE), np.uint8), SPEC)


@pytest.mark.parametrize(
    ("name", "norm"), [("small_resnet", "group"), ("small_resnet", "none"), ("pneumonia_network", "batch")]
)
def test_models_without_running_statistics_have_none(name: str, norm: str) -> None:
    assert running_statistics(build_model(name, norm=norm, size=32, seed=1)) == {}


class Sites:
    """The server's part, with sites that answer at once; each has 9 training images."""

    def __init__(self, folder: Path, answers: dict[str, Any], **changes: Any) -> None:
        self.abort, self._answers = changes.get("abort", False), answers
        self.controller = changes.get("kind", PooledFedAvg)(
            sites=("a", "b", "c"), quorum=1, num_rounds=9, **changes.get("options", {})
        )
        self.around = Surroundings(self.controller, folder, self._answer, changes.get("model") or network())
        self.job = begun(self.controller)
        self.around.sent.clear()
        for name in "abc":
            self.controller._validator.facts[name] = Facts.model_validate(data(name))
        for name in changes.get("trained", "ab"):
            self.job.tracker.accept(name, 0.5, 3)
        self.sent, self.events = self.around.sent, self.around.events

    def _answer(self, site: str, task: str, received: FLModel) -> FLModel | None:
        if task != "validate":
            return None
        if self.abort:
            self.controller.abort_signal.trigger(True)
        said = self._answers.get(site)
        return said(site) if callable(said) else None if said is None else sent(said)

    def settle(self, number: int = 0) -> dict[str, Any]:
        return self.controller._exchange.settle(arrays(self.around.model.state_dict()), number)


def statistics(mean: float, var: float = 1.0) -> dict[str, Any]:
    return {MEAN: np.full(4, mean, np.float32), VAR: np.full(4, var, np.float32)}


def sent(params: Any) -> FLModel:
    answer = FLModel(params={"": 0})
    answer.params = params
    return answer


def test_the_statistics_of_the_sites_take_the_place_of_the_averaged_ones(tmp_path: Path) -> None:
    sites = Sites(tmp_path, {"a": statistics(1.0), "b": statistics(3.0, 5.0)})
    before, model = arrays(network().state_dict()), sites.settle()
    assert (model[MEAN].tolist(), model[VAR].tolist()) == ([2.0] * 4, [3.0] * 4)
    assert all(np.array_equal(model[key], before[key]) for key in before.keys() - {MEAN, VAR})
    assert model.keys() == before.keys()
    ((task, targets, message),) = sites.sent
    assert (task, targets, message.current_round) == ("validate", ["a", "b"], 0)
    assert message.meta[SETTLING]
    assert sites.events("settled")[0]["sites"] == ["a", "b"]
    assert not sites.events("problem")


def test_sites_count_by_their_images_and_the_jobs_factors(tmp_path: Path) -> None:
    answers = {"a": statistics(0.0), "b": statistics(4.0)}
    assert Sites(tmp_path, answers, options={"factors": [["b", 3.0]]}).settle()[MEAN].tolist() == [3.0] * 4


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (statistics(1.0, -0.5), f"{VAR} is negative"),
        (statistics(np.nan), f"{MEAN} has values that are no numbers"),
        (statistics(1e30), f"{MEAN} has values beyond"),
        ({MEAN: np.zeros(4, np.float32)}, "1 parameters are missing"),
        ({**statistics(1.0), "0.weight": np.zeros(4, np.float32)}, "1 unknown parameters: 0.weight"),
        ({**statistics(1.0), MEAN: np.zeros(3, np.float32)}, f"{MEAN} has shape [3], not [4]"),
        ({1: np.zeros(4, np.float32)}, "no arrays by name"),
        (lambda site: FLModel(metrics={"problem": 1.0}, meta={SITE_REPORT: {"problem": "no memory"}}), "no memory"),
        (None, "no answer in time"),
    ],
)  # fmt: skip
def test_an_answer_that_cannot_count_is_named_and_left_out(bad: Any, words: str, tmp_path: Path) -> None:
    sites = Sites(tmp_path, {"a": bad, "b": statistics(3.0)})
    assert sites.settle()[MEAN].tolist() == [3.0] * 4
    (problem,) = sites.events("problem")
    assert problem["site"] == "a"
    assert words in problem["problem"]
    state = "late" if bad is None else "refused"  # a site that is cut off is late, whatever it was asked
    assert problem["state"] == state
    assert problem["problem"].startswith("batch norm's statistics of the new average: ") == (
        state == "refused"
    )


def test_without_any_good_answer_the_average_stays(tmp_path: Path) -> None:
    sites = Sites(tmp_path, {"a": statistics(1.0, -1.0)})
    before = arrays(network().state_dict())
    assert all(np.array_equal(value, before[key]) for key, value in sites.settle().items())
    assert [problem["site"] for problem in sites.events("problem")] == ["a", "b"]


def test_only_the_first_rounds_end_with_the_exchange(tmp_path: Path) -> None:
    sites = Sites(tmp_path, {"a": statistics(1.0)})
    sites.settle(SETTLING_ROUNDS)
    assert not sites.sent
    sites.settle(SETTLING_ROUNDS - 1)
    assert len(sites.sent) == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"model": build_model(norm="none", size=32, seed=1)},
        {"kind": CyclicWeights, "options": {"algorithm": {"name": "cyclic"}}},
    ],
)
def test_a_server_without_statistics_or_average_asks_nobody(changes: dict[str, Any], tmp_path: Path) -> None:
    sites = Sites(tmp_path, {}, **changes)
    sites.settle()
    assert not sites.sent + sites.events("settling")


def test_an_aborted_exchange_changes_and_blames_nothing(tmp_path: Path) -> None:
    sites = Sites(tmp_path, {"a": statistics(1.0)}, abort=True)
    assert sites.settle()[MEAN].tolist() == [0.0] * 4
    assert not sites.events("problem")
    sites.settle()
    assert len(sites.sent) == 1
