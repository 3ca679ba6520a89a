"""The table of a comparison: means over seeds, intervals by patient, paired differences; also of odd data."""

import copy
from typing import Any

import numpy as np
import pytest

from pneumonia_fl.evaluation.comparison import VERSION, summarise_comparison
from pneumonia_fl.metrics.binary import COMPARED, exact_metrics
from pneumonia_fl.metrics.platt import Scaling

N = 120
RNG = np.random.default_rng(3)
LABELS = (np.arange(N) % 3 > 0).astype(int)
SITES = ["site-1"] * 60 + ["site-2"] * 60


def scores(strength: float, seed: int) -> list[float]:
    noise = np.random.default_rng(seed).normal(size=N)
    return [float(value) for value in strength * (2 * LABELS - 1) + noise]


def result(arm: str, seed: int, margins: list[float]) -> dict[str, Any]:
    cost = {"best_round": 2, "validation_auroc": 0.9, "steps": 20, "seconds": 1.5, "bytes": 10}
    return {
        "arm": arm,
        "seed": seed,
        "margins": margins,
        "threshold": 0.4,
        "temperature": 1.5,
        "offset": 0.1,
        **cost,
    }


def arm(name: str, kind: str, skipped: str | None = None) -> dict[str, Any]:
    return {"name": name, "kind": kind, "skipped": skipped}


RAW: dict[str, Any] = {
    "version": VERSION,
    "data": {"source": "synthetic"},
    "partition": "iid",
    "sites": ["site-1", "site-2"],
    "seeds": [7, 8],
    "rounds": 2,
    "jobs": {"fedavg": {}},
    "arms": [
        arm("central", "central"),
        arm("site-1 alone", "alone"),
        arm("site-2 alone", "alone", "no NORMAL images to learn from"),
        arm("fedavg", "federated"),
    ],
    "test": {"labels": LABELS.tolist(), "patients": [i // 2 for i in range(N)], "sites": SITES},
    "results": [
        result(name, seed, scores(strength, 10 * index + seed))
        for index, (name, strength) in enumerate({"central": 1.5, "site-1 alone": 0.2, "fedavg": 1.4}.items())
        for seed in (7, 8)
    ],
    "cross_site": None,
}


def summarise(raw: dict[str, Any] = RAW) -> dict[str, Any]:
    return summarise_comparison(raw, samples=200)


def by_name(summary: dict[str, Any]) -> dict[str, Any]:
    return {arm["name"]: arm for arm in summary["arms"]}


@pytest.fixture(scope="module")
def summary() -> dict[str, Any]:
    return summarise()


def test_a_value_is_the_mean_of_its_seeds_exact_metrics(summary: dict[str, Any]) -> None:
    exact = [
        exact_metrics(entry["margins"], LABELS, 0.4, Scaling(1.5, 0.1))
        for entry in RAW["results"]
        if entry["arm"] == "fedavg"
    ]
    for name in COMPARED:
        value = by_name(summary)["fedavg"]["pooled"][name]
        wanted = [getattr(metrics, name) for metrics in exact]
        assert value["values"] == pytest.approx(wanted, abs=1e-12)
        assert value["mean"] == pytest.approx(np.mean(wanted), abs=1e-12)
        assert value["sd"] == pytest.approx(np.std(wanted, ddof=1), abs=1e-12)
        if name != "ece":  # its interval is reflected, since noise only raises it
            assert value["low"] <= value["mean"] <= value["high"]


def test_a_site_is_measured_on_its_own_images(summary: dict[str, Any]) -> None:
    own = [
        exact_metrics(np.array(entry["margins"])[60:], LABELS[60:], 0.4, Scaling(1.5, 0.1)).auroc
        for entry in RAW["results"]
        if entry["arm"] == "central"
    ]
    assert by_name(summary)["central"]["sites"]["site-2"]["auroc"]["values"] == pytest.approx(own)


def test_a_rate_without_a_failure_is_not_certain() -> None:
    """Clopper and Pearson: of 20 normal patients at a site none was called pneumonia."""
    raw = {**RAW, "results": [result("central", 7, [float(10 * (2 * label - 1)) for label in LABELS])]}
    found = by_name(summarise(raw))["central"]["sites"]["site-1"]["specificity"]
    owners = {i // 2 for i in range(60) if not LABELS[i]}
    assert (found["mean"], found["high"]) == (1, 1)
    assert found["low"] == pytest.approx(0.025 ** (1 / len(owners)))


def test_differences_are_paired(summary: dict[str, Any]) -> None:
    arms = by_name(summary)
    difference = arms["fedavg"]["differences"]["central"]["auroc"]
    mean = arms["fedavg"]["pooled"]["auroc"]["mean"] - arms["central"]["pooled"]["auroc"]["mean"]
    assert difference["mean"] == pytest.approx(mean)
    assert summary["best_alone"] == "site-1 alone"
    assert arms["fedavg"]["differences"]["best_alone"]["auroc"]["low"] > 0
    assert any("site-1 alone" in text and text.endswith("better") for text in summary["findings"])


def test_a_model_against_itself_differs_by_nothing() -> None:
    raw = copy.deepcopy(RAW)
    for entry in raw["results"]:
        if entry["arm"] == "fedavg":
            twin = next(e for e in raw["results"] if e["arm"] == "central" and e["seed"] == entry["seed"])
            entry["margins"] = twin["margins"]
    difference = by_name(summarise(raw))["fedavg"]["differences"]["central"]
    assert {value[key] for value in difference.values() for key in ("mean", "low", "high")} == {0.0}


def test_what_was_left_out_is_said(summary: dict[str, Any]) -> None:
    assert "pooled" not in by_name(summary)["site-2 alone"]
    assert "site-2 alone was left out: no NORMAL images to learn from" in summary["warnings"]
    assert summary["state"] == "finished"


def test_a_comparison_of_version_1_has_no_offset() -> None:
    def with_offset(**values: float) -> dict[str, Any]:
        kept = [{key: value for key, value in r.items() if key != "offset"} | values for r in RAW["results"]]
        return summarise_comparison({**RAW, "results": kept}, samples=20)

    assert with_offset() == with_offset(offset=0.0) != with_offset(offset=0.1)


def test_half_a_comparison_is_shown_as_partial() -> None:
    raw = {**RAW, "results": [entry for entry in RAW["results"] if entry["arm"] == "fedavg"][:1]}
    summary = summarise(raw)
    assert (summary["state"], summary["best_alone"]) == ("partial", None)
    fedavg = by_name(summary)["fedavg"]
    assert (fedavg["seeds"], fedavg["differences"], fedavg["pooled"]["auroc"]["sd"]) == ([7], {}, None)
    assert any(text.startswith("1 of 6 trainings") for text in summary["warnings"])


def test_nothing_trained_yet_is_no_error() -> None:
    assert summarise({**RAW, "results": []})["state"] == "partial"


def test_a_site_with_one_class_has_no_auroc_but_the_rest() -> None:
    raw = copy.deepcopy(RAW)
    raw["test"]["sites"] = ["site-1" if label else "site-2" for label in LABELS]
    site = by_name(summarise(raw))["central"]["sites"]["site-2"]
    assert site["auroc"] is None
    assert site["sensitivity"] is None
    assert site["specificity"]["mean"] > 0
    assert site["brier"] is not None


def test_data_of_an_older_version_has_no_test_split_by_site() -> None:
    raw = copy.deepcopy(RAW)
    raw["test"]["sites"] = [""] * N
    summary = summarise(raw)
    assert by_name(summary)["central"]["sites"]["site-1"]["auroc"] is None
    assert any("older version" in text for text in summary["warnings"])


def test_unequal_steps_are_said() -> None:
    raw = copy.deepcopy(RAW)
    raw["results"][-1]["steps"] = 5
    assert any("optimiser steps" in text for text in summarise(raw)["warnings"])
