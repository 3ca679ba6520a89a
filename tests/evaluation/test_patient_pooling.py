"""Intervals over sites: they agree with a bootstrap of all patients in one place, and no site can spoil them unseen."""

from dataclasses import replace

import numpy as np
import pytest

from pneumonia_fl.data.store import ImageSet, concatenate
from pneumonia_fl.errors import DataError
from pneumonia_fl.evaluation.assess import assess
from pneumonia_fl.evaluation.patient_pooling import FEWEST_PATIENTS, REPLICATES, Sampled, assess_pooled
from pneumonia_fl.metrics.binary import ScoreHistogram, auroc_error_bound
from pneumonia_fl.metrics.platt import Scaling

SCALING, THRESHOLD = Scaling(0.8, 0.2), 0.4
NOISE = 0.2
"""How far an end of an interval may be off, as a share of its width: two bootstraps of 1,000 differ by up to this."""

Scored = tuple[np.ndarray, ImageSet]


def site(name: str, patients: int, seed: int, ill: float = 0.6) -> Scored:
    """Scores of a hospital with one to four images of each patient, which are alike."""
    rng = np.random.default_rng(seed)
    labels = (rng.random(patients) < ill).astype(int)
    images = rng.integers(1, 5, patients)
    owner = np.repeat(np.arange(patients), images)
    base = np.repeat(2.4 * labels - 1.2 + rng.normal(0, 1.2, patients), images)
    margins = base + rng.normal(0, 0.5, len(owner))
    names = [f"{name}-{one}" for one in owner]
    blank = np.zeros((len(owner), 1, 1), np.uint8)
    return margins, ImageSet(blank, labels[owner].astype(np.int64), names, ["unknown"] * len(owner))


def sampled(scored: Scored, secret: bytes = b"images") -> Sampled:
    found = Sampled.draw(*scored, secret)
    found.check()
    return found


@pytest.fixture(scope="module")
def sites() -> dict[str, Scored]:
    """Three hospitals of different sizes; the last has pneumonia only."""
    return {
        "a": site("a", 60, 1), "b": site("b", 110, 2, ill=0.3), "c": site("c", 40, 3, ill=1.0),
    }  # fmt: skip


@pytest.fixture(scope="module")
def pooled(sites: dict[str, Scored]) -> dict[str, object]:
    return assess_pooled({name: sampled(one) for name, one in sites.items()}, THRESHOLD, SCALING)


@pytest.fixture(scope="module")
def in_one_place(sites: dict[str, Scored]) -> dict[str, object]:
    margins = np.concatenate([margins for margins, _ in sites.values()])
    return assess(margins, concatenate([data for _, data in sites.values()]), THRESHOLD, SCALING)


def test_pooled_metrics_are_those_of_one_process_up_to_the_bins(
    sites: dict[str, Scored], pooled: dict, in_one_place: dict
) -> None:
    for name in ("n", "positives", "patients", "floor_accuracy"):
        assert pooled[name] == in_one_place[name]
    every = sum((ScoreHistogram.from_scores(m, d.labels) for m, d in sites.values()), ScoreHistogram.empty())
    ours, exact = pooled["metrics"], in_one_place["metrics"]
    assert ours["auroc"] == pytest.approx(exact["auroc"], abs=auroc_error_bound(every))
    for name, bound in {"brier": 0.008, "loss": 1 / 64}.items():
        assert ours[name] == pytest.approx(exact[name], abs=bound / SCALING.temperature)
    # The threshold lies inside of a bin here, so that the images of that bin may change sides.
    for name in ("sensitivity", "specificity", "accuracy"):
        assert ours[name] == pytest.approx(exact[name], abs=0.01)


def test_intervals_agree_with_the_bootstrap_of_all_patients(pooled: dict, in_one_place: dict) -> None:
    for name, (low, high) in in_one_place["intervals"].items():
        width = high - low
        assert pooled["intervals"][name] == pytest.approx((low, high), abs=NOISE * width), name
    for curve, y in (("roc", "tpr"), ("pr", "precision")):
        for line in (y, "low", "high"):
            off = np.abs(np.array(pooled[curve][line]) - np.array(in_one_place[curve][line]))
            assert np.median(off) < 0.02, (curve, line)


def test_the_answer_is_the_same_whenever_it_is_asked_for_and_hangs_on_the_secret(
    sites: dict[str, Scored],
) -> None:
    first, again, other = (sampled(sites["a"], secret) for secret in (b"x", b"x", b"y"))
    assert (first.replicates == again.replicates).all()
    assert (first.replicates != other.replicates).any()


def test_a_cell_holds_images_of_several_patients(sites: dict[str, Scored]) -> None:
    for scored in sites.values():
        margins, data = scored
        bins, found = ScoreHistogram.from_scores, sampled(scored)
        for label, starts in enumerate(found.starts):
            mine = [k for k in range(len(data)) if data.labels[k] == label]
            for start, end in zip(starts, (*starts[1:], 1024), strict=True):
                one = [bins([margins[k]], [label]).counts[label].argmax() for k in mine]
                owners = {
                    data.patients[k] for k, place in zip(mine, one, strict=True) if start <= place < end
                }
                assert len(owners) >= FEWEST_PATIENTS or not mine


def test_a_site_of_one_patient_has_one_cell_and_an_interval_that_says_little() -> None:
    found = sampled(site("tiny", 1, 5))
    assert found.starts == ((0,), (0,))
    assert assess_pooled({"tiny": found}, 0.5, SCALING)["metrics"]["auroc"] is None


def changed(found: Sampled, **values: object) -> Sampled:
    return replace(found, **values)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "change",
    [
        lambda s: {"replicates": s.replicates[:-1]},
        lambda s: {"replicates": s.replicates.astype(np.float64)},
        lambda s: {"replicates": s.replicates.astype(np.int64)},
        lambda s: {"replicates": -s.replicates},
        lambda s: {"replicates": np.concatenate([s.replicates[:-1], 0 * s.replicates[:1]])},
        lambda s: {"replicates": s.replicates * 2},
        lambda s: {"replicates": np.full_like(s.replicates, 2**31 - 1)},
        lambda s: {"replicates": s.replicates[:, ::-1].copy()},
        lambda s: {"starts": ((1, *s.starts[0][1:]), s.starts[1])},
        lambda s: {"starts": ((0, 5, 5, *s.starts[0][3:]), s.starts[1])},
        lambda s: {"starts": (s.starts[0], (*s.starts[1][:-1], 1024))},
        lambda s: {"starts": (tuple(range(300)), s.starts[1])},
        lambda s: {"starts": ((), s.starts[1])},
        lambda s: {"patients": (s.patients[0], s.patients[1], 10_000)},
        lambda s: {"patients": (10_000, s.patients[1], 10_000)},
        lambda s: {"patients": (0, s.patients[1], s.patients[1])},
    ],
)  # fmt: skip
def test_samples_that_cannot_be_of_the_histogram_are_refused(
    change: object, sites: dict[str, Scored]
) -> None:
    found = sampled(sites["a"])
    with pytest.raises(DataError):
        changed(found, **change(found)).check()  # type: ignore[operator]


def test_samples_take_little_room(sites: dict[str, Scored]) -> None:
    assert sampled(sites["b"]).replicates.shape[0] == REPLICATES
    assert sampled(sites["b"]).replicates.nbytes < 400_000
