"""What a strict server or site takes: a job that is what the recipe makes, and nothing that differs from it."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from nvflare.fuel.sec.audit import AuditService

from conftest import ROOT, read_json
from pneumonia_fl.config import load_job
from pneumonia_fl.fl.admin.submit import resolve
from pneumonia_fl.fl.jobs import export_job
from pneumonia_fl.fl.parent.expected_job import SERVER_FILE, SIGNATURE_FILES, SITE_FILE
from pneumonia_fl.fl.provision.gate import ServerGate, SiteGate

JOBS = sorted(file.stem for file in (ROOT / "jobs").glob("*.yml") if file.stem != "swarm")
RESUMED = "e4bfe460-cbd8-44e5-b0a8-fd0c658f8af6"
Change = Callable[[Path], None]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    job = resolve(load_job(ROOT / "jobs" / "fedavg.yml"), None)
    return export_job(job, ("asia-hospital", "us-hospital"), tmp_path_factory.mktemp("exported")) / "app"


@pytest.fixture
def app(exported: Path, tmp_path: Path) -> Path:
    """A deployed app that a test may change."""
    return Path(shutil.copytree(exported, tmp_path / RESUMED / "app_server"))


def edit(file: str, change: Callable[[Any], object]) -> Change:
    def apply(app: Path) -> None:
        values = read_json(app / file)
        change(values)
        (app / file).write_text(json.dumps(values))

    return apply


def component(name: str, **values: object) -> Change:
    """Change a component of the server's half."""

    def change(config: Any) -> None:
        (found,) = [one for one in config["components"] if one["id"] == name]
        found.update(values)

    return edit(SERVER_FILE, change)


def argument(name: str, **values: object) -> Change:
    """Change arguments of a component of the server's half."""

    def change(config: Any) -> None:
        (found,) = [one for one in config["components"] if one["id"] == name]
        found["args"].update(values)

    return edit(SERVER_FILE, change)


def renamed(old: str, new: str) -> Change:
    def apply(app: Path) -> None:
        (app / new).parent.mkdir(parents=True, exist_ok=True)
        (app / old).rename(app / new)

    return apply


def added(name: str, content: str = "{}") -> Change:
    def apply(app: Path) -> None:
        (app / name).parent.mkdir(parents=True, exist_ok=True)
        (app / name).write_text(content)

    return apply


def linked(name: str) -> Change:
    def apply(app: Path) -> None:
        content = app / name
        shutil.copy(content, app.parent / "elsewhere")
        content.unlink()
        content.symlink_to(app.parent / "elsewhere")

    return apply


def site(change: Callable[[Any], object]) -> Change:
    return edit(SITE_FILE, change)


def executor(config: Any) -> Any:
    return config["executors"][0]["executor"]


REFUSED: dict[str, Change] = {
    "a reference to another value": edit(SERVER_FILE, lambda c: c.update(C="x") or argument),
    "a class below a mapping": argument(
        "persistor", model={"config_type": "dict", "path": "x.Y", "args": {}}
    ),
    "a checkpoint that may hold code": argument("persistor", load_weights_only=False),
    "a checkpoint of the job's own choice": argument("persistor", source_ckpt_file_full_name="w.pt"),
    "the checkpoint of a job with code": argument("persistor", pretrained=True),
    "a file name of the job's own choice": argument("persistor", global_model_file_name="{WORKSPACE}/x"),
    "an environment file": added("config/environment.json", '{"APP_CKPT": "w.pt"}'),
    "a configuration in another format": renamed(SERVER_FILE, "config/config_fed_server.conf"),
    "a second configuration in another format": added("config/config_fed_server.conf"),
    "a configuration in a sub-folder": added("config/sub/config_fed_server.json"),
    "an empty sub-folder": lambda app: (app / "config" / "sub").mkdir(),
    "a configuration that is a link": linked(SERVER_FILE),
    "no configuration for the server": lambda app: (app / SERVER_FILE).unlink(),
    "no configuration for sites": lambda app: (app / SITE_FILE).unlink(),
    "a configuration that is not JSON": added(SERVER_FILE, "{"),
    "a configuration that nests without end": added(SERVER_FILE, "[" * 100_000),
    "a configuration that is a list": added(SITE_FILE, "[]"),
    "code": added("custom/x.py", ""),
    "a class that the recipe does not use": component("persistor", path="x.Y"),
    "NVFlare's own persistor": component(
        "persistor", path="nvflare.app_opt.pt.file_model_persistor.PTFileModelPersistor"
    ),
    "one more component": edit(SERVER_FILE, lambda c: c["components"].append({"id": "x", "path": "x.Y"})),
    "a component that is switched off": component("journal_receiver", disabled=True),
    "one component less": edit(SERVER_FILE, lambda c: c["components"].pop()),
    "an argument that the recipe does not set": argument(
        "mlflow_receiver", tracking_uri="http://127.0.0.1:1"
    ),
    "a variable of the environment": argument("mlflow_receiver", experiment="{$HOME}"),
    "a job to resume that is a path": argument("tensorboard_receiver", resume_from="../../startup"),
    "a filter": edit(SERVER_FILE, lambda c: c["task_data_filters"].append({"path": "x.Y"})),
    "a top-level key": edit(SERVER_FILE, lambda c: c.update(x=1)),
    "a component at a site": site(lambda c: c["components"].append({"id": "x", "path": "x.Y", "args": {}})),
    "a tracking server at a site": site(
        lambda c: c["components"].append(
            {
                "id": "m",
                "path": "nvflare.app_opt.tracking.mlflow.mlflow_receiver.MLflowReceiver",
                "args": {"tracking_uri": "http://127.0.0.1:1/{$HOME}"},
            }
        )
    ),
    "a command": site(lambda c: executor(c)["args"].update(command="x")),
    "another executor": site(lambda c: executor(c).update(path="x.Y")),
    "a setting twice": site(lambda c: executor(c)["args"]["settings"].append("rounds=1")),
    "a setting that is a path": site(lambda c: executor(c)["args"]["settings"].append("name=/srv/evil=1.pt")),
    "an unknown setting": site(lambda c: executor(c)["args"]["settings"].append("x=1")),
    "settings that are no text": site(lambda c: executor(c)["args"].update(settings=[{}])),
    "a round that waits for another time": site(lambda c: executor(c)["args"].update(result_timeout=1.5)),
    "an upload time that is no number": site(lambda c: c.update(submit_task_result_timeout="{x}")),
    "other rounds at the server": edit(
        SERVER_FILE, lambda c: c["workflows"][0]["args"].update(num_rounds=99)
    ),
    "a site that is a path": edit(SERVER_FILE, lambda c: c["workflows"][0]["args"].update(sites=["../x"])),
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize(
    "gate", [ServerGate("strict", False), SiteGate("strict", False)], ids=["server", "site"]
)
def test_refused(name: str, gate: SiteGate, app: Path) -> None:
    REFUSED[name](app)
    reason, known = gate.validate(str(app))
    assert f"{gate.place} policy 'strict' refuses a job" in reason or "config" in reason
    assert known == {}
    assert len(reason) < 400
    assert reason.isprintable()


@pytest.mark.parametrize(
    "name", sorted(set(REFUSED) - {"no configuration for the server", "no configuration for sites"})
)
def test_a_relaxed_site_asks_for_the_right_to_bring_code(name: str, app: Path) -> None:
    if "another format" in name:
        pytest.skip("NVFlare's own check refuses it, or reads it")
    REFUSED[name](app)
    assert SiteGate("relaxed", True).validate(str(app)) == ("", {"byoc": True})


@pytest.mark.parametrize("name", JOBS)
@pytest.mark.parametrize(
    "further", [[], ["min_sites=2", "grace=1", "mlflow.experiment=A b", "tracking=[mlflow]"]]
)
def test_a_strict_server_and_site_take_every_shipped_job(
    name: str, further: list[str], tmp_path: Path
) -> None:
    job = resolve(load_job(ROOT / "jobs" / f"{name}.yml", further), None)
    app = (
        export_job(job, 3 if further else ("a", "b"), tmp_path, resume_from=RESUMED if further else "")
        / "app"
    )
    for gate in (ServerGate("strict", False), SiteGate("locked", False), SiteGate("relaxed", True)):
        assert gate.validate(str(app)) == ("", {})


def test_the_signature_of_the_submitter_is_no_further_file(app: Path) -> None:
    for folder in (app, app / "config"):  # NVFlare signs each folder
        for name in SIGNATURE_FILES:
            (folder / name).write_text("{}")
    assert ServerGate("strict", False).validate(str(app)) == ("", {})


def test_the_audit_log_names_the_configuration_that_was_taken(app: Path, tmp_path: Path) -> None:
    log = tmp_path / "audit.log"
    AuditService.initialize(str(log))
    try:
        ServerGate("strict", False).validate(str(app))
        edit(SITE_FILE, lambda c: c.update(submit_task_result_timeout=99.5))(app)
        ServerGate("strict", False).validate(str(app))
    finally:
        AuditService.close()
    first, second = log.read_text().splitlines()
    assert f"[R:{RESUMED}]" in first
    assert "[A:job_configuration]" in first
    assert first.split("sha256 ")[1] != second.split("sha256 ")[1]
