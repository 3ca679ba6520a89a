"""What a site reports is read whole or refused with a reason; it weighs no more than its images."""

import sys
from dataclasses import fields
from typing import Any

import numpy as np
import pytest
from site_reports import HISTOGRAM, TRAINING, data, personal, report

from pneumonia_fl.errors import AnswerError
from pneumonia_fl.fl.protocol.site_report import (
    MAX_SIZE,
    Expected,
    Facts,
    Personal,
    SiteProblem,
    SiteReport,
    parse_report,
)
from pneumonia_fl.metrics.binary import BINS, Metrics, ScoreHistogram, summarise
from pneumonia_fl.metrics.series import is_site_tag, series


def parsed(raw: Any, **expected: Any) -> SiteReport:
    found = parse_report(raw, Expected("a", **expected))
    assert isinstance(found, SiteReport)
    return found


def counts(normal: int, pneumonia: int) -> dict[str, Any]:
    row = [0] * (BINS - 1)
    return {"counts": [[normal, *row], [pneumonia, *row]], "loss_sum": 1.0}


def test_a_whole_report_is_read() -> None:
    found = parsed(report(personal=personal()))
    assert found.training is not None
    assert found.training.model_dump() == TRAINING
    np.testing.assert_array_equal(found.scores.counts, HISTOGRAM["counts"])
    assert found.values() == {**TRAINING, "personal": personal()}


def test_an_evaluation_has_no_training() -> None:
    assert parsed(report(task="validate"), task="validate").values() == {}


def test_a_site_speaks_for_itself_only() -> None:
    said = data() | {"counts": data("a")["counts"] | data("b")["counts"]}
    facts = parsed(report(data=said)).data
    assert facts is not None
    assert facts.model_dump() == data("a")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"training": {"train_samples": 5}}, "training.train_loss: Field required"),
        ({"training": {**TRAINING, "auroc": 0.999999}}, "training.auroc: Extra inputs"),
        (
            {"training": {**TRAINING, "train_loss": float("nan")}},
            "training.train_loss: Input should be a finite",
        ),
        ({"training": {**TRAINING, "train_loss": -1.0}}, "training.train_loss"),
        ({"training": {**TRAINING, "steps": 0}}, "training.steps"),
        ({"training": {**TRAINING, "steps": 3.0}}, "training.steps"),
        ({"training": {**TRAINING, "train_samples": 901}}, "trained on 901 images; 900 are possible"),
        ({"training": {**TRAINING, "steps": 10}}, "made 10 steps with 9 images"),
        ({"training": {}}, "training does not belong to a task train"),
        ({"data": {**data(), "x": float("nan")}}, "data.x: Extra inputs"),
        ({"data": {**data(), "credit": "x" * 200_000_000}}, f"larger than {MAX_SIZE} bytes"),
        ({"data": {**data(), "manifest_sha256": "../../x"}}, "data.manifest_sha256"),
        ({"data": None}, "data does not belong"),
        ({"data": data("b")}, "counts 2 validation images, its data set has 0"),
        ({"histogram": {**HISTOGRAM, "loss_sum": float("inf")}}, "histogram.loss_sum"),
        ({"histogram": {**HISTOGRAM, "loss_sum": 1e300}}, "histogram.loss_sum"),
        ({"histogram": {"counts": [[1]], "loss_sum": 0.1}}, "histogram.counts.0"),
        ({"histogram": ScoreHistogram.empty().to_dict()}, "counts 0 validation images"),
        ({"histogram": counts(1, 2)}, "counts 3 validation images, its data set has 2"),
        ({"histogram": counts(0, 2)}, "0 and 2 validation images by class, its data set has 1 and 1"),
        ({"histogram": counts(10**7, 10**7)}, "counts 20000000 validation images"),
        ({"histogram": counts(2**62, 1)}, "histogram.counts.0.0"),
        ({"histogram": counts(-1, 3)}, "histogram.counts.0.0"),
        ({"histogram": "many"}, "histogram"),
        ({"personal": {**personal(), "auroc": "good"}}, "personal.auroc"),
        ({"personal": {**personal(), "auroc": 1.5}}, "personal.auroc"),
        ({"personal": {**personal(), "n": 3}}, "was not judged on its validation images"),
        ({"weights": np.zeros(3)}, "it holds a ndarray"),
        ({"more": {}}, "more: Extra inputs"),
        ({"\x1b[2J": 1}, "report is broken:  *\\[2J: Extra"),
        ({"deep": [[[[[[[[1]]]]]]]]}, "too deep"),
        ({"huge": 10 ** sys.get_int_max_str_digits() * 10}, "huge: Extra"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_report_is_refused_and_its_fault_is_named(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(AnswerError, match=words) as refused:
        parsed(report(**changes))
    assert str(refused.value).isprintable()
    assert len(str(refused.value)) < 300


@pytest.mark.parametrize(
    "raw", [None, [], "text", 5, {}, {1: 2}, {"problem": None}, {"problem": "x", "data": {}}]
)
def test_what_is_no_report_is_refused(raw: object) -> None:
    with pytest.raises(AnswerError, match="its report is broken"):
        parse_report(raw, Expected("a"))


def test_a_problem_is_a_report_of_one_printable_line() -> None:
    found = parse_report({"problem": "MemoryError:\n\x1b[31m" + "x" * 3000}, Expected("a"))
    assert isinstance(found, SiteProblem)
    assert found.problem.startswith("MemoryError: [31mxxx")
    assert len(found.problem) == 200


def test_a_data_set_stays_what_it_was_in_the_first_answer() -> None:
    first = Facts.model_validate(data())
    assert parsed(report(), data=first).data == first
    larger = data()
    larger["counts"]["a"]["val"]["NORMAL"] = 10**7 - 1
    with pytest.raises(AnswerError, match="not that of its first answer"):
        parsed(report(histogram=counts(10**7 - 1, 1), data=larger), data=first)
    with pytest.raises(AnswerError, match="its data set has 2"):
        parsed({"histogram": counts(1, 3)}, task="cross_site", data=first)


def test_the_local_epochs_of_the_job_bound_the_samples() -> None:
    parsed(report(training={**TRAINING, "train_samples": 18}), passes=2)
    with pytest.raises(AnswerError, match="19 images; 18 are possible"):
        parsed(report(training={**TRAINING, "train_samples": 19}), passes=2)


def test_long_citations_are_cut_and_nothing_else_of_the_facts_changes() -> None:
    facts = parsed(report(data={**data(), "credit": "Kermany et al.\n" + "x" * 600})).data
    assert facts is not None
    assert facts.credit.startswith("Kermany et al. xxx")
    assert len(facts.credit) == 500


def test_a_personal_report_has_the_metrics_of_every_other() -> None:
    assert list(Personal.model_fields) == [field.name for field in fields(Metrics)]


def test_pooled_counts_of_many_full_sites_do_not_overflow() -> None:
    full = ScoreHistogram.from_dict(counts(5 * 10**6, 5 * 10**6))
    pooled = ScoreHistogram(full.counts * 1000, full.loss_sum * 1000)
    assert summarise(pooled).auroc == 0.5


def test_a_site_publishes_series_of_the_schema_only() -> None:
    tags = series(summarise(ScoreHistogram.from_dict(HISTOGRAM)))
    assert all(is_site_tag(tag) and is_site_tag(f"personal_{tag}") for tag in [*tags, "train_loss"])
    for tag in (
        "../../x",
        "global/validation_auc",
        "validation_n",
        "personal_personal_train_loss",
        "",
        5,
        None,
    ):
        assert not is_site_tag(tag)
