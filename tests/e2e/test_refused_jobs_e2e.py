"""What a running federation refuses people and jobs: in words, with exit code 4 and a line in the audit log."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from job_changes import edit
from refusals import Audit
from speed import scaled

from conftest import pneumonia_fl, read_json
from federation import LEAD, MEMBER, SERVER, SITES, Federation
from pneumonia_fl.config.job import load_job
from pneumonia_fl.config.job_files import find_job
from pneumonia_fl.fl.job.recipe import export_job
from pneumonia_fl.fl.parent.expected_job import SITE_FILE
from pneumonia_fl.fl.protocol.messages import RESULT_KEY

pytestmark = [pytest.mark.e2e, pytest.mark.usefixtures("harmless")]
SECOND_LEAD = "second@consortium.org"
SMOKE = ("rounds=1", "train.local_epochs=1", "preprocess.size=32")
Done = subprocess.CompletedProcess[str]


@pytest.fixture(scope="module")
def second_lead(federation: Federation) -> Path:
    """A lead who joins while everything runs."""
    project = federation.kits.parent / "project.yml"
    words = f"{SECOND_LEAD}:consortium:lead"
    done = pneumonia_fl("provision", project, "--out", federation.kits, "--add-user", words)
    assert done.returncode == 0, done.stderr
    return federation.kit(SECOND_LEAD)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A good job of one round as an NVFlare job folder."""
    job = load_job(find_job("smoke"), SMOKE)
    return export_job(job, SITES, tmp_path_factory.mktemp("exported"))


def refused(done: Done, *parts: str) -> None:
    """One line with these parts, and the exit code of a refusal."""
    assert done.returncode == 4, done.stdout + done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert all(part in line for part in parts), line
    assert "Traceback" not in done.stderr


def test_a_member_submits(federation: Federation, audit: Audit) -> None:
    kit = federation.kit(MEMBER)
    refused(pneumonia_fl("submit", "smoke", "--kit", kit), f"{MEMBER} (member) may not submit jobs")
    audit.tells(f"[U:{MEMBER}][A:job_mgmt.submit_job ", "is not authorized for 'submit_job'")


@pytest.fixture(scope="module")
def leads_job(federation: Federation, exported: Path) -> str:
    """A job of the lead's; waiting for a fourth site, so that it costs nothing."""
    words = ("submit", "smoke", "--kit", federation.kit(LEAD), "--min-sites", 4, "--json")
    done = pneumonia_fl(*words)
    assert done.returncode == 0, done.stderr
    return str(json.loads(done.stdout)["id"])


@pytest.mark.parametrize(
    ("command", "may_not", "right"),
    [
        ("abort", "abort this job", "abort_job"),
        ("download", "download this job", "download_job"),
        ("logs", "read this job's log", "get_job_log"),
        ("delete", "delete this job", "delete_job"),
    ],
)
def test_a_lead_meddles_with_another_leads_job(
    leads_job: str, second_lead: Path, audit: Audit, command: str, may_not: str, right: str, tmp_path: Path
) -> None:
    done = pneumonia_fl(command, leads_job, "--kit", second_lead, cwd=tmp_path)
    refused(done, f"{SECOND_LEAD} (lead) may not {may_not}")
    audit.tells(f"[U:{SECOND_LEAD}]", f"{right} {leads_job}", "not authorized")


def test_a_lead_resumes_another_leads_job(leads_job: str, second_lead: Path, federation: Federation) -> None:
    ended = pneumonia_fl("abort", leads_job, "--kit", federation.kit(LEAD))
    assert ended.returncode == 0, ended.stderr
    done = pneumonia_fl("resume", leads_job, "--kit", second_lead)
    refused(done, f"{LEAD}'s; only they can resume it")


# Jobs.


def submit(federation: Federation, job: Path | str, *words: object) -> Done:
    kit = federation.kit(LEAD)
    return pneumonia_fl("submit", job, "--kit", kit, "--wait", "--timeout", 2, *words)


def test_shipped_code_at_strict_sites(federation: Federation, audit: Audit) -> None:
    done = submit(federation, "smoke", "--ship-code")
    refused(done, "site policy 'strict' refuses a job that ships code; submit it without --ship-code")
    for site in SITES:
        audit.tells(
            f"[U:{LEAD}][A:deploy ", f"{site}: ", "site policy 'strict' refuses a job that ships code"
        )


def executor(path: str, **arguments: Any) -> Callable[[Any], object]:
    return lambda config: config["executors"][0].update(executor={"path": path, "args": arguments})


def trainer(**arguments: Any) -> Callable[[Any], object]:
    return lambda config: config["executors"][0]["executor"]["args"].update(arguments)


@pytest.mark.parametrize(
    ("change", "place"),
    [
        (executor("nvflare.app_common.executors.client_api_executor.ClientAPIExecutor", command="touch mark"), ""),
        (trainer(command="touch mark"), "it differs at config_fed_client.json.executors(0).executor.args (command)"),
        (trainer(settings=["data=/etc"]), "it cannot read"),
    ],
    ids=["class", "command", "path"],
)  # fmt: skip
def test_a_job_that_wants_more_of_a_site_than_it_may(
    federation: Federation,
    exported: Path,
    audit: Audit,
    tmp_path: Path,
    change: Callable[[Any], object],
    place: str,
) -> None:
    job = Path(shutil.copytree(exported, tmp_path / "greedy"))
    edit(SITE_FILE, change)(job / "app")
    reason = "site policy 'strict' refuses a job that "
    refused(submit(federation, job), reason)
    audit.tells(f"[U:{LEAD}][A:deploy ", f"{SITES[0]}: ", reason, place)
    assert not [path for kit in (SERVER, *SITES) for path in federation.kit(kit).rglob("mark")]


TAMPERED = """
import sys
from pathlib import Path
from nvflare.fuel.flare_api.flare_api import new_secure_session
from nvflare.fuel.hci.client.file_transfer import _FileSender
from nvflare.fuel.utils.zip_utils import zip_directory_to_file
from nvflare.lighter.utils import load_private_key_file, sign_folders

name, kit, job = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
sign_folders(str(job), load_private_key_file(str(kit / "startup/client.key")), str(kit / "startup/client.crt"))
config = job / "app/config/config_fed_client.json"
signed = config.read_text()
assert signed.count('"local_epochs": 1') == 1
config.write_text(signed.replace('"local_epochs": 1', '"local_epochs": 2'))
zip_directory_to_file(str(job.parent), job.name, str(job.parent / "job.zip"))
session = new_secure_session(name, str(kit), timeout=10)
try:
    command = f"job_mgmt.submit_job {job.name}"
    context = session.api._new_command_context(command, command.split(), None)
    context.set_requester(_FileSender(str(job.parent / "job.zip")))
    print(session.api.server_execute(command, cmd_ctx=context)["meta"]["job_id"])
finally:
    session.close()
"""
"""What NVFlare's client does to submit a job, with a change between signing and sending."""


def test_a_job_that_was_changed_after_it_was_signed(
    federation: Federation, exported: Path, audit: Audit, tmp_path: Path
) -> None:
    job, kit = shutil.copytree(exported, tmp_path / "smoke"), federation.kit(LEAD)
    command = [sys.executable, "-c", TAMPERED, LEAD, str(kit), str(job)]
    sent = subprocess.run(command, capture_output=True, text=True, timeout=scaled(60), check=False)
    assert sent.returncode == 0, sent.stderr
    job_id = sent.stdout.split()[-1]
    refused(
        pneumonia_fl("watch", job_id, "--kit", kit, "--timeout", 1), "does not pass signature verification"
    )
    audit.tells(f"[A:deploy {job_id}]", "does not pass signature verification")


def test_a_submitter_writes_down_how_the_job_ended(
    federation: Federation, exported: Path, tmp_path: Path
) -> None:
    job, kit = shutil.copytree(exported, tmp_path / "smoke"), federation.kit(LEAD)
    invented = {"state": "finished", "reason": "", "missing": [], "best_round": 1, "best_auroc": 0.9999}
    meta = read_json(job / "meta.json") | {
        RESULT_KEY: invented,
        "min_clients": 9,
        "job_deploy_detail": ["x: well"],
    }
    (job / "meta.json").write_text(json.dumps(meta))
    sent = pneumonia_fl("submit", job, "--kit", kit, "--json")
    assert sent.returncode == 0, sent.stderr
    job_id = json.loads(sent.stdout)["id"]
    assert pneumonia_fl("abort", job_id, "--kit", kit).returncode == 0
    listed = json.loads(pneumonia_fl("jobs", "--json", "--kit", kit).stdout)
    (found,) = [entry for entry in listed if entry["id"] == job_id]
    assert (found["best_auroc"], found["status"]) == (None, "aborted")
    assert found["reason"] == f"ended by {LEAD}"


def test_a_good_job_still_runs(federation: Federation, exported: Path, audit: Audit) -> None:
    done = submit(federation, exported)
    assert done.returncode == 0, done.stderr
    assert [line for line in audit.refusals() if "[A:tls_handshake]" not in line] == []
    assert federation.sites() == sorted(SITES)
