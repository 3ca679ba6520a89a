"""From a job to the trainer: what arrives there is what left, whatever YAML, NVFlare or a shell would make of it."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from nvflare.app_common.abstract.fl_model import FLModel
from nvflare.app_common.executors.task_script_runner import TaskScriptRunner
from nvflare.fuel.utils.json_scanner import JsonScanner
from nvflare.fuel.utils.wfconf import resolve_var_refs
from nvflare.private.json_configer import JsonConfigurator

from conftest import read_json
from pneumonia_fl.config.job import JobConfig, SiteSettings
from pneumonia_fl.config.strict import parse
from pneumonia_fl.fl.job.recipe import Form, export_job
from pneumonia_fl.fl.parent.job_validator import ServerJobValidator, SiteJobValidator
from pneumonia_fl.fl.protocol.messages import SITE_REPORT
from pneumonia_fl.fl.site.client import TrainerSession, job_settings

NAMES = st.sampled_from(["on", "no", "off", "y", "null", "true", "e1"]) | st.from_regex(
    r"[a-z][a-z0-9_]{0,40}", fullmatch=True
)
EXPERIMENTS = st.sampled_from(["no", "null", "007", "2026", "1e3", "1:30", "a b"]) | st.from_regex(
    r"[A-Za-z0-9 .:/_-]{1,100}", fullmatch=True
)
SITES = st.sampled_from(["no", "007", "1e3", "path", "name", "args"]) | st.from_regex(
    r"s[A-Za-z0-9_-]{0,20}", fullmatch=True
)


def job_of(name: str, experiment: str, site: str) -> JobConfig:
    values = {
        "name": name,
        "rounds": 1,
        "preprocess": {"size": 32},
        "mlflow": {"experiment": experiment},
        "sites": {site: {"weight": 0.5, "train": {"lr": 1e-4}}},
    }
    return parse(JobConfig, values, "the test")


class Reader(JsonConfigurator):
    """NVFlare's reader of a deployed app's configuration."""

    def __init__(self, file: Path) -> None:
        super().__init__(str(file), [], [])
        resolve_var_refs(JsonScanner(self.config_data), {"JOB_ID": "x"})

    def built(self, of: Any) -> Any:
        """Make the component that a part of the configuration describes."""
        return self.build_component(of)


def arrived(app: Path, form: Form) -> SiteSettings:
    """What the trainer of a deployed app is told."""
    reader = Reader(app / "config" / "config_fed_client.json")
    executor = reader.built(reader.config_data["executors"][0]["executor"])
    if form == "simulator":
        return job_settings(
            TaskScriptRunner(str(app / "custom"), "client.py", executor._task_script_args).get_sys_argv()[1]
        )
    return job_settings(executor._command[-1])


@pytest.mark.parametrize("form", ["installed", "simulator"])
@settings(max_examples=15)
@given(NAMES, EXPERIMENTS, SITES)
@example("null", "007", "path")
def test_names_arrive_as_they_left(form: Form, name: str, experiment: str, site: str) -> None:
    job = job_of(name, experiment, site)
    with TemporaryDirectory() as folder:
        app = export_job(job, (site, "other"), Path(folder), form) / "app"
        assert arrived(app, form) == job.site_settings()
        reader = Reader(app / "config" / "config_fed_server.json")
        (mlflow,) = [one for one in reader.config_data["components"] if one["id"] == "mlflow_receiver"]
        assert reader.built(mlflow).experiment == experiment
        assert reader.config_data["workflows"][0]["args"]["sites"] == [site, "other"]
        if form == "installed":
            assert ServerJobValidator("strict", False).validate(str(app)) == ("", {})
            assert SiteJobValidator("strict", False).validate(str(app)) == ("", {})


def test_a_job_says_its_settings_once_and_readably(tmp_path: Path) -> None:
    job = job_of("on", "2026", "no")
    config = read_json(export_job(job, ("no",), tmp_path) / "app" / "config" / "config_fed_client.json")
    args = config["executors"][0]["executor"]["args"]
    assert args["settings"] == job.site_settings().model_dump(mode="json")
    assert args["settings"]["sites"]["no"]["train"]["lr"] == 1e-4


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("rounds=1", "Expecting value"),
        ('{"name": "job"}', "the job's settings: rounds: "),
        ('{"x": 1}', "unknown key 'x'"),
        ("[" * 50_000, "nested deeper"),
    ],
)
def test_settings_that_are_none_are_the_answer_to_every_message(text: str, problem: str) -> None:
    participant = TrainerSession(text, "asia")
    for _ in range(2):
        report: dict[str, Any] = participant.answer(FLModel(params={})).meta[SITE_REPORT]
        assert problem in report["problem"]
