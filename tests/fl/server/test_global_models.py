"""Packed models at the server: judged, kept and trained from is what the sites received; a bad answer is named."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from exchanges import WEIGHT, OneRow, arriving, codec, moved
from hooks import arrays
from nvflare.app_common.abstract.fl_model import FLModel
from servers import SITES, Surroundings
from site_reports import report

from pneumonia_fl.fl.protocol.exchange_codec import Format, digest
from pneumonia_fl.fl.protocol.messages import EXCHANGE, LACKS_REFERENCE, SETTLING, SITE_REPORT
from pneumonia_fl.fl.server.controller import PooledFedAvg
from pneumonia_fl.fl.site.exchange import LacksReferenceError, PackedExchange
from pneumonia_fl.training.batch_norm import running_statistics

Damage = Callable[[FLModel], object]


class Sites:
    """Sites with a packed exchange each; all make the same update, and measure what they have received."""

    def __init__(self, form: Format = "int8") -> None:
        self._form = form
        self.ends = {site: PackedExchange(codec(form), OneRow()) for site in SITES}
        self.judged: list[str] = []
        self.complete: list[str] = []
        self.damage: dict[str, Damage] = {}

    def restart(self, site: str) -> None:
        self.ends[site] = PackedExchange(codec(self._form), OneRow())

    def answer(self, site: str, task: str, sent: FLModel) -> FLModel:
        try:
            got = arrays(self.ends[site].receive(arriving(sent)).params)
        except LacksReferenceError:
            return FLModel(metrics={"problem": 1.0}, meta={SITE_REPORT: {"problem": LACKS_REFERENCE}})
        if "reference" not in sent.meta[EXCHANGE]:
            self.complete.append(site)
        if SETTLING in sent.meta:
            return FLModel(params=arrays(running_statistics(OneRow())))
        self.judged.append(digest(got))
        said = report(site, task)
        if task != "train":
            return FLModel(metrics={"validation_auc": 1.0}, meta={SITE_REPORT: said})
        trained = {name: torch.as_tensor(value) for name, value in moved(got).items()}
        params, meta = self.ends[site].answer(trained)
        meta |= {"NUM_STEPS_CURRENT_ROUND": 9, SITE_REPORT: said}
        found = FLModel(params={name: value.numpy() for name, value in params.items()}, meta=meta)
        self.damage.get(site, bool)(found)
        return found


def run(kit: Path, sites: Sites, form: Format = "int8", **options: Any) -> tuple[PooledFedAvg, Surroundings]:
    settings: dict[str, Any] = {"quorum": 2, "num_rounds": 5, "grace": 0, **options}
    controller = PooledFedAvg(sites=SITES, exchange=form, **settings)
    around = Surroundings(controller, kit, sites.answer, OneRow())
    controller.run()
    assert not around.panics
    return controller, around


@pytest.mark.parametrize("form", ["int8", "float16"])
@pytest.mark.parametrize(
    "algorithm", [{"name": "fedavg"}, {"name": "fedadam"}, {"name": "fedavg", "average_last": 2}]
)
def test_every_model_that_is_saved_or_best_is_one_that_the_sites_judged(
    form: Format, algorithm: dict[str, Any], tmp_path: Path
) -> None:
    sites = Sites(form)
    controller, around = run(tmp_path, sites, form, algorithm=algorithm)
    saved = [digest(model) for model in around.saved]
    assert len(saved) == 5
    assert set(saved) <= set(sites.judged)
    assert controller._selector.best is not None
    assert digest(controller._selector.best) in sites.judged
    assert sites.complete == list(SITES), "only the first model is complete"
    assert not around.events("problem")


def test_the_model_moves_as_the_sites_wanted(tmp_path: Path) -> None:
    _, around = run(tmp_path, Sites())
    np.testing.assert_allclose(around.saved[-1][WEIGHT], [[5.0, 0.005]], atol=2 / 127)


def test_the_same_run_gives_the_same_bits(tmp_path: Path) -> None:
    runs = [run(tmp_path / name, Sites())[1].saved for name in ("one", "two")]
    assert [digest(model) for model in runs[0]] == [digest(model) for model in runs[1]]


def test_a_site_that_was_restarted_is_sent_the_complete_model_and_counts_in_the_same_round(
    tmp_path: Path,
) -> None:
    sites, usual = Sites(), Sites()
    answer = sites.answer

    def restarting(site: str, task: str, sent: FLModel) -> FLModel:
        if (site, task, sent.current_round) == ("b", "train", 2) and "reference" in sent.meta[EXCHANGE]:
            sites.restart("b")
        return answer(site, task, sent)

    sites.answer = restarting  # type: ignore[method-assign]
    _, around = run(tmp_path / "restarted", sites)
    assert sites.complete == [*SITES, "b"]
    assert not around.events("problem")
    assert {event["site"] for event in around.events("site") if event["round"] == 2} == set(SITES)
    received = {
        event["site"]: event["values"]["received_bytes"]
        for event in around.events("site")
        if event["round"] == 2
    }
    assert received["b"] > received["a"] == received["c"]
    _, unbroken = run(tmp_path / "unbroken", usual)
    np.testing.assert_allclose(around.saved[-1][WEIGHT], unbroken.saved[-1][WEIGHT], atol=1 / 127)


def test_a_site_that_cannot_read_the_complete_model_either_is_asked_no_third_time(tmp_path: Path) -> None:
    sites, asked = Sites(), []
    answer = sites.answer

    def never(site: str, task: str, sent: FLModel) -> FLModel:
        if site != "b":
            return answer(site, task, sent)
        asked.append(sent.current_round)
        return FLModel(metrics={"problem": 1.0}, meta={SITE_REPORT: {"problem": LACKS_REFERENCE}})

    sites.answer = never  # type: ignore[method-assign]
    _, around = run(tmp_path, sites, num_rounds=2)
    assert asked.count(1) == 2
    assert {(one["site"], one["state"], one["problem"]) for one in around.events("problem")} == {
        ("b", "failed", LACKS_REFERENCE)
    }


def put(kind: str, value: float) -> Damage:
    def change(found: FLModel) -> None:
        found.params[kind] = found.params[kind].copy()
        found.params[kind][0] = value

    return change


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (put("scales", np.nan), "scales are no numbers"),
        (put("scales", np.inf), "scales are no numbers"),
        (put("scales", -1), "scales are not from 0 to"),
        (put("scales", 3e38), "scales are not from 0 to"),
        (put("scales", 1e12), "has values beyond"),
        (lambda found: found.params.pop("int8"), "does not have the parts"),
        (lambda found: found.params.update(int8=np.zeros(10**6, np.int8)), "int8 are not 2 numbers"),
        (lambda found: found.params.update(int8=np.zeros(2, np.float64)), "int8 are not 2 numbers of int8"),
        (lambda found: found.params.update(int8=None), "int8 are not 2 numbers"),
        (lambda found: setattr(found, "params", arrays(OneRow().state_dict())), "does not have the parts"),
        (lambda found: found.meta.update({EXCHANGE: {"reference": "0" * 32}}), "does not refer to the model"),
        (lambda found: found.meta.update({EXCHANGE: np.zeros(3)}), "does not refer to the model"),
        (
            lambda found: found.meta.update({EXCHANGE: {"reference": np.zeros(3)}}),
            "does not refer to the model",
        ),
        (lambda found: found.meta.pop(EXCHANGE), "does not refer to the model"),
    ],
)
def test_an_answer_that_cannot_be_unpacked_is_refused_and_the_others_count(
    damage: Damage, words: str, tmp_path: Path
) -> None:
    sites = Sites()
    sites.damage["b"] = damage
    _, around = run(tmp_path, sites, num_rounds=1)
    (problem,) = around.events("problem")
    assert (problem["site"], problem["state"]) == ("b", "refused")
    assert words in problem["problem"]
    assert len(around.saved) == 1


def test_a_job_of_float32_takes_no_packed_answer(tmp_path: Path) -> None:
    def packed(site: str, task: str, sent: FLModel) -> FLModel:
        params = {"int8": np.zeros(2, np.int8)} if task == "train" else None
        meta = {"NUM_STEPS_CURRENT_ROUND": 9, SITE_REPORT: report(site, task)}
        return FLModel(params=params, metrics={"validation_auc": 1.0}, meta=meta)

    controller = PooledFedAvg(sites=SITES, quorum=1, num_rounds=1, grace=0)
    around = Surroundings(controller, tmp_path, packed, OneRow())
    controller.run()
    assert "parameters are missing" in around.events("problem")[0]["problem"]


def test_bytes_are_those_that_travelled_in_each_direction(tmp_path: Path) -> None:
    _, around = run(tmp_path, Sites(), num_rounds=5)
    by_round = {event["round"]: event["values"] for event in around.events("site") if event["site"] == "a"}
    # A row of two and its scale; batch norm's weight, bias, mean and variance with a scale each; a counter.
    packed = 2 + 4 + 4 * (2 + 4) + 8
    assert {values["bytes"] for number, values in by_round.items() if number < 5} == {packed}
    complete = 2 * 4 + 4 * 4 + 8
    # After each of the first three rounds the average travels once more, for its statistics.
    assert [by_round[number]["received_bytes"] for number in range(5)] == [
        complete,
        *[2 * packed] * 3,
        packed,
    ]
