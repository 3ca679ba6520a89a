"""A strict server, live: a job runs only if it is what the recipe makes; nothing else of it ever runs."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from conftest import pneumonia_fl
from federation import LEAD, SERVER, SITES, Federation, free_port, provision_kits, running
from job_changes import MARK, REFUSED
from pneumonia_fl.config import load_job
from pneumonia_fl.fl.jobs import export_job
from pneumonia_fl.jobfiles import find_job
from refusals import Audit, audit_from_now

pytestmark = [pytest.mark.e2e, pytest.mark.slow]
SMOKE = ("rounds=1", "train.local_epochs=1", "preprocess.size=32")
LIVE = (
    "a reference to another value",
    "a class below a mapping",
    "a class that the recipe does not use",
    "a checkpoint that may hold code",
    "an environment file",
    "a file name of the job's own choice",
    "a configuration in another format",
    "a configuration in a sub-folder",
    "a variable of the environment",
    "a job to resume that is a path",
    "a tracking server at a site",
)


@pytest.fixture(scope="module")
def strict(hospital_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    """A federation in which the server is strict as well, as `provision` makes it."""
    port = free_port()
    kits = provision_kits(tmp_path_factory.mktemp("strict"), port, policy="strict")
    with running(Federation(kits, hospital_data, port)) as started:
        yield started


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_job(load_job(find_job("smoke"), SMOKE), SITES, tmp_path_factory.mktemp("exported"))


@pytest.mark.parametrize("name", LIVE)
def test_refused(name: str, strict: Federation, exported: Path, tmp_path: Path) -> None:
    audit, kit = audit_from_now(strict), strict.kit(LEAD)
    job = Path(shutil.copytree(exported, tmp_path / "greedy"))
    REFUSED[name](job / "app")
    done = pneumonia_fl("submit", job, "--kit", kit, "--wait", "--timeout", 2)
    assert done.returncode == 4, done.stdout + done.stderr
    audit.tells(f"[U:{LEAD}]", "refused: ")
    assert not [path for each in (SERVER, *SITES) for path in strict.kit(each).rglob(MARK)]


def test_the_job_that_the_recipe_makes_runs_and_is_in_the_audit_logs(
    strict: Federation, exported: Path
) -> None:
    files = [strict.kit(name) / "audit.log" for name in (SERVER, *SITES)]
    logs = [Audit(file, file.stat().st_size) for file in files]
    done = pneumonia_fl("submit", exported, "--kit", strict.kit(LEAD), "--wait", "--json")
    assert done.returncode == 0, done.stderr
    job_id = json.loads(done.stdout)["id"]
    told = [log.file.read_text()[log.start :] for log in logs]
    hashes = {text.partition("sha256 ")[2][:64] for text in told}
    assert all(f"[R:{job_id}]" in text and "[A:job_configuration]" in text for text in told)
    assert len(hashes) == 1, "the server and all sites have run the same configuration"
