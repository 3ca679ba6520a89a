"""A saved model on real files: what `evaluate` finds, says and keeps."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner
from xrays import SPEC, kaggle_files, prepare_small, write_zip

from conftest import read_json
from pneumonia_fl.cli.main import app
from pneumonia_fl.config.sections import ModelConfig
from pneumonia_fl.data.sources.open_source import load_split, open_source
from pneumonia_fl.data.store import ImageSet
from pneumonia_fl.errors import DataError
from pneumonia_fl.evaluation.assess import assess
from pneumonia_fl.evaluation.evaluate import Evaluation, evaluate_source, keep
from pneumonia_fl.evaluation.scoring import margins
from pneumonia_fl.metrics.binary import exact_metrics
from pneumonia_fl.metrics.platt import PLAIN, Scaling
from pneumonia_fl.models.architectures import build_model
from pneumonia_fl.models.checkpoint import CARD, ModelCard, load_model, save_model

CARD_VALUE = ModelCard(
    job="smoke",
    round=3,
    seed=7,
    model=ModelConfig(),
    preprocess=SPEC,
    temperature=0.2,
    offset=0.3,
    threshold=0.45,
    operating_point="sensitivity >= 0.95 on validation",
    metrics={"sensitivity": 0.96, "specificity": 0.9, "ece": 0.02, "n": 50},
)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run folder with an untrained model."""
    folder = tmp_path / "my run"
    save_model(folder / "model", build_model(size=16, seed=5).state_dict(), CARD_VALUE)
    (folder / "run.json").write_text("{}")
    return folder


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_zip(tmp_path_factory.mktemp("source") / "x-rays.zip", kaggle_files(patients=24))


@pytest.fixture(scope="module")
def prepared(archive: Path) -> Path:
    out = archive.parent / "prepared"
    prepare_small(archive, out)
    return out


@pytest.fixture(scope="module")
def result(archive: Path) -> Evaluation:
    """The untrained model on the test split."""
    save_model(archive.parent / "model", build_model(size=16, seed=5).state_dict(), CARD_VALUE)
    return evaluate_source(archive.parent / "model", str(archive), "test")


def run_cli(*words: object) -> tuple[int, str, str]:
    done = CliRunner(env={"COLUMNS": "300"}).invoke(app, ["evaluate", *map(str, words)])
    return done.exit_code, done.stdout, done.stderr


def some(labels: list[int], patients: list[str] | None = None) -> ImageSet:
    subtypes = ["viral" if label else "normal" for label in labels]
    owners = patients or [str(index) for index in range(len(labels))]
    return ImageSet(np.zeros((len(labels), 1, 1), np.uint8), np.array(labels), owners, subtypes)


def test_the_result_is_that_of_the_scores(run: Path, archive: Path, result: Evaluation) -> None:
    data = load_split(open_source(str(archive)), "test", SPEC)
    score = margins(load_model(run / "model")[0], data.images, SPEC)
    exact = exact_metrics(score, data.labels, 0.45, Scaling(0.2, 0.3))
    assert {name: getattr(exact, name) for name in result.metrics} == pytest.approx(result.metrics)
    assert (result.n, result.positives, result.patients) == (24, 12, 12)
    table = result.confusion
    assert table["tp"] / (table["tp"] + table["fn"]) == result.metrics["sensitivity"]
    assert table["tn"] / (table["tn"] + table["fp"]) == result.metrics["specificity"]
    assert sum(table.values()) == sum(one["n"] for one in result.reliability) == 24


def test_the_result_says_what_the_card_says_and_nothing_of_where_the_data_is(
    result: Evaluation, archive: Path
) -> None:
    values = result.to_dict()
    assert (values["version"], values["model"], values["round"]) == (1, "smoke", 3)
    assert (values["threshold"], values["temperature"], values["offset"]) == (0.45, 0.2, 0.3)
    assert values["validation"] == {"sensitivity": 0.96, "specificity": 0.9, "ece": 0.02}
    assert values["source"] == "zip"
    text = json.dumps(values)
    assert str(archive.parent) not in text
    assert "person" not in text


def test_subtypes_are_counted_apart(result: Evaluation) -> None:
    subtypes = result.subtypes
    ill = [subtypes[name] for name in ("bacterial", "viral") if name in subtypes]
    assert sum(one["detected"] for one in ill) == result.confusion["tp"]
    assert subtypes["normal"]["rate"] == result.metrics["specificity"]
    assert all(one["ci"][0] <= one["rate"] <= one["ci"][1] for one in subtypes.values())


def test_intervals_and_bands_hold_their_estimates(result: Evaluation) -> None:
    for name in ("auroc", "sensitivity", "specificity", "f1", "accuracy", "balanced_accuracy", "brier"):
        low, high = result.intervals[name] or (1.0, 0.0)
        assert low <= (result.metrics[name] or 0) <= high, name
    for curve, line in ((result.roc, "tpr"), (result.pr, "precision")):
        assert curve is not None
        assert {len(values) for values in curve.values()} == {101}
        assert np.all(np.array(curve["low"]) <= curve["high"])
        inside = (np.array(curve["low"]) <= curve[line]) & (np.array(curve[line]) <= curve["high"])
        assert inside.mean() > 0.9


def test_prepared_data_gives_the_same_and_its_manifest(run: Path, prepared: Path, result: Evaluation) -> None:
    ours = evaluate_source(run, str(prepared), "test")
    assert ours.metrics == pytest.approx(result.metrics)
    assert ours.subtypes.keys() == result.subtypes.keys()
    assert ours.manifest_sha256 == read_json(prepared / "dataset.json")["manifest_sha256"]
    assert (ours.source, result.manifest_sha256) == (result.source, None)


@pytest.mark.parametrize(("label", "defined"), [(1, "sensitivity"), (0, "specificity")])
def test_one_class_has_no_curves_and_says_the_rate_it_has(label: int, defined: str) -> None:
    values = assess([1.0, 2.0, -1.0], some([label] * 3), 0.5, PLAIN)
    assert (values["roc"], values["pr"], values["metrics"]["auroc"]) == (None, None, None)
    assert values["intervals"]["auroc"] is None
    rates = {name for name in ("sensitivity", "specificity") if values["metrics"][name] is not None}
    assert (
        rates == {name for name in ("sensitivity", "specificity") if values["intervals"][name]} == {defined}
    )
    json.dumps(values, allow_nan=False)


def test_three_images_have_wide_intervals() -> None:
    values = assess([-1.0, 1.0, 2.0], some([0, 1, 1]), 0.5, PLAIN)
    assert values["metrics"]["accuracy"] == 1
    assert values["intervals"]["sensitivity"] == pytest.approx((0.025**0.5, 1))
    assert values["intervals"]["specificity"] == pytest.approx((0.025, 1))
    assert values["subtypes"]["viral"]["ci"] == pytest.approx((0.025**0.5, 1))
    json.dumps(values, allow_nan=False)


def test_patients_are_counted_once_where_nothing_failed() -> None:
    alone = assess([-1.0, 1.0, 2.0, 3.0], some([0, 1, 1, 1]), 0.5, PLAIN)["intervals"]["sensitivity"]
    one = assess([-1.0, 1.0, 2.0, 3.0], some([0, 1, 1, 1], ["a", "b", "b", "b"]), 0.5, PLAIN)["intervals"]
    assert one["sensitivity"] == pytest.approx((0.025, 1))
    assert alone[0] > 0.2


def test_no_images_are_an_error() -> None:
    with pytest.raises(DataError, match="no images"):
        assess([], some([]), 0.5, PLAIN)


def kept(run: Path) -> dict[str, Any]:
    return {path.name: read_json(path) for path in sorted((run / "evaluations").glob("*"))}


def test_every_reading_is_kept_and_counted(run: Path, result: Evaluation) -> None:
    assert [keep(run, result), keep(run / "model", result), keep(run / "model" / CARD, result)] == [1, 2, 3]
    assert list(kept(run)) == ["test-01.json", "test-02.json", "test-03.json"]
    assert kept(run)["test-01.json"] == json.loads(json.dumps(result.to_dict()))


def test_a_reading_is_never_replaced_by_a_later_one(run: Path, result: Evaluation) -> None:
    keep(run, result)
    keep(run, result)
    second = run / "evaluations" / "test-02.json"
    second.write_text(second.read_text() + "\n")
    (run / "evaluations" / "test-01.json").unlink()
    keep(run, result)
    assert list(kept(run)) == ["test-02.json", "test-03.json"]
    assert second.read_text().endswith("\n")


def test_readings_at_the_same_time_do_not_collide(run: Path, result: Evaluation) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: keep(run, result), range(16)))
    assert list(kept(run)) == [f"test-{number:02d}.json" for number in range(1, 17)]


def test_a_link_in_a_run_folder_is_not_followed(run: Path, archive: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (run / "evaluations").symlink_to(tmp_path / "elsewhere")
    code, out, err = run_cli(run, "--source", archive, "--json")
    assert (code, json.loads(out)["n"]) == (0, 24)
    assert "is a link that leads elsewhere" in err
    assert not list((tmp_path / "elsewhere").iterdir())


def test_another_split_or_source_is_counted_apart(run: Path, result: Evaluation) -> None:
    other = Evaluation(**{**vars(result), "source": "kaggle"})
    train = Evaluation(**{**vars(result), "split": "train"})
    assert [keep(run, one) for one in (result, other, train, result)] == [1, 1, 1, 2]
    (run / "evaluations" / "test-02.json").write_text("{half")
    assert keep(run, result) == 3


def test_a_model_outside_a_run_is_evaluated_and_nothing_written(run: Path, archive: Path) -> None:
    (run / "run.json").unlink()
    code, out, _ = run_cli(run / "model", "--source", archive, "--json")
    assert code == 0
    assert json.loads(out)["n"] == 24
    assert sorted(path.name for path in run.iterdir()) == ["model"]


def test_a_run_folder_that_cannot_be_written_costs_a_warning_only(run: Path, archive: Path) -> None:
    (run / "evaluations").write_text("not a folder")
    code, out, err = run_cli(run, "--source", archive, "--json")
    assert code == 0
    assert json.loads(out)["n"] == 24
    assert "warning: this evaluation is not kept" in err


def test_a_person_reads_metrics_shift_readings_and_disclaimer(run: Path, archive: Path) -> None:
    run_cli(run, "--source", archive)
    code, out, _ = run_cli(run, "--source", archive)
    text = " ".join(out.split())
    assert code == 0
    for words in (
        "smoke, round 3, on split test of zip: 24 images, 12 patients",
        "Threshold 0.450 on P(pneumonia): sensitivity >= 0.95 on validation",
        "0.960 on validation",
        "without the temperature 0.20 and the offset 0.30",
        "this run has read split test of zip 2 times now",
        "Always “pneumonia” │ 0.5000",
        "Not a medical device",
    ):
        assert words in text, words


def test_a_run_of_version_1_is_evaluated_as_it_was_saved(run: Path, archive: Path) -> None:
    card = read_json(run / "model" / CARD) | {"version": 1, "metrics": {}}
    del card["temperature"], card["offset"], card["operating_point"]
    (run / "model" / CARD).write_text(json.dumps(card))
    result = evaluate_source(run, str(archive), "test")
    assert (result.temperature, result.offset, result.operating_point) == (1.0, 0.0, "")
    same = {name: result.metrics[name] for name in ("ece", "brier")} | {"reliability": result.reliability}
    assert result.uncalibrated == same
    assert result.validation == {"sensitivity": None, "specificity": None, "ece": None}
    code, out, _ = run_cli(run, "--source", archive)
    assert code == 0
    assert "as the model card says" in out
