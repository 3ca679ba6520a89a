"""Compare models on the same test images, with intervals by patient and paired differences.

Everything here is computed from `comparison.json`, the raw record, so that the table can be made again without
training. A model's value is the mean over its seeds; its interval comes from resampling the test patients, the same
patients for all models, so that a difference of two models is paired. Between seeds there is the SD, which says how
much the training's own randomness moves a result; three seeds estimate it badly.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pneumonia_fl.metrics.binary import COMPARED, RATES, Floats, Ints, Scores
from pneumonia_fl.metrics.bootstrap import Interval, all_or_none, interval95, reflected95, resample
from pneumonia_fl.metrics.platt import Scaling
from pneumonia_fl.progress import Progress, silent

RAW, SUMMARY = "comparison.json", "summary.json"
VERSION = 2
"""Of both files. Version 1 calibrated by a temperature alone (no offset)."""
POOLED = "pooled"
CENTRAL, BEST_ALONE = "central", "best_alone"
SAMPLES = 1000
FEW_PATIENTS = 100
TOO_FEW_PATIENTS = 30
"""Below this a bootstrap over patients is not to be believed, whatever it says."""
WIDE = 0.05
"""Half an interval of a difference in AUROC: wider, and it says neither that models differ nor that they do not."""

Raw = Mapping[str, Any]


@dataclass(frozen=True)
class _Model:
    """One arm with one seed: its scores on all test images, and how it decides."""

    scores: Scores
    threshold: float
    scaling: Scaling

    def measure(self, rows: Ints) -> list[float]:
        """Measure COMPARED on these rows, NaN where undefined."""
        if not len(rows):
            return [np.nan] * len(COMPARED)
        metrics = self.scores.metrics(self.threshold, self.scaling, rows)
        values = [getattr(metrics, name) for name in COMPARED]
        return [np.nan if value is None else value for value in values]


def summarise_comparison(raw: Raw, progress: Progress = silent, samples: int = SAMPLES) -> dict[str, Any]:
    """Return what `summary.json` holds: for each arm its values, intervals and paired differences.

    Args:
        raw: what `comparison.json` holds.
        progress: told of the resamples done.
        samples: resamples of the test patients.
    """
    arms = [arm for arm in raw["arms"] if _results(raw, arm["name"])]
    models = {arm["name"]: _models(raw, _results(raw, arm["name"])) for arm in arms}
    table = _Table(raw, models, progress, samples)
    best_alone = _best_alone(arms, table)
    references = {CENTRAL: CENTRAL if CENTRAL in models else None, BEST_ALONE: best_alone}
    described = [
        _describe(arm, _results(raw, arm["name"]), table, references) if arm["name"] in models else dict(arm)
        for arm in raw["arms"]
    ]
    expected = sum(not arm["skipped"] for arm in raw["arms"]) * len(raw["seeds"])
    return {
        "version": VERSION,
        "state": "finished" if len(raw["results"]) >= expected else "partial",
        **{key: raw[key] for key in ("data", "partition", "sites", "seeds", "rounds", "jobs")},
        "test": _count(raw["test"]),
        "arms": described,
        "best_alone": best_alone,
        "cross_site": raw["cross_site"],
        "warnings": _warnings(raw, expected),
        "findings": _findings(described, best_alone, len(set(raw["test"]["patients"]))),
    }


class _Table:
    """Mean over seeds of every measure, on all test images and on each site's, as observed and resampled.

    Axes of `observed`: (arm, place, measure); of `resampled`: (sample, arm, place, measure).
    """

    def __init__(
        self, raw: Raw, models: Mapping[str, Sequence[_Model]], progress: Progress, samples: int
    ) -> None:
        self.arms, self.places = list(models), [POOLED, *raw["sites"]]
        self._models, self._test = models, raw["test"]
        place = np.array([self.places.index(site) if site else 0 for site in raw["test"]["sites"]])
        self._masks = [np.ones(len(place), bool), *(place == index for index in range(1, len(self.places)))]
        everything = np.arange(len(place))
        shape = (len(self.arms), len(self.places), len(COMPARED))
        self.observed = self._measure(everything).reshape(shape)
        self.done = 0

        def statistic(rows: Ints) -> Floats:
            self.done += 1
            progress("resampling patients", self.done, samples)
            return self._measure(rows)

        drawn = resample(raw["test"]["patients"], statistic, samples) if models else np.empty((0, 0))
        self.resampled = drawn.reshape(len(drawn), *shape)

    def seeds(self, arm: str, place: int) -> Floats:
        """Compute the measures (seeds, measure) of each seed on all images of a place."""
        rows = np.flatnonzero(self._masks[place])
        return np.array([model.measure(rows) for model in self._models[arm]])

    def interval(self, name: str, arm: int, place: int) -> Interval | None:
        """Compute a measure's 95 % interval; for a rate of exactly 0 or 1 it is the exact binomial one."""
        k = COMPARED.index(name)
        observed, resampled = self.observed[arm, place, k], self.resampled[:, arm, place, k]
        if name in RATES and observed in (0, 1):
            rows = np.flatnonzero(self._masks[place] & (np.array(self._test["labels"]) == RATES[name]))
            return all_or_none(observed, len({self._test["patients"][row] for row in rows}))
        return reflected95(observed, resampled) if name == "ece" else interval95(resampled)

    def _measure(self, rows: Ints) -> Floats:
        by_place = [rows[mask[rows]] for mask in self._masks]
        return np.array(
            [
                np.mean([model.measure(chosen) for model in self._models[arm]], axis=0)
                for arm in self.arms
                for chosen in by_place
            ]
        ).ravel()


def _results(raw: Raw, arm: str) -> list[Raw]:
    return sorted((r for r in raw["results"] if r["arm"] == arm), key=lambda r: int(r["seed"]))


def _models(raw: Raw, results: Sequence[Raw]) -> list[_Model]:
    labels = raw["test"]["labels"]
    return [_Model(Scores.of(r["margins"], labels), r["threshold"], Scaling.of(r)) for r in results]


def _describe(
    arm: Raw, results: Sequence[Raw], table: _Table, references: Mapping[str, str | None]
) -> dict[str, Any]:
    index = table.arms.index(arm["name"])
    others = {
        role: table.arms.index(name) for role, name in references.items() if name and name != arm["name"]
    }
    return {
        **arm,
        "seeds": [result["seed"] for result in results],
        "best_rounds": [result["best_round"] for result in results],
        **{key: [result[key] for result in results] for key in ("steps", "seconds", "bytes")},
        POOLED: _statistics(table, index, 0),
        "sites": {
            place: _statistics(table, index, number) for number, place in enumerate(table.places) if number
        },
        "differences": {role: _difference(table, index, other) for role, other in others.items()},
    }


def _statistics(table: _Table, arm: int, place: int) -> dict[str, Any]:
    by_seed = table.seeds(table.arms[arm], place)
    return {
        name: _statistic(table.observed[arm, place, k], table.interval(name, arm, place), by_seed[:, k])
        for k, name in enumerate(COMPARED)
    }


def _statistic(mean: float, interval: Interval | None, by_seed: Floats) -> dict[str, Any] | None:
    if np.isnan(mean):
        return None
    sd = float(by_seed.std(ddof=1)) if len(by_seed) > 1 else None
    low, high = interval or (None, None)
    return {"mean": float(mean), "sd": sd, "low": low, "high": high, "values": by_seed.tolist()}


def _difference(table: _Table, arm: int, other: int) -> dict[str, Any]:
    """Compute the paired difference of two arms on the same images, with the interval of the difference."""
    observed = table.observed[arm, 0] - table.observed[other, 0]
    resampled = table.resampled[:, arm, 0] - table.resampled[:, other, 0]
    return {
        name: None if np.isnan(observed[k]) else {"mean": float(observed[k]), **_bounds(resampled[:, k])}
        for k, name in enumerate(COMPARED)
    }


def _bounds(resampled: Floats) -> dict[str, float | None]:
    low, high = interval95(resampled) or (None, None)
    return {"low": low, "high": high}


def _best_alone(arms: Sequence[Raw], table: _Table) -> str | None:
    """Return the site with the best test AUROC of its own: chosen on test data, so it is hard to beat."""
    alone = [arm["name"] for arm in arms if arm["kind"] == "alone"]
    known = {name: table.observed[table.arms.index(name), 0, 0] for name in alone}
    known = {name: value for name, value in known.items() if not np.isnan(value)}
    return max(known, key=known.__getitem__) if known else None


def _count(test: Raw) -> dict[str, Any]:
    labels, sites = np.array(test["labels"]), np.array(test["sites"])
    names = sorted({str(site) for site in sites if site})
    return {
        "n": len(labels),
        "positives": int(labels.sum()),
        "patients": len(set(test["patients"])),
        "sites": {
            name: {"n": int((sites == name).sum()), "positives": int(labels[sites == name].sum())}
            for name in names
        },
    }


def _warnings(raw: Raw, expected: int) -> list[str]:
    patients, done = len(set(raw["test"]["patients"])), len(raw["results"])
    steps = {sum(result["steps"] for result in _results(raw, arm["name"])) for arm in raw["arms"]} - {0}
    said = [f"{arm['name']} was left out: {arm['skipped']}" for arm in raw["arms"] if arm["skipped"]]
    if done < expected:
        said.append(f"{done} of {expected} trainings are done; run the same command again to resume")
    elif len(steps) > 1:
        said.append("the jobs did not take the same number of optimiser steps; see the column")
    if patients < FEW_PATIENTS:
        said.append(f"only {patients} test patients: small differences mean nothing")
    if len(raw["seeds"]) < 3:
        said.append("fewer than three seeds: the spread between trainings is not known")
    if not any(raw["test"]["sites"]):
        said.append("the data was prepared by an older version: no site has a test split of its own")
    return said


def _findings(arms: Sequence[Mapping[str, Any]], best_alone: str | None, patients: int) -> list[str]:
    """Write one sentence with numbers for each federated model and reference."""
    names = {CENTRAL: "central training", BEST_ALONE: f"the best site alone ({best_alone})"}
    return [
        f"{arm['name']}: AUROC {_sign(value)} against {names[role]} (95 % CI {_sign(value, 'low')} to "
        f"{_sign(value, 'high')}, paired by patient){_verdict(value, patients)}"
        for arm in arms
        if arm["kind"] == "federated" and arm.get("differences")
        for role, difference in arm["differences"].items()
        if (value := difference["auroc"])
    ]


def too_few(difference: Mapping[str, Any], patients: int) -> bool:
    """Return True when there are too few patients to tell two models apart by AUROC.

    `difference` has `low` and `high`, the ends of its 95 % interval, which are known.
    """
    low, high = float(difference["low"]), float(difference["high"])
    shown = low > 0 or high < 0
    return patients < TOO_FEW_PATIENTS or (not shown and (patients < FEW_PATIENTS or (high - low) / 2 > WIDE))


def _sign(value: Mapping[str, float | None], key: str = "mean") -> str:
    number = value[key]
    return "n/a" if number is None else f"{number:+.4f}".replace("-", "−")


def _verdict(value: Mapping[str, Any], patients: int) -> str:
    if value["low"] is None:
        return ""
    if too_few(value, patients):
        return ": too few patients to tell"
    if value["low"] > 0:
        return ": better"
    return ": worse" if value["high"] < 0 else ": no difference shown"
