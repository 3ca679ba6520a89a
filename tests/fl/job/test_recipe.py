"""Every shipped job through the real loader and the real recipe, and what must not become a job."""

import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from speed import scaled
from xrays import content

from conftest import ROOT, pneumonia_fl, read_json
from pneumonia_fl.cli.main import main
from pneumonia_fl.config.job import JobConfig, SiteSettings, load_job
from pneumonia_fl.config.job_files import find_job, job_names, jobs_folder
from pneumonia_fl.config.strict import parse
from pneumonia_fl.errors import ConfigError
from pneumonia_fl.fl.job.recipe import export_job
from pneumonia_fl.models.architectures import build_model, count_parameters

JOBS = [name for name in job_names() if name != "swarm"]
"""Those that run on real sites."""
SIZE = "preprocess.size=64"
SERVER = "http://127.0.0.1:5000"


def job_of(name: str, *overrides: str) -> JobConfig:
    sized = load_job(find_job(name)).preprocess is not None
    return load_job(find_job(name), overrides if sized else [SIZE, *overrides])


def server_of(folder: Path) -> dict[str, Any]:
    return read_json(folder / "app/config/config_fed_server.json")


def receivers_of(folder: Path) -> set[str]:
    paths = {component["path"].rpartition(".")[2] for component in server_of(folder)["components"]}
    return {path for path in paths if path.endswith("Receiver")}


def settings_of(folder: Path) -> SiteSettings:
    client = read_json(folder / "app/config/config_fed_client.json")
    return parse(SiteSettings, client["executors"][0]["executor"]["args"]["settings"], "the job")


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Every shipped job, exported once."""
    folder = tmp_path_factory.mktemp("my jobs")
    return {name: export_job(job_of(name), 3, folder) for name in JOBS}


class Cli:
    """The command line inside this process: exit code, stdout, stderr."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch, self._capfd = monkeypatch, capfd

    def __call__(self, *words: object) -> tuple[int, str, str]:
        self._monkeypatch.setattr(sys, "argv", ["pneumonia-fl", *map(str, words)])
        self._capfd.readouterr()
        with pytest.raises(SystemExit) as stop:
            main()
        return int(stop.value.code or 0), *self._capfd.readouterr()


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Iterator[Cli]:
    """In an empty working directory, at a site that has set nothing."""
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.delenv("PNEUMONIA_FL_DATA", raising=False)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    yield Cli(monkeypatch, capfd)
    signal.signal(signal.SIGTERM, before)


def test_the_jobs_of_the_design_are_there() -> None:
    assert {"smoke", "fedavg", "fedprox", "azure_pneumonia_network"} <= set(JOBS)
    assert (jobs_folder() / "client.py").is_file()


@pytest.mark.parametrize("name", JOBS)
def test_a_shipped_job_has_its_files_name_and_a_description(name: str) -> None:
    job = load_job(find_job(name))
    assert job.name == name
    assert job.description.endswith(".")


@pytest.mark.parametrize("name", JOBS)
def test_a_shipped_job_becomes_an_nvflare_job(name: str, exported: dict[str, Path]) -> None:
    folder, job = exported[name], job_of(name)
    assert read_json(folder / "meta.json")["name"] == name
    assert read_json(folder / "meta.json")["min_clients"] == 3
    (workflow,) = server_of(folder)["workflows"]
    assert workflow["path"] in read_json(ROOT / "provisioning/server/resources.json")["class_allow_list"]
    assert workflow["args"]["num_rounds"] == job.rounds
    assert receivers_of(folder) == {"TensorBoardReceiver", "MLflowReceiver", "JournalReceiver"}
    assert settings_of(folder) == job.site_settings()


@pytest.mark.parametrize("name", JOBS)
def test_the_server_builds_the_model_of_the_job(name: str, exported: dict[str, Path]) -> None:
    job = job_of(name)
    (persistor,) = [one for one in server_of(exported[name])["components"] if one["id"] == "persistor"]
    assert persistor["path"] == "pneumonia_fl.fl.entrypoints.Persistor"
    assert persistor["args"] == {
        "network": job.model.name,
        "norm": "none" if name == "fedbn" else job.model.norm,
        "size": job.site_settings().preprocess.size,
        "seed": job.train.seed,
    }


@pytest.mark.parametrize("name", JOBS)
def test_a_job_carries_no_code(name: str, exported: dict[str, Path]) -> None:
    assert not (exported[name] / "app" / "custom").exists()


def test_a_shipped_job_carries_the_package(tmp_path: Path) -> None:
    folder = export_job(job_of("fedavg"), 3, tmp_path, "shipped")
    custom = folder / "app" / "custom" / "pneumonia_fl"
    client = Path("fl/site/client.py")
    assert (custom / client).read_bytes() == (ROOT / "src" / "pneumonia_fl" / client).read_bytes()
    assert not list(folder.rglob("__pycache__"))


def test_the_simulators_job_carries_the_training_script_and_no_other_code(tmp_path: Path) -> None:
    custom = export_job(job_of("fedavg"), 3, tmp_path, "simulator") / "app" / "custom"
    assert [path.name for path in custom.rglob("*") if path.is_file()] == ["client.py"]
    assert (custom / "client.py").read_text() == (jobs_folder() / "client.py").read_text()


def test_a_job_says_what_it_is(exported: dict[str, Path]) -> None:
    about = read_json(exported["fedavg"] / "meta.json")["custom_props"]["pneumonia_fl"]
    assert parse(JobConfig, about["config"], "the job") == job_of("fedavg")
    assert about["form"] == "installed"


def test_a_swarm_is_for_the_simulator_alone(tmp_path: Path) -> None:
    for form in ("installed", "shipped"):
        with pytest.raises(ConfigError, match="swarm runs in the simulator only"):
            export_job(job_of("swarm"), ("a", "b"), tmp_path, form)
    folder = export_job(job_of("swarm"), ("a", "b"), tmp_path, "simulator")
    paths = [workflow["path"].rpartition(".")[2] for workflow in server_of(folder)["workflows"]]
    assert paths == ["SwarmServerController", "CrossSiteEvalServerController"]


@pytest.mark.parametrize("name", JOBS)
def test_a_job_carries_no_path_and_no_secret(name: str, exported: dict[str, Path]) -> None:
    for file, data in content(exported[name]).items():
        text = data.decode()
        for forbidden in (
            str(exported[name].parents[1]),
            str(ROOT),
            str(Path.home()) + "/",
            "KAGGLE",
            "PASSWORD",
        ):
            assert forbidden not in text, file
        assert "password" not in text.lower(), file


def test_the_azure_job_is_the_published_one() -> None:
    job = job_of("azure_pneumonia_network")
    settings = job.site_settings()
    model = build_model(job.model.name, job.model.norm, settings.preprocess.size, seed=0)
    assert count_parameters(model) == 25_783_554
    train, pre = settings.train, settings.preprocess
    assert (train.optimizer, train.lr, train.momentum, train.batch_size, train.local_epochs) == (
        "sgd",
        0.01,
        0.9,
        32,
        5,
    )
    assert (pre.size, pre.normalisation, pre.mean, pre.std) == (224, "fixed", 0.4818, 0.2357)


def test_the_azure_job_does_not_augment() -> None:
    changes = job_of("azure_pneumonia_network").augment.model_dump()
    assert not any(changes.values()), changes


def test_the_algorithm_arrives_at_server_and_sites(exported: dict[str, Path], tmp_path: Path) -> None:
    def told(folder: Path) -> tuple[object, bool]:
        mu = settings_of(folder).algorithm.mu
        return server_of(folder)["workflows"][0]["args"].get("algorithm"), mu == 0.5

    changed = export_job(job_of("fedprox", "algorithm.mu=0.5"), 3, tmp_path)
    assert told(changed) == ({"name": "fedprox", "mu": 0.5}, True)
    assert told(exported["fedavg"]) in [({}, False), (None, False)]


@pytest.mark.parametrize(
    ("tracking", "receiver"),
    [("[tensorboard]", {"TensorBoardReceiver"}), ("[mlflow]", {"MLflowReceiver"}), ("[]", set())],
)
def test_tracking_chooses_the_receivers(tracking: str, receiver: set[str], tmp_path: Path) -> None:
    folder = export_job(job_of("fedavg", f"tracking={tracking}"), 3, tmp_path)
    assert receivers_of(folder) == {"JournalReceiver"} | receiver


def test_the_tracking_server_arrives(tmp_path: Path) -> None:
    overrides = ["mlflow.tracking_uri=https://mlflow.example.org", "mlflow.experiment=xray"]
    text = json.dumps(server_of(export_job(job_of("fedavg", *overrides), 3, tmp_path)))
    assert '"tracking_uri": "https://mlflow.example.org"' in text
    assert '"experiment": "xray"' in text


def test_the_command_exports_what_the_data_decides(cli: Cli, demo_data: Path, tmp_path: Path) -> None:
    code, out, _ = cli(
        "run", "fedavg", "--export", "--data", demo_data, "--job-dir", tmp_path / "my jobs", "--rounds", 4
    )
    folder = tmp_path / "my jobs" / "fedavg"
    assert (code, out) == (0, f"NVFlare job: {folder}\n")
    assert settings_of(folder).preprocess.size == 32
    assert settings_of(folder).rounds == 4
    assert read_json(folder / "meta.json")["min_clients"] == 3
    assert not any(str(demo_data).encode() in data for data in content(folder).values())
    assert list(Path.cwd().iterdir()) == []


def test_an_export_brings_what_nvflares_own_simulator_needs(cli: Cli, tmp_path: Path) -> None:
    for job in JOBS:
        code, _, err = cli("run", job, "--export", "-j", tmp_path, "-n", 3, "--set", SIZE)
        assert (code, err) == (0, "")
        allowed = set(read_json(tmp_path / "simulator_workspace/local/resources.json")["class_allow_list"])
        for config in (tmp_path / job / "app" / "config").iterdir():
            named = set(re.findall(r'"path": "([\w.]+)"', config.read_text()))
            assert named
            assert named <= allowed


def test_job_py_speaks_nvflares_dialect(tmp_path: Path) -> None:
    words = [
        "fedprox",
        "--export",
        "--export-dir",
        str(tmp_path / "out"),
        "--n_clients",
        "3",
        "--num_rounds",
        "2",
    ]
    done = subprocess.run(
        [sys.executable, str(ROOT / "jobs" / "job.py"), *words, "--set", SIZE, "--tracking_uri", SERVER],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=scaled(60),
        check=False,
    )
    folder = tmp_path / "out" / "fedprox"
    assert (done.returncode, done.stdout, done.stderr) == (0, f"NVFlare job: {folder}\n", "")
    assert read_json(folder / "meta.json")["min_clients"] == 3
    assert settings_of(folder) == job_of("fedprox", "rounds=2").site_settings()
    assert f'"tracking_uri": "{SERVER}"' in json.dumps(server_of(folder))


def test_short_flags_are_those_of_nvflares_examples(cli: Cli, tmp_path: Path) -> None:
    code, _, err = cli(
        "run", "fedavg", "-e", "-j", tmp_path / "out", "-n", 3, "-r", 2, "-t", SERVER, "--set", SIZE
    )
    assert (code, err) == (0, "")
    folder = tmp_path / "out" / "fedavg"
    assert read_json(folder / "meta.json")["min_clients"] == 3
    assert settings_of(folder).rounds == 2
    assert f'"tracking_uri": "{SERVER}"' in json.dumps(server_of(folder))


BROKEN = [
    (["fedavgg"], "unknown job 'fedavgg'; did you mean fedavg?"),
    (["x"], "unknown job 'x'; there are: azure_pneumonia_network, cyclic, "),
    (["none.yml"], "no job file: none.yml does not exist"),
    (["fedavg", "--set", "train.learning_rate=1"], "unknown key 'train.learning_rate'"),
    (["fedavg", "--set", "rounds=many"], "rounds: "),
    (["fedavg", "--set", "train.lr"], "write key=value, for example train.lr=0.001"),
    (["fedavg", "--set", "rounds=["], "not valid YAML"),
    (["fedavg", "--set", "model.name=vgg"], "model.name: "),
    (["fedavg", "--set", "algorithm.name=fedprox"], "fedprox needs mu > 0"),
    (["swarm", "--set", "algorithm.average_last=2"], "swarm has no average_last"),
    (["swarm", "--set", "early_stopping.patience=2"], "early_stopping is not for swarm"),
    (["swarm", "--export", "--set", SIZE], "swarm runs in the simulator only"),
    (
        ["fedavg", "-t", "https://me:hunter2@mlflow.example.org"],
        "must not carry credentials; set MLFLOW_TRACKING_",
    ),
    (["fedavg"], "no data: pass --data DIR. To make some: pneumonia-fl data prepare"),
    (["fedavg", "--export"], "pass --data DIR or --set preprocess.size=128"),
    (["fedavg", "--data", "none"], "none does not exist; `pneumonia-fl data prepare` makes it"),
    (["smoke", "-n", "4"], "4 clients wanted, but the data has 3"),
    (["smoke", "--set", "min_sites=4"], "min_sites is 4, but 3 sites take part; lower min_sites"),
    (["fedavg", "--export", "--set", SIZE, "--set", "min_sites=4", "-n", "3"], "lower min_sites"),
]


@pytest.mark.parametrize(
    ("words", "message"), BROKEN, ids=lambda value: " ".join(value) if isinstance(value, list) else ""
)
def test_what_cannot_run_is_one_line_and_leaves_nothing(cli: Cli, words: list[str], message: str) -> None:
    code, out, err = cli("run", *words)
    assert (code, out) == (1, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert message in err
    assert "hunter2" not in err
    assert list(Path.cwd().iterdir()) == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["-n", "4"], "4 clients wanted, but the data has 3: site-1, site-2, site-3"),
        (["--set", "min_sites=4"], "min_sites is 4"),
        (["-n", "2", "--set", "min_sites=3"], "min_sites is 3"),
        (["--set", SIZE], "the job wants preprocess.size 64, but the data is prepared with 32"),
    ],
)
def test_what_does_not_fit_the_data_is_refused(
    cli: Cli, demo_data: Path, words: list[str], message: str
) -> None:
    for command in (["run", "fedavg"], ["run", "fedavg", "--export"]):
        code, _, err = cli(*command, "--data", demo_data, *words)
        assert code == 1
        assert message in err
        assert list(Path.cwd().iterdir()) == []


def test_a_job_file_of_ones_own_is_named_in_its_errors(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "mine.yml").write_text("name: mine\nround: 3\n")
    assert (
        cli("run", tmp_path / "mine.yml")[2] == "error: mine.yml: unknown key 'round'; did you mean rounds?\n"
    )


def test_a_traceback_is_printable(tmp_path: Path) -> None:
    done = pneumonia_fl("--debug", "report", "runs/one\x1b[2J", cwd=tmp_path)
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "\x1b" not in done.stderr


def test_debug_shows_where_an_error_comes_from(tmp_path: Path) -> None:
    done = pneumonia_fl("--debug", "run", "fedavgg", cwd=tmp_path)
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    quiet = pneumonia_fl("run", "fedavgg", cwd=tmp_path)
    assert (quiet.returncode, quiet.stderr.count("\n")) == (1, 1)
    assert list(tmp_path.iterdir()) == []
