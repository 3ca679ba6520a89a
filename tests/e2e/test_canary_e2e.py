"""No secret and no patient in a log or an artifact: canaries where they live, one job, a look at every file."""

import base64
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.request import urlopen

import pytest

from conftest import pneumonia_fl, read_json
from federation import LEAD, SERVER, SITES, Federation, free_port, provision_kits, running, until

pytestmark = [pytest.mark.e2e, pytest.mark.slow]
BROKEN = SITES[2]
"""The site whose data is gone when the job comes."""
PASSWORD, ENVIRONMENT, PERSON = (f"canary-{word}-5d1f0c" for word in ("password", "environment", "person"))
PATIENT = re.compile(rb"g\d-IM-\d{4}")
"""Part of every patient's and every file's name in the synthetic data."""
DEEP = 3
"""Archives in archives: a job's workspace, in it a model."""


@dataclass(frozen=True)
class Place:
    """A file, or a member of an archive in it."""

    file: Path
    member: str
    content: bytes


@dataclass(frozen=True)
class Story:
    """Everything that one job has left behind anywhere."""

    folder: Path
    federation: Federation
    run: Path
    said: bytes
    """What the commands have printed."""

    def places(self) -> Iterator[Place]:
        """Every file outside the hospitals' data."""
        for file in sorted(self.folder.rglob("*")):
            if file.is_file() and not file.is_symlink() and self.federation.data not in file.parents:
                yield from unpacked(Place(file, "", file.read_bytes()), DEEP)

    def found(self, *canaries: bytes) -> dict[str, list[bytes]]:
        """The files with a canary; a path within the folder, and the member for archives."""
        hits: dict[str, list[bytes]] = {}
        for place in self.places():
            if there := [canary for canary in canaries if canary in place.content]:
                hits[f"{place.file.relative_to(self.folder)}{place.member}"] = there
        return hits


def unpacked(place: Place, depth: int) -> Iterator[Place]:
    """A file, and what is in it when it is a zip archive (NVFlare's store, PyTorch's models)."""
    yield place
    if depth and zipfile.is_zipfile(io.BytesIO(place.content)):
        with zipfile.ZipFile(io.BytesIO(place.content)) as archive:
            for name in archive.namelist():
                inner = Place(place.file, f"{place.member}!{name}", archive.read(name))
                yield from unpacked(inner, depth - 1)


@contextmanager
def mlflow_server(folder: Path) -> Iterator[int]:
    """A consortium's own MLflow server; yields its port."""
    folder.mkdir()
    port = free_port()
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--workers", "1", "--backend-store-uri", "sqlite:///mlflow.db", "--serve-artifacts"]
    command += ["--artifacts-destination", str(folder / "artifacts")]
    with (folder / "log.txt").open("wb") as log:
        process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, start_new_session=True)
    try:
        until(lambda: healthy(port), 60, "MLflow answers")
        yield port
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def healthy(port: int) -> bool:
    try:
        with urlopen(f"http://127.0.0.1:{port}/health", timeout=2) as response:
            return bool(response.status == 200)
    except OSError:
        return False


def own_data(federation: Federation, site: str) -> Path:
    """A site's data, in a folder that names a person."""
    return federation.data / f"ward-of-{site}"


@pytest.fixture(scope="module")
def story(hospital_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Story:
    folder = tmp_path_factory.mktemp("canary")
    port = free_port()
    federation = Federation(provision_kits(tmp_path_factory, folder, port), folder / "data", port)
    with pytest.MonkeyPatch.context() as patch, mlflow_server(folder / "mlflow") as tracking:
        (folder / "tmp").mkdir()
        patch.setenv("TMPDIR", str(folder / "tmp"))
        patch.setenv("MLFLOW_TRACKING_USERNAME", ENVIRONMENT)
        patch.setenv("MLFLOW_TRACKING_PASSWORD", ENVIRONMENT)
        settle(federation, hospital_data, tracking)
        with running(StartedBare(federation.kits, federation.data, port)):
            shutil.rmtree(own_data(federation, BROKEN))
            patch.setenv("PNEUMONIA_FL_NOTE", PERSON)
            said = job(federation, folder)
    return Story(folder, federation, folder / "run", said)


class StartedBare(Federation):
    """Kits whose sites know by themselves where their data is."""

    def up(self, *words: object) -> "subprocess.CompletedProcess[str]":
        return pneumonia_fl("up", self.kits, *words)


def settle(federation: Federation, data: Path, tracking: int) -> None:
    """Write what the kits' owners would write into their `local/`."""
    for site in SITES:
        shutil.copytree(data, own_data(federation, site))
        settings = federation.kit(site) / "local" / "pneumonia_fl.yml"
        settings.write_text(f"data: {own_data(federation, site)}\n")
    settings = federation.kit(SERVER) / "local" / "pneumonia_fl.yml"
    settings.write_text(f"tracking_uri: http://127.0.0.1:{tracking}\n")


def job(federation: Federation, folder: Path) -> bytes:
    """One round at three sites, of which one has a problem; download, and what a person sees."""
    kit = ("--kit", federation.kit(LEAD))
    words = ("--rounds", 1, "--set", "train.local_epochs=1", "--set", "preprocess.size=32", "--min-sites", 2)
    sent = pneumonia_fl("submit", "smoke", *words, *kit, "--wait", "--json", "--timeout", 3)
    assert sent.returncode == 5, sent.stdout + sent.stderr
    job_id = json.loads(sent.stdout)["id"]
    commands = [
        ("jobs", *kit), ("logs", job_id, *kit),
        ("download", job_id, *kit, "--out", folder / "run"),
    ]  # fmt: skip
    done = [sent, *(pneumonia_fl(*command) for command in commands)]
    assert done[-1].returncode == 0, done[-1].stderr
    said = "\n".join(one.stdout + one.stderr for one in done).encode()
    (folder / "said.txt").write_bytes(said)
    return said


def test_the_job_ran_and_the_search_sees_it(story: Story) -> None:
    assert (story.run / "metrics.json").is_file()
    names = " ".join(f"{place.file}{place.member}" for place in story.places())
    for part in (
        "jobs-storage",
        "!",
        "mlflow.db",
        "events.out.tfevents",
        "startup.log",
        "audit.log",
        "said.txt",
    ):
        assert part in names
    assert PATIENT.search((own_data(story.federation, SITES[0]) / "manifest.csv").read_bytes())


def test_private_keys_stay_where_they_are(story: Story) -> None:
    keys = {file: file.read_bytes().splitlines()[5] for file in story.federation.kits.glob("*/startup/*.key")}
    assert len(keys) == 1 + len(SITES) + len(list(story.federation.kits.glob("*@*")))
    root = str(read_json(next(story.federation.kits.glob(".state/**/cert.json")))["root_pri_key"])
    lines = [line for line in root.encode().splitlines() if len(base64.b64decode(line + b"==", None)) > 40]
    found = story.found(*keys.values(), lines[3])
    own = {str(file.relative_to(story.folder)) for file in keys}
    assert {name for name in found if not name.startswith("kits/.state/")} == own
    assert all(len(there) == 1 for name, there in found.items() if name in own)


def test_what_stands_in_an_environment_stands_nowhere_else(story: Story) -> None:
    login = base64.b64encode(f"{ENVIRONMENT}:{ENVIRONMENT}".encode())
    assert story.found(ENVIRONMENT.encode(), login, PERSON.encode()) == {}


def test_a_password_in_mlflows_address_is_refused_before_it_is_written_anywhere(story: Story) -> None:
    settings = story.federation.kit(SERVER) / "local" / "pneumonia_fl.yml"
    before = settings.read_text()
    settings.write_text(f"tracking_uri: http://lead:{PASSWORD}@127.0.0.1:1\n")
    try:
        done = pneumonia_fl("up", story.federation.kit(SERVER))
    finally:
        settings.write_text(before)
    assert done.returncode == 1
    assert "set MLFLOW_TRACKING_USERNAME" in done.stderr
    login = base64.b64encode(f"lead:{PASSWORD}".encode())
    assert PASSWORD not in done.stdout + done.stderr
    assert story.found(PASSWORD.encode(), login) == {}


def test_no_patient_and_no_file_name_leaves_a_hospital(story: Story) -> None:
    found = {str(place.file) + place.member for place in story.places() if PATIENT.search(place.content)}
    assert found == set()


@pytest.mark.parametrize("site", SITES)
def test_a_sites_folders_are_named_in_its_own_kit_only(story: Story, site: str) -> None:
    found = story.found(own_data(story.federation, site).name.encode())
    assert found, "its own settings name it"
    assert [name for name in found if not name.startswith(f"kits/{site}/")] == []


def test_the_problem_of_a_site_is_told_without_its_path(story: Story) -> None:
    own_log = (story.federation.kit(BROKEN)).rglob("log.txt")
    assert any(own_data(story.federation, BROKEN).name in log.read_text() for log in own_log)
    assert f"never contributed: {BROKEN}".encode() in story.said
