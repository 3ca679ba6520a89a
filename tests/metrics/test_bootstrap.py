from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import sklearn.metrics as reference
from scipy.stats import norm

from pneumonia_fl.errors import DataError
from pneumonia_fl.metrics.binary import Ints, Scores, auroc, auroc_of_counts
from pneumonia_fl.metrics.bootstrap import Interval, all_or_none, interval95, reflected95, resample
from pneumonia_fl.metrics.platt import PLAIN

Array = np.ndarray[Any, Any]


def sample(seed: int, n: int) -> tuple[Array, Array]:
    rng = np.random.default_rng(seed)
    labels = (rng.random(n) < 0.7).astype(np.int64)
    return rng.normal(2 * labels - 0.5, 2), labels


def bootstrap_ci(
    scores: Any, labels: Any, patients: Sequence[str | int], n: int = 1000, seed: int = 7
) -> Interval | None:
    """Interval of the AUROC."""
    z, y = np.asarray(scores, np.float64), np.asarray(labels, np.int64)
    return interval95(resample(patients, lambda rows: [auroc(z[rows], y[rows])], n, seed)[:, 0])


def test_a_sample_has_as_many_patients_and_all_images_of_each() -> None:
    patients = ["a", "b", "a", "c", "c", "c"]
    seen: list[Ints] = []
    resample(patients, lambda rows: seen.append(rows) or [0.0], n=50)
    for rows in seen:
        drawn = [patients[row] for row in rows]
        counts = {name: drawn.count(name) for name in "abc"}
        assert counts["a"] / 2 + counts["b"] + counts["c"] / 3 == 3
        assert np.bincount(rows, minlength=6)[0] == np.bincount(rows, minlength=6)[2]


def test_samples_are_those_of_a_plain_loop() -> None:
    margins, labels = sample(1, 30)
    patients = [index // 4 for index in range(30)]
    ours = resample(patients, lambda rows: [auroc(margins[rows], labels[rows])], n=20, seed=3)[:, 0]
    rng = np.random.default_rng(3)
    for value in ours:
        rows = [row for k in rng.integers(8, size=8) for row in range(30) if patients[row] == k]
        assert value == pytest.approx(reference.roc_auc_score(labels[rows], margins[rows]), abs=1e-12)


def test_several_statistics_see_the_same_samples() -> None:
    margins, labels = sample(2, 60)

    def both(rows: Ints) -> list[float | None]:
        return [auroc(margins[rows], labels[rows]), auroc(-margins[rows], labels[rows])]

    values = resample(range(60), both, n=30)
    np.testing.assert_allclose(values.sum(1), 1)


def test_undefined_samples_are_left_out() -> None:
    values = resample(list("abc"), lambda rows: [None if 0 in rows else 1.0, None], n=50)
    assert 0 < np.isnan(values[:, 0]).sum() < 50
    assert interval95(values[:, 0]) == (1.0, 1.0)
    assert interval95(values[:, 1]) is None
    assert reflected95(0.1, values[:, 1]) is None


def test_no_images_are_refused() -> None:
    with pytest.raises(DataError, match="no images"):
        resample([], lambda rows: [0.0])


def test_the_interval_holds_the_estimate_and_repeats_with_its_seed() -> None:
    margins, labels = sample(6, 400)
    patients = [f"p{index // 2}" for index in range(400)]
    estimate, first = auroc(margins, labels), bootstrap_ci(margins, labels, patients, n=200)
    assert first is not None
    assert estimate is not None
    assert first[0] < estimate < first[1]
    assert first == bootstrap_ci(margins, labels, patients, n=200)
    assert first != bootstrap_ci(margins, labels, patients, n=200, seed=8)


def test_copies_of_a_patients_image_add_nothing() -> None:
    margins, labels = sample(7, 60)
    alone = bootstrap_ci(margins, labels, range(60), n=300)
    copies = [np.repeat(values, 9) for values in (margins, labels)]
    assert bootstrap_ci(copies[0], copies[1], [index // 9 for index in range(540)], n=300) == pytest.approx(
        alone
    )


def test_one_class_has_no_interval() -> None:
    assert bootstrap_ci([1.0, 2.0], [1, 1], ["a", "b"], n=20) is None


def clustered(simulations: int) -> Iterator[tuple[Array, Array, Array]]:
    """80 patients of 4 alike images each: margins ±1 for the class, SD 1 between patients, 0.7 within."""
    rng = np.random.default_rng(11)
    patients = np.repeat(np.arange(80), 4)
    labels = (patients % 2).astype(np.int64)
    for _ in range(simulations):
        margins = 2 * labels - 1 + rng.normal(0, 1, 80)[patients] + rng.normal(0, 0.7, 320)
        yield margins, labels, patients


def area_between(spread: float) -> float:
    """AUROC of two normal distributions, 2 apart, of this variance."""
    return float(norm.cdf(2 / np.sqrt(2 * spread)))


def test_the_interval_covers_the_truth_by_patient_and_is_too_narrow_by_image() -> None:
    truth = area_between(1 + 0.7**2)
    hits: tuple[list[bool], list[bool]] = ([], [])
    for number, (margins, labels, patients) in enumerate(clustered(200)):
        scores = Scores.of(margins, labels)
        for covered, owners in zip(hits, (patients, np.arange(320)), strict=True):
            if owners is patients or number < 60:  # the interval by image misses so often that few tell
                values = resample(owners, lambda rows, s=scores: [auroc_of_counts(s.counts(rows))], n=200)
                low, high = interval95(values[:, 0]) or (np.nan, np.nan)
                covered.append(low <= truth <= high)
    by_patient, by_image = map(np.mean, hits)
    # 95 % less the percentile method's small shortfall, and a standard error of 0.015 for 200 simulations.
    assert 0.90 <= by_patient <= 0.985
    assert by_image < 0.80


def test_the_interval_of_a_difference_between_two_models_covers_it() -> None:
    """Paired: both models score the same patients, the second with more noise."""
    rng = np.random.default_rng(5)
    truth, hits = area_between(1.49) - area_between(2.49), 0
    for margins, labels, patients in clustered(100):
        models = [Scores.of(z, labels) for z in (margins, margins + rng.normal(0, 1, 320))]
        values = resample(
            patients, lambda rows, models=models: [auroc_of_counts(m.counts(rows)) for m in models], n=200
        )
        low, high = interval95(values[:, 0] - values[:, 1]) or (np.nan, np.nan)
        hits += low <= truth <= high
    assert 0.88 <= hits / 100 <= 1


def overconfident(rng: np.random.Generator, n: int) -> Scores:
    """Margins 1.3 times as large as they should be."""
    z = rng.normal(0, 2, n)
    return Scores.of(1.3 * z, rng.random(n) < PLAIN.probability(z))


def test_the_calibration_error_is_covered_when_its_interval_is_reflected_and_otherwise_not() -> None:
    rng = np.random.default_rng(9)
    truth, hits = overconfident(rng, 300_000).metrics().ece, np.zeros(2)
    for _ in range(40):
        scores = overconfident(rng, 500)
        values = resample(range(500), lambda rows, s=scores: [s.metrics(rows=rows).ece], n=100)[:, 0]
        for k, interval in enumerate((interval95(values), reflected95(scores.metrics().ece, values))):
            low, high = interval or (np.nan, np.nan)
            hits[k] += low <= truth <= high
    assert hits[0] <= 10
    assert hits[1] >= 32


def test_a_reflected_interval_holds_its_estimate() -> None:
    """Where noise is most of the error, every resample lies above it."""
    assert reflected95(0.02, np.linspace(0.03, 0.05, 100)) == (0.0, 0.02)


@pytest.mark.parametrize("patients", [1, 3, 20, 400])
def test_a_rate_without_exception_has_clopper_and_pearsons_interval(patients: int) -> None:
    """Which of the exact interval's equations is left there: a bound with a chance of 2.5 % to see no exception."""
    bound = 0.025 ** (1 / patients)
    assert all_or_none(0, patients) == pytest.approx((0, 1 - bound), abs=1e-12)
    assert all_or_none(1, patients) == pytest.approx((bound, 1), abs=1e-12)
