"""Weights that travel with a job: to the server only where it can be, to strict servers too, and nothing else."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from conftest import ROOT, read_json
from pneumonia_fl.config.job import JobConfig, load_job
from pneumonia_fl.errors import CheckpointError
from pneumonia_fl.fl.admin.submit import resolve
from pneumonia_fl.fl.job import recipe as jobs
from pneumonia_fl.fl.job.recipe import export_job
from pneumonia_fl.fl.parent.expected_job import SERVER_FILE, SIGNATURE_FILES
from pneumonia_fl.fl.parent.job_validator import ServerJobValidator, SiteJobValidator, digest
from pneumonia_fl.fl.protocol import carried_weights as allowed
from pneumonia_fl.fl.protocol.carried_models import carried, pack
from pneumonia_fl.fl.protocol.carried_weights import INITIAL, sha256_of, weights_file
from pneumonia_fl.models.architectures import build_model

SITES = ("asia-hospital", "us-hospital")
SERVER, SITE = ServerJobValidator("strict", False), SiteJobValidator("strict", False)


def job_of(*overrides: str) -> JobConfig:
    return resolve(load_job(ROOT / "jobs" / "fedavg.yml", ["preprocess.size=32", *overrides]), None)


@pytest.fixture(scope="module")
def network() -> torch.nn.Module:
    return build_model("small_resnet", "batch", 32, seed=3)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory, network: torch.nn.Module) -> Path:
    folder = tmp_path_factory.mktemp("exported")
    return export_job(job_of(), SITES, folder, weights=pack(network.state_dict()))


@pytest.fixture
def job(exported: Path, tmp_path: Path) -> Path:
    """An exported job that a test may change."""
    return Path(shutil.copytree(exported, tmp_path / "job"))


def named(app: Path) -> str:
    (found,) = [c for c in read_json(app / SERVER_FILE)["components"] if c["id"] == "persistor"]
    return str(found["args"]["weights"])


def test_only_the_server_gets_the_weights(exported: Path) -> None:
    assert read_json(exported / "meta.json")["deploy_map"] == {"app_server": ["server"], "app": list(SITES)}
    assert [file.parts[-4] for file in exported.rglob("*.safetensors")] == ["app_server"]
    assert not any(file.name == "custom" for file in exported.rglob("*"))


def test_a_job_for_whichever_sites_come_carries_the_weights_to_all(
    tmp_path: Path, network: torch.nn.Module
) -> None:
    folder = export_job(job_of(), 2, tmp_path, weights=pack(network.state_dict()))
    assert read_json(folder / "meta.json")["deploy_map"] == {"app": ["@ALL"]}
    assert weights_file(folder / "app", INITIAL).is_file()
    for gate in (SERVER, SITE):
        assert gate.validate(str(folder / "app")) == ("", {})


def test_strict_servers_and_sites_take_the_job(job: Path) -> None:
    for app in (job / "app", job / "app_server"):
        for folder in (file.parent for file in [*app.rglob("*")]):  # NVFlare signs each folder
            for name in SIGNATURE_FILES:
                (folder / name).write_text("{}")
    assert SERVER.validate(str(job / "app_server")) == ("", {})
    assert SITE.validate(str(job / "app")) == ("", {})


def test_the_server_and_all_sites_have_run_the_same_configuration(exported: Path) -> None:
    assert digest(exported / "app", ours=True) == digest(exported / "app_server", ours=True)
    assert digest(exported / "app", ours=False) != digest(exported / "app_server", ours=False)


def test_the_weights_arrive_bit_by_bit(exported: Path, network: torch.nn.Module) -> None:
    app = exported / "app_server"
    found = carried(app, INITIAL, {INITIAL: named(app)}, build_model("small_resnet", "batch", 32, seed=9))
    assert named(app) == sha256_of(weights_file(app, INITIAL))
    state = network.state_dict()
    assert found.keys() == state.keys()
    assert all(torch.equal(torch.as_tensor(value), state[key]) for key, value in found.items())
    assert all(torch.as_tensor(value).dtype == state[key].dtype for key, value in found.items())


def test_weights_that_are_missing_changed_or_not_named_are_refused(
    job: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = job / "app_server"
    file = weights_file(app, INITIAL)
    content = file.read_bytes()
    shutil.copy(file, weights_file(app, "second"))
    assert "its configuration does not name 'second'" in SERVER.validate(str(app))[0]
    weights_file(app, "second").unlink()
    file.write_bytes(content[:-1] + b"\0")
    assert "'initial' is not what its configuration names" in SERVER.validate(str(app))[0]
    assert "'initial' is not what its configuration names" in SITE.validate(str(app))[0]
    file.write_bytes(content)
    monkeypatch.setattr(allowed, "MOST_BYTES", len(content) - 1)
    assert "they have more than" in SERVER.validate(str(app))[0]
    file.unlink()
    assert "'initial' is missing" in SERVER.validate(str(app))[0]
    with pytest.raises(CheckpointError, match="'initial' is missing"):
        carried(app, INITIAL, {INITIAL: named(app)}, torch.nn.Identity())


@pytest.mark.parametrize(
    "name",
    [
        "config/weights/initial.pt",
        "config/weights/config_fed_server.json",
        "config/weights/more/initial.safetensors",
        "config/weights/Üb.safetensors",
        "config/weights/.safetensors",
        "config/initial.safetensors",
        "weights/initial.safetensors",
    ],
)
def test_nothing_else_travels_that_way(name: str, job: Path) -> None:
    for app, gate in ((job / "app_server", SERVER), (job / "app", SITE)):
        (app / name).parent.mkdir(parents=True, exist_ok=True)
        (app / name).write_bytes(b"{}")
        assert "a job with more in it than a configuration" in gate.validate(str(app))[0]


def test_a_link_is_no_weights(job: Path) -> None:
    app = job / "app_server"
    file = weights_file(app, INITIAL).rename(job / "elsewhere")
    weights_file(app, INITIAL).symlink_to(file)
    assert "a job with more in it than a configuration" in SERVER.validate(str(app))[0]


@pytest.mark.parametrize("value", ["", "0" * 64, "sha256:" + "0" * 63, "sha256:" + "A" * 64, 1, None])
def test_what_names_no_weights_is_refused(value: object, job: Path) -> None:
    app = job / "app_server"
    config = read_json(app / SERVER_FILE)
    for component in config["components"]:
        if component["id"] == "persistor":
            component["args"]["weights"] = value
    (app / SERVER_FILE).write_text(json.dumps(config))
    assert SERVER.validate(str(app))[0]
    assert SITE.validate(str(app))[0]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "damaged or no safetensors"),
        (b"\xff" * 200, "damaged or no safetensors"),
        (b"PK\x03\x04 a PyTorch file", "damaged or no safetensors"),
        (pack(build_model("small_resnet", "group", 32, seed=3).state_dict()), "do not fit SmallResNet"),
        (pack({"x": torch.zeros(2, dtype=torch.bfloat16)}), "damaged or no safetensors"),
    ],
    ids=["empty", "header", "pytorch", "another network", "another kind of number"],
)
def test_what_is_not_the_networks_weights_is_refused(
    content: bytes, problem: str, job: Path, network: torch.nn.Module
) -> None:
    file = weights_file(job / "app_server", INITIAL)
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match=problem):
        carried(job / "app_server", INITIAL, {INITIAL: sha256_of(file)}, network)


def test_weights_that_are_no_numbers_are_refused(job: Path, network: torch.nn.Module) -> None:
    state = {key: value.clone() for key, value in network.state_dict().items()}
    state["stem.0.weight"][0] = float("nan")
    file = weights_file(job / "app_server", INITIAL)
    file.write_bytes(pack(state))
    with pytest.raises(CheckpointError, match="do not fit"):
        carried(job / "app_server", INITIAL, {INITIAL: sha256_of(file)}, network)


def test_imagenet_weights_travel_to_strict_servers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def downloaded(name: str, seed: int) -> dict[str, torch.Tensor]:
        return build_model(name, "batch", 32, seed=seed).state_dict()

    monkeypatch.setattr(jobs, "imagenet_state", downloaded)
    folder = export_job(job_of("model.name=mobilenet_v3_small", "model.pretrained=imagenet"), SITES, tmp_path)
    assert SERVER.validate(str(folder / "app_server")) == ("", {})
    assert SITE.validate(str(folder / "app")) == ("", {})
    assert named(folder / "app").startswith("sha256:")
