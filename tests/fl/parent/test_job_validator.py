"""What a strict server or site takes: a job that is what the recipe makes, and nothing that differs from it."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from job_changes import REFUSED, edit
from nvflare.fuel.sec.audit import AuditService
from nvflare.fuel.sec.authz import AuthorizationService
from nvflare.private.fed.utils.app_authz import AppAuthzService

from conftest import ROOT, read_json
from pneumonia_fl.config.job import load_job
from pneumonia_fl.fl.admin.submit import resolve
from pneumonia_fl.fl.job.recipe import export_job
from pneumonia_fl.fl.parent.expected_job import SERVER_FILE, SIGNATURE_FILES, SITE_FILE
from pneumonia_fl.fl.parent.job_validator import ServerJobValidator, SiteJobValidator
from pneumonia_fl.fl.provision.rights import authorizer

JOBS = sorted(file.stem for file in (ROOT / "jobs").glob("*.yml") if file.stem != "swarm")
NOT_PERMITTED = (False, "BYOC not permitted")
RESUMED = "e4bfe460-cbd8-44e5-b0a8-fd0c658f8af6"


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    job = resolve(load_job(ROOT / "jobs" / "fedavg.yml"), None)
    return export_job(job, ("asia-hospital", "us-hospital"), tmp_path_factory.mktemp("exported")) / "app"


@pytest.fixture
def app(exported: Path, tmp_path: Path) -> Path:
    """A deployed app that a test may change."""
    return Path(shutil.copytree(exported, tmp_path / RESUMED / "app_server"))


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize(
    "gate", [ServerJobValidator("strict", False), SiteJobValidator("strict", False)], ids=["server", "site"]
)
def test_refused(name: str, gate: SiteJobValidator, app: Path) -> None:
    REFUSED[name](app)
    reason, known = gate.validate(str(app))
    assert f"{gate.place} policy 'strict' refuses a job" in reason or "config" in reason
    assert known == {}
    assert len(reason) < 400
    assert reason.isprintable()


def test_a_job_exported_by_an_earlier_version_is_called_so(app: Path) -> None:
    def as_before(config: dict[str, Any]) -> None:
        executor = config["executors"][0]["executor"]
        executor["path"] = "pneumonia_fl.fl.executor.TrainerExecutor"
        executor["args"]["settings"] = ["name=fedavg", "rounds=10"]

    edit(SITE_FILE, as_before)(app)
    reason, _ = SiteJobValidator("strict", False).validate(str(app))
    assert "earlier version" in reason
    assert "make it again" in reason


@pytest.mark.parametrize(
    "name", sorted(set(REFUSED) - {"no configuration for the server", "no configuration for sites"})
)
def test_a_relaxed_site_asks_for_the_right_to_bring_code(name: str, app: Path) -> None:
    if "another format" in name:
        pytest.skip("NVFlare's own check refuses it, or reads it")
    REFUSED[name](app)
    assert SiteJobValidator("relaxed", True).validate(str(app)) == ("", {"byoc": True})


@pytest.mark.parametrize(
    ("right", "answer"), [("none", NOT_PERMITTED), ("o:site", NOT_PERMITTED), ("any", (True, ""))]
)
@pytest.mark.parametrize("name", ["a command", "code"])
def test_a_relaxed_site_that_narrows_the_right_to_bring_code_is_heard(
    name: str,
    right: str,
    answer: tuple[bool, str],
    app: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    values = read_json(ROOT / "provisioning" / "sites" / "relaxed" / "authorization.json")
    values["permissions"]["lead"]["byoc"] = right
    file = tmp_path / "authorization.json"
    file.write_text(json.dumps(values))
    monkeypatch.setattr(AuthorizationService, "the_authorizer", authorizer(file, "asia_hospital"))
    monkeypatch.setattr(AppAuthzService, "app_validator", SiteJobValidator("relaxed", True))
    lead = ("lead@consortium.org", "consortium", "lead")
    assert AppAuthzService.authorize(str(app), *lead) == (True, ""), "a job of ours brings no code"
    REFUSED[name](app)
    assert AppAuthzService.authorize(str(app), *lead) == answer


@pytest.mark.parametrize("name", JOBS)
@pytest.mark.parametrize(
    "further",
    [[], ["min_sites=2", "grace=1", "mlflow.experiment=A b", "tracking=[mlflow]", "tracking_aliases=true"]],
)
def test_a_strict_server_and_site_take_every_shipped_job(
    name: str, further: list[str], tmp_path: Path
) -> None:
    job = resolve(load_job(ROOT / "jobs" / f"{name}.yml", further), None)
    app = (
        export_job(job, 3 if further else ("a", "b"), tmp_path, resume_from=RESUMED if further else "")
        / "app"
    )
    validators = (
        ServerJobValidator("strict", False),
        SiteJobValidator("locked", False),
        SiteJobValidator("relaxed", True),
    )
    for gate in validators:
        assert gate.validate(str(app)) == ("", {})


@pytest.mark.parametrize("exchange", ["float16", "int8"])
def test_a_strict_server_and_site_take_a_job_that_exchanges_few_bytes(exchange: str, tmp_path: Path) -> None:
    job = resolve(load_job(ROOT / "jobs" / "fedavg.yml", [f"exchange={exchange}"]), None)
    app = export_job(job, ("a", "b"), tmp_path) / "app"
    for gate in (ServerJobValidator("strict", False), SiteJobValidator("locked", False)):
        assert gate.validate(str(app)) == ("", {})


def test_server_and_sites_must_exchange_the_same(app: Path) -> None:
    edit(SERVER_FILE, lambda config: config["workflows"][0]["args"].update(exchange="int8"))(app)
    reason, _ = ServerJobValidator("strict", False).validate(str(app))
    assert "exchange" in reason


def test_the_signature_of_the_submitter_is_no_further_file(app: Path) -> None:
    for folder in (app, app / "config"):  # NVFlare signs each folder
        for name in SIGNATURE_FILES:
            (folder / name).write_text("{}")
    assert ServerJobValidator("strict", False).validate(str(app)) == ("", {})


def test_the_audit_log_names_the_configuration_that_was_taken(app: Path, tmp_path: Path) -> None:
    log = tmp_path / "audit.log"
    AuditService.initialize(str(log))
    try:
        ServerJobValidator("strict", False).validate(str(app))
        edit(SITE_FILE, lambda c: c.update(submit_task_result_timeout=99.5))(app)
        ServerJobValidator("strict", False).validate(str(app))
    finally:
        AuditService.close()
    first, second = log.read_text().splitlines()
    assert f"[R:{RESUMED}]" in first
    assert "[A:job_configuration]" in first
    assert first.split("sha256 ")[1] != second.split("sha256 ")[1]
