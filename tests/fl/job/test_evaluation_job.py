"""Saved models on their way to the sites and back: what a gate takes, what a site scores, what the server keeps."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from job_changes import argument, edit
from nvflare.app_common.abstract.fl_model import FLModel
from nvflare.fuel.sec.audit import AuditService
from saved_models import CARD, evaluation, subject
from typer.testing import CliRunner
from xrays import SITES, SPEC, kaggle_files, prepare_small, write_zip

from pneumonia_fl.cli.main import app
from pneumonia_fl.config.environment import (
    DATA_VARIABLE,
    KIT_VARIABLE,
    NO_EVALUATION_VARIABLE,
    SITE_STATE_VARIABLE,
)
from pneumonia_fl.data.store import open_split
from pneumonia_fl.errors import CheckpointError, ConfigError, DataError, PneumoniaFLError, RunError
from pneumonia_fl.evaluation.patient_pooling import assess_pooled
from pneumonia_fl.evaluation.scoring import margins
from pneumonia_fl.fl.job.recipe import export_job
from pneumonia_fl.fl.parent.expected_job import SERVER_FILE, SITE_FILE
from pneumonia_fl.fl.parent.job_validator import ServerJobValidator, SiteJobValidator
from pneumonia_fl.fl.protocol.carried_weights import weights_file
from pneumonia_fl.fl.protocol.messages import CROSS_SITE, OPTED_OUT, REPLICATES, SITE_REPORT
from pneumonia_fl.fl.protocol.site_report import Expected, SiteReport, parse_report
from pneumonia_fl.fl.server.evaluation_controller import _sampled
from pneumonia_fl.fl.simulator.evaluation_job import chosen, evaluation_job, found_of, model_paths
from pneumonia_fl.fl.site.client import job_settings
from pneumonia_fl.fl.site.saved_model_scoring import READINGS, SavedModels
from pneumonia_fl.metrics.binary import ScoreHistogram
from pneumonia_fl.models.architectures import build_model
from pneumonia_fl.models.checkpoint import save_model
from pneumonia_fl.results.cross_site_files import matrix_of
from pneumonia_fl.runs.folder import RunFolder

SERVER, SITE = ServerJobValidator("strict", False), SiteJobValidator("locked", False)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    models = [subject("best"), subject("North-1", seed=6)]
    weights = {one.name: one.weights for one in models}
    return export_job(*evaluation(*models), tmp_path_factory.mktemp("exported"), models=weights)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    prepare_small(write_zip(folder / "x-rays.zip", kaggle_files(patients=24)), folder / "prepared")
    return folder / "prepared"


@pytest.fixture
def at_site(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The environment of a site; the folder is where it keeps its own things."""
    monkeypatch.setenv(DATA_VARIABLE, str(prepared))
    monkeypatch.setenv(SITE_STATE_VARIABLE, str(tmp_path / "{job}"))
    monkeypatch.setenv(NO_EVALUATION_VARIABLE, "")
    return tmp_path


def app_of(exported: Path, half: str, tmp_path: Path) -> Path:
    import shutil

    return Path(shutil.copytree(exported / half, tmp_path / "job" / half))


def test_strict_servers_and_sites_take_the_job_and_name_models_and_split_in_the_audit_log(
    exported: Path, tmp_path: Path
) -> None:
    log = tmp_path / "audit.log"
    AuditService.initialize(str(log))
    try:
        assert SERVER.validate(str(exported / "app_server")) == ("", {})
        assert SITE.validate(str(exported / "app")) == ("", {})
    finally:
        AuditService.close()
    first, second = subject("best").sha256, subject("North-1", seed=6).sha256
    for line in log.read_text().splitlines():
        assert f", evaluates on split test: best {first}, North-1 {second}" in line


CHANGES = {
    "another model": edit(SERVER_FILE, lambda c: saved(c)["best"].update(sha256="sha256:" + "0" * 64)),
    "a model without a hash": edit(SERVER_FILE, lambda c: saved(c)["best"].pop("sha256")),
    "a path for a name": edit(SERVER_FILE, lambda c: saved(c).update({"../x": saved(c)["best"]})),
    "no model": edit(SERVER_FILE, lambda c: saved(c).clear()),
    "the training split": edit(SERVER_FILE, lambda c: judge(c)["evaluation"].update(split="train")),
    "a threshold that decides nothing": edit(SERVER_FILE, lambda c: saved(c)["best"].update(threshold=2.0)),
    "rounds": edit(SERVER_FILE, lambda c: judge(c).update(num_rounds=3)),
    "another split at the sites": edit(
        SITE_FILE,
        lambda c: settings(c)["evaluation"].update(split="val"),
    ),
    "training at the sites": edit(SITE_FILE, lambda c: settings(c).update(evaluation=None)),
    "the controller that trains": edit(
        SERVER_FILE,
        lambda c: c["workflows"][0].update(path="pneumonia_fl.fl.entrypoints.Controller"),
    ),
    "weights of the first model": argument("persistor", weights="sha256:" + "0" * 64),
}


def judge(config: dict[str, Any]) -> dict[str, Any]:
    arguments: dict[str, Any] = config["workflows"][0]["args"]
    return arguments


def saved(config: dict[str, Any]) -> dict[str, Any]:
    models: dict[str, Any] = judge(config)["evaluation"]["models"]
    return models


def settings(config: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = config["executors"][0]["executor"]["args"]["settings"]
    return found


@pytest.mark.parametrize("name", CHANGES)
def test_a_job_that_differs_is_refused(name: str, exported: Path, tmp_path: Path) -> None:
    for half, gate in (("app_server", SERVER), ("app", SITE)):
        app = app_of(exported, half, tmp_path)
        CHANGES[name](app)
        assert f"{gate.place} policy" in gate.validate(str(app))[0]


def test_a_model_that_is_missing_changed_or_not_named_is_refused(exported: Path, tmp_path: Path) -> None:
    app = app_of(exported, "app_server", tmp_path)
    file = weights_file(app, "North-1")
    content = file.read_bytes()
    file.write_bytes(content[:-1] + b"\0")
    assert "'North-1' is not what its configuration names" in SERVER.validate(str(app))[0]
    file.unlink()
    assert "'North-1' is missing" in SERVER.validate(str(app))[0]
    file.write_bytes(content)
    weights_file(app, "third").write_bytes(content)
    assert "does not name 'third'" in SERVER.validate(str(app))[0]


def test_a_job_that_evaluates_is_not_made_without_its_models(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is made by `pneumonia-fl evaluate`"):
        export_job(*evaluation(), tmp_path)


def test_settings_arrive_at_the_site_as_they_were_sent() -> None:
    settings = evaluation(subject("best"), subject("North-1", seed=6))[0].site_settings()
    assert job_settings(settings.model_dump_json()) == settings


def asked(one: Any, **changes: Any) -> FLModel:
    state = build_model(size=SPEC.size, seed=5).state_dict()
    return FLModel(params={**state, **changes}, meta={CROSS_SITE: one.name})


def site(**options: Any) -> SavedModels:
    return SavedModels(evaluation(**options)[0].site_settings(), SITES[0])


def read(answer: FLModel) -> SiteReport:
    report = parse_report(answer.meta[SITE_REPORT], Expected(SITES[0], "evaluate"))
    assert isinstance(report, SiteReport)
    return report


def as_it_arrives(answer: FLModel) -> FLModel:
    """NVFlare hands the server arrays."""
    answer.params = {key: value.numpy() for key, value in answer.params.items()}
    return answer


@pytest.mark.parametrize("split", ["val", "test"])
def test_a_site_scores_its_own_split_and_tells_counts(split: str, prepared: Path, at_site: Path) -> None:
    answer = site(split=split).answer(asked(subject()))
    data = open_split(prepared, SITES[0], split)[1]
    scores = margins(build_model(size=SPEC.size, seed=5).eval(), data.images, SPEC)
    report = read(answer)
    np.testing.assert_array_equal(
        report.scores.counts, ScoreHistogram.from_scores(scores, data.labels).counts
    )
    sampled = _sampled(report, as_it_arrives(answer))
    assert sampled.patients[2] == len(set(data.patients))
    assert assess_pooled({SITES[0]: sampled}, 0.45, CARD.scaling)["n"] == len(data)


def test_the_test_images_of_all_sites_are_those_of_the_test_set(prepared: Path) -> None:
    parts = [open_split(prepared, name, "test")[1] for name in SITES]
    assert sum(map(len, parts)) == 24
    assert not set(parts[0].patients) & set(parts[1].patients)


def test_a_site_counts_how_often_a_split_was_read(at_site: Path) -> None:
    assert [read(site().answer(asked(subject()))).readings for _ in range(3)] == [1, 2, 3]
    assert read(site(split="val").answer(asked(subject()))).readings == 1
    lines = [json.loads(line) for line in (at_site / READINGS).read_text().splitlines()]
    assert [line["split"] for line in lines] == ["test", "test", "test", "val"]
    assert {line["model"] for line in lines} == {subject().sha256}
    assert str(at_site) not in (at_site / READINGS).read_text()


def test_a_matrix_needs_no_samples(at_site: Path) -> None:
    answer = site(intervals=False).answer(asked(subject()))
    assert answer.params is None
    assert read(answer).sample is None


def test_a_site_that_opted_out_reads_nothing(at_site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(NO_EVALUATION_VARIABLE, f"another,{SITES[0]}")
    monkeypatch.setenv(DATA_VARIABLE, "/nowhere")
    assert site().answer(asked(subject())).meta[SITE_REPORT] == {"problem": OPTED_OUT}
    assert not (at_site / READINGS).exists()


def test_a_model_that_the_job_does_not_name_is_not_scored(at_site: Path) -> None:
    other = {"head.1.bias": torch.ones(2)}
    assert other.keys() <= build_model(size=SPEC.size, seed=5).state_dict().keys()
    for message in (asked(subject(), **other), asked(subject("last"))):
        with pytest.raises(CheckpointError, match="is not the one that the job names"):
            site().answer(message)
    assert not (at_site / READINGS).exists()


def test_a_site_without_test_images_says_so(
    prepared: Path, at_site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(DATA_VARIABLE, str(prepared / SITES[0]))
    with pytest.raises(DataError, match=f"site '{SITES[0]}' has no images in split test"):
        site().answer(asked(subject()))


def test_samples_that_are_missing_or_wrong_are_refused_by_name(at_site: Path) -> None:
    answer = as_it_arrives(site().answer(asked(subject())))
    report = read(answer)
    for params in (None, {}, {REPLICATES: "x"}, {REPLICATES: answer.params[REPLICATES], "more": np.ones(1)}):
        with pytest.raises(RunError, match="it sent no samples of its patients"):
            _sampled(report, FLModel(params=params or {"x": 1}, metrics={"x": 1.0}))
    with pytest.raises(DataError):
        _sampled(report, FLModel(params={REPLICATES: answer.params[REPLICATES] + 1}))


def events(*sites: str) -> list[dict[str, Any]]:
    cell = {key: 0.5 for key in ("auroc", "sensitivity", "specificity", "brier", "ece")} | {"n": 4}
    found: list[dict[str, Any]] = [
        {"event": "started", "sites": list(SITES)},
        {"event": "evaluation_started", "split": "test", "models": ["best", "last"], "sites": list(SITES)},
    ]
    for model in ("best", "last"):
        found += [{"event": "cross_site", "model": model, "site": name, "values": cell} for name in sites]
    absent = sorted(set(SITES) - set(sites))
    return found + [{"event": "cross_site_missing", "site": name, "reason": OPTED_OUT} for name in absent * 2]


def test_the_matrix_has_the_form_of_a_runs_own(tmp_path: Path) -> None:
    matrix = matrix_of(events("north"))
    assert (matrix["split"], matrix["models"], matrix["sites"]) == ("test", ["best", "last"], list(SITES))
    assert matrix["missing"] == {"south": OPTED_OUT}
    assert [list(row) for row in matrix["cells"].values()] == [["north"], ["north"]]


def test_what_was_found_is_an_evaluation_of_the_models_own_threshold(at_site: Path) -> None:
    answer = as_it_arrives(site().answer(asked(subject())))
    sampled = _sampled(read(answer), answer)
    together = assess_pooled({SITES[0]: sampled}, CARD.threshold, CARD.scaling)
    told = {
        "event": "evaluated",
        "time": 5.0,
        "model": "best",
        "split": "test",
        "together": together,
        "sites": {},
    }
    found = found_of(subject(), [*events("north"), told])
    assert found is not None
    assert (found.model, found.round, found.threshold, found.source) == ("smoke", 3, 0.45, "federation")
    assert (found.missing, found.subtypes) == ({"south": OPTED_OUT}, {})
    assert found_of(subject("last"), [told]) is None


def test_models_of_a_run_are_found_by_name(tmp_path: Path) -> None:
    run, state = RunFolder(tmp_path), build_model(size=SPEC.size, seed=5).state_dict()
    places = {"best": run.model, "last": run.model_last, "site-1": run.sites / "site-1" / "local_model"}
    for place in places.values():
        save_model(place, state, CARD)
    assert model_paths(run, ["site-1", "best", "last"]) == dict(
        sorted(places.items(), key=lambda p: p[0] != "site-1")
    )
    assert list(model_paths(run, [])) == ["best", "last"]
    with pytest.raises(RunError, match="has no model worst; it has: best, last, site-1"):
        model_paths(run, ["best", "worst"])


def test_models_of_different_networks_are_evaluated_apart() -> None:
    other = subject("last")
    larger = other.card.model_copy(update={"preprocess": SPEC.model_copy(update={"size": 32})})
    with pytest.raises(CheckpointError, match="evaluate them apart"):
        evaluation_job("evaluate", [subject(), type(other)("last", larger, other.weights)], "val", False)


def test_sites_that_are_not_there_and_splits_that_no_site_has_are_refused() -> None:
    assert chosen([], ["b", "a"]) == ("b", "a")
    assert chosen(["a"], ["b", "a"]) == ("a",)
    with pytest.raises(ConfigError, match="no site c; there are: b, a"):
        chosen(["c", "a"], ["b", "a"])
    with pytest.raises(ConfigError, match="split"):
        evaluation(split="train")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("evaluate RUN", "name the images: --source DATA, or the hospitals: --kit KIT"),
        ("evaluate RUN --source data --sites a", "name the images"),
        ("evaluate RUN --source data --kit kit", "give one"),
        ("evaluate RUN --federated", "no kit selected"),
        ("cross-site RUN", "say who evaluates: --data DIR for the simulator, or --kit KIT for the hospitals"),
        ("cross-site RUN --data data --kit kit", "give one"),
        ("cross-site RUN --models worst", "has no model worst; it has: best"),
        ("cross-site RUN/model", "is not a run folder"),
        ("cross-site 1a2b3c4d", "no kit selected"),
        ("cross-site RUN/nothing", "nothing does not exist; `pneumonia-fl runs` lists the runs"),
    ],
)
def test_what_cannot_work_is_said_before_anything_starts(
    line: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_model(tmp_path / "run" / "model", build_model(size=SPEC.size, seed=5).state_dict(), CARD)
    (tmp_path / "run" / "run.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(KIT_VARIABLE, raising=False)
    done = CliRunner().invoke(app, line.replace("RUN", "run").split())
    assert isinstance(done.exception, PneumoniaFLError)
    assert said in str(done.exception)
