"""Going on from a saved model: which one it is, what must agree, what is written down of it, and what never is."""

import shutil
from pathlib import Path

import pytest
import torch
import yaml

from conftest import ROOT, read_json
from pneumonia_fl.config.job import JobConfig, load_job
from pneumonia_fl.config.sections import ModelConfig, Origin, Preprocess
from pneumonia_fl.config.strict import parse
from pneumonia_fl.errors import CheckpointError, ConfigError, PneumoniaFLError
from pneumonia_fl.experiments.compare.compare_plan import plan_comparison
from pneumonia_fl.experiments.sweep import parse_grid
from pneumonia_fl.fl.admin.submit import resolve, same_model
from pneumonia_fl.fl.job.initial_model import begin
from pneumonia_fl.fl.job.recipe import export_job, recipe_for
from pneumonia_fl.fl.protocol.carried_models import hash_of
from pneumonia_fl.fl.protocol.carried_weights import sha256_of
from pneumonia_fl.models.architectures import build_model
from pneumonia_fl.models.checkpoint import ModelCard, load_state, save_model
from pneumonia_fl.tracking.mlflow_client import connect

JOB = ROOT / "jobs" / "fedavg.yml"
SITES = ("asia-hospital", "us-hospital")


def job_of(*overrides: str) -> JobConfig:
    return load_job(JOB, overrides)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with a saved model, as far as anybody looks who goes on from it."""
    folder = tmp_path_factory.mktemp("rüns at home") / "first run"
    card = ModelCard(
        job="fedavg",
        round=3,
        seed=1,
        model=ModelConfig(),
        preprocess=Preprocess(size=32, normalisation="fixed"),
        threshold=0.2,
        temperature=3.0,
    )
    save_model(folder / "model", build_model("small_resnet", "batch", 32, seed=3).state_dict(), card)
    last = build_model("small_resnet", "batch", 32, seed=4).state_dict()
    save_model(folder / "model_last", last, card.model_copy(update={"round": 8, "averaged": 5}))
    (folder / "run.json").write_text("{}")
    return folder


@pytest.mark.parametrize(
    ("place", "name"),
    [
        ("", "first run, round 3"),
        ("model", "first run, round 3"),
        ("model/model.safetensors", "first run, round 3"),
        ("model_last", "first run, mean of the last models"),
    ],
)
def test_a_model_is_named_without_its_path_and_known_by_the_hash_of_its_file(
    place: str, name: str, run: Path
) -> None:
    job, weights = begin(job_of(f"init_from='{run / place}'"), JOB)
    file = run / ("model_last" if "last" in place else "model") / "model.safetensors"
    assert job.init_from == Origin(name=name, weights=sha256_of(file))
    assert weights is not None
    assert hash_of(weights) == sha256_of(file)


def test_a_copied_model_is_named_after_its_folder(run: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(run / "model", tmp_path / "from a\\ colleague v1.2")
    for source in (copy, copy / "model.safetensors"):
        job, _ = begin(job_of(f"init_from='{source}'"), JOB)
        assert isinstance(job.init_from, Origin)
        assert job.init_from.name == "from a- colleague v1.2, round 3"


def test_the_home_folder_is_understood(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(run.parent))
    assert begin(job_of("init_from='~/first run'"), JOB)[1] is not None


def test_the_job_takes_over_the_models_input_and_nothing_else(run: Path) -> None:
    before = job_of(f"init_from='{run}'")
    job, _ = begin(before, JOB)
    assert resolve(job, None).preprocess == Preprocess(size=32, normalisation="fixed")
    assert job.model_copy(update={"init_from": None, "preprocess": None}) == before.model_copy(
        update={"init_from": None}
    )


@pytest.mark.parametrize(
    ("overrides", "problem"),
    [
        (["model.name=resnet18"], "model.name is small_resnet, the job's is resnet18; set model.name=small"),
        (["model.norm=group"], "model.norm is batch, the job's is group"),
        (["preprocess.size=64"], "preprocess.size is 32, the job's is 64"),
        (["preprocess.normalisation=per_image"], "preprocess.normalisation is fixed, the job's is per_image"),
        (["model.name=resnet18", "model.pretrained=imagenet"], "init_from needs model.pretrained none"),
        (["algorithm.name=fedbn"], "fedbn cannot start from a saved model"),
    ],
)
def test_another_network_or_input_is_refused_by_name(overrides: list[str], problem: str, run: Path) -> None:
    with pytest.raises(ConfigError, match=problem):
        begin(job_of(f"init_from='{run}'", *overrides), JOB)


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ("nowhere", "nowhere does not exist"),
        ("~nobody-at-all/x", "no home folder is known for ~nobody-at-all"),
        (str(ROOT / "jobs"), "model_card.json not found"),
        ("mlflow:http://127.0.0.1:1/x", "write mlflow:models:/NAME/VERSION or mlflow:runs:/ID/model"),
        ("mlflow:models:/x/1", "set PNEUMONIA_FL_TRACKING_URI"),
    ],
)
def test_what_is_no_model_is_one_line(
    source: str, problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PneumoniaFLError, match=problem):
        begin(job_of(f"init_from='{source}'"), JOB)


@pytest.mark.parametrize("value", [{"name": "a/b", "weights": f"sha256:{'0' * 64}"}, {"name": "a"}, [1]])
def test_a_job_that_runs_holds_no_path(value: object) -> None:
    with pytest.raises(ConfigError, match="init_from"):
        parse(JobConfig, {"name": "job", "init_from": value}, "job.yml")


def test_nothing_of_the_path_is_in_the_exported_job(run: Path, tmp_path: Path) -> None:
    job, weights = begin(job_of(f"init_from='{run}'"), JOB)
    folder = export_job(job, SITES, tmp_path, weights=weights)
    about = read_json(folder / "meta.json")["custom_props"]["pneumonia_fl"]["config"]
    assert about["init_from"] == {
        "name": "first run, round 3",
        "weights": sha256_of(run / "model/model.safetensors"),
    }
    text = b"".join(file.read_bytes() for file in folder.rglob("*") if file.is_file())
    assert b"at home" not in text
    sent = load_state(folder / "app_server/config/weights/initial.safetensors")
    kept = load_state(run / "model" / "model.safetensors")
    assert sent.keys() == kept.keys()
    assert all(torch.equal(sent[key], kept[key]) for key in kept)


def test_a_run_is_repeated_with_the_weights_beside_its_job_file(run: Path, tmp_path: Path) -> None:
    job, weights = begin(job_of(f"init_from='{run}'"), JOB)
    assert weights is not None
    (tmp_path / "config.yml").write_text(yaml.safe_dump(job.model_dump(mode="json", exclude_none=True)))
    (tmp_path / "initial.safetensors").write_bytes(weights)
    again = load_job(tmp_path / "config.yml")
    assert begin(again, tmp_path / "config.yml") == (job, weights)
    (tmp_path / "initial.safetensors").write_bytes(weights[:-1])
    with pytest.raises(CheckpointError, match="--init-from"):
        begin(again, tmp_path / "config.yml")


def test_a_resumed_job_needs_no_weights_and_any_other_does(run: Path, tmp_path: Path) -> None:
    job, _ = begin(job_of(f"init_from='{run}'"), JOB)
    earlier = "e4bfe460-cbd8-44e5-b0a8-fd0c658f8af6"
    assert not list(export_job(job, SITES, tmp_path, resume_from=earlier).rglob("*.safetensors"))
    with pytest.raises(ConfigError, match="name it with --init-from"), recipe_for(job, SITES, "installed"):
        pass


def test_a_clone_has_to_be_given_the_same_model_again(run: Path) -> None:
    job, weights = begin(job_of(f"init_from='{run}'"), JOB)
    assert same_model(job, str(run)) == (job, weights)
    assert same_model(job_of(), None) == (job_of(), None)
    with pytest.raises(ConfigError, match=r"'first run, round 3'; .*--init-from"):
        same_model(job, None)
    with pytest.raises(ConfigError, match="model_last is not the model"):
        same_model(job, str(run / "model_last"))
    with pytest.raises(ConfigError, match="did not start from a saved model"):
        same_model(job_of(), str(run))


def test_a_swarm_begins_with_it_too(run: Path) -> None:
    job, weights = begin(load_job(ROOT / "jobs" / "swarm.yml", [f"init_from='{run}'"]), JOB)
    with recipe_for(job, ("a", "b"), "simulator", weights=weights):
        begun = torch.load("initial.pt", weights_only=True)
    assert torch.equal(begun["stem.0.weight"], load_state(run / "model/model.safetensors")["stem.0.weight"])


def test_a_model_of_the_registry_is_fetched(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    client = connect(uri, 10)
    experiment = client.create_experiment("x", artifact_location=(tmp_path / "artifacts").as_uri())
    logged = client.create_run(experiment).info
    client.log_artifacts(logged.run_id, str(run / "model"), artifact_path="model")
    client.create_registered_model("pneumonia-fl-fedavg")
    client.create_model_version("pneumonia-fl-fedavg", source=f"{logged.artifact_uri}/model")
    names = {
        "models:/pneumonia-fl-fedavg/1": "pneumonia-fl-fedavg version 1, round 3",
        f"runs:/{logged.run_id}/model": f"MLflow run {logged.run_id}, round 3",
    }
    for source, name in names.items():
        job, weights = begin(job_of(f"init_from='mlflow:{source}'"), JOB)
        assert job.init_from == Origin(name=name, weights=sha256_of(run / "model/model.safetensors"))
        assert weights is not None
    with pytest.raises(CheckpointError, match="mlflow:models:/pneumonia-fl-fedavg/2"):
        begin(job_of("init_from=mlflow:models:/pneumonia-fl-fedavg/2"), JOB)


def test_comparisons_and_grids_refuse_it_by_name(run: Path, demo_data: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="needs arms that all begin alike"):
        plan_comparison(demo_data, ["fedavg"], 1, [f"init_from='{run}'"], False)
    with pytest.raises(ConfigError, match="init_from is no setting to sweep"):
        parse_grid([f"init_from={run}"])


def test_old_cards_have_no_origin(run: Path) -> None:
    text = (run / "model/model_card.json").read_text()
    values = yaml.safe_load(text) | {"version": 3}
    del values["init_from"]
    assert parse(ModelCard, values, "card").init_from is None
