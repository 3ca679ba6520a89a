"""Four machines as a consortium has them: a server with a name, three hospitals, a cable to each that can be cut."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from namespaces import Machine, machines, obstacle
from provisioning import keep_wheel
from speed import scaled

from conftest import ROOT, pneumonia_fl, read_json
from federation import LEAD, LEAD_IT, SITES, until
from pneumonia_fl.runs.journal import read_journal

pytestmark = [pytest.mark.e2e, pytest.mark.slow]
HOST = "fl.consortium.example"
ASIA, EUROPE, US = SITES
NOTICED_SECONDS = 40.0
"""gRPC takes 20 s of silence for a dead connection (provisioning/comm_config.json)."""
BACK_SECONDS = 45.0
"""After the cable is back: up to 10 s until the site tries to connect, 30 s until it gives an old request up."""
ROUNDS = 10
"""Until the site is back they take longer than `GRACE` each; some must be left for it."""
GRACE = 8
QUICK = ("--set", "preprocess.size=32", "--set", "train.local_epochs=1")


@dataclass(frozen=True)
class Consortium:
    """Machines, each with its own kit in a folder of its own."""

    machines: dict[str, Machine]
    folder: Path

    def kit(self, name: str) -> Path:
        """The kit of the server, of a site, or of a person, who works on the server's machine."""
        return self.folder / (name if name in self.machines else HOST) / name

    def together(self, *command: str) -> None:
        """Run a command on every machine at once, each on its own kit."""
        started = {name: machine.start(*command, self.kit(name)) for name, machine in self.machines.items()}
        for name, process in started.items():
            _, said = process.communicate(timeout=scaled(150))
            assert process.returncode == 0, f"{name}: {said}"

    def person(self, *words: object, timeout: float = 60) -> "tuple[int, str, str]":
        """What a command of a person comes to: exit code, stdout, stderr."""
        done = self.machines[HOST].run(*words, timeout=timeout)
        return done.returncode, done.stdout, done.stderr


def hand_out(factory: pytest.TempPathFactory, folder: Path, hospital_data: Path) -> None:
    """Make the kits as Lead IT does, give each to its machine, and say there where the data is."""
    text = (ROOT / "project.yml").read_text()
    assert text.count("name: localhost ") == 1
    (folder / "project.yml").write_text(text.replace("name: localhost ", f"name: {HOST} "))
    keep_wheel(factory, folder / "kits")
    done = pneumonia_fl("provision", folder / "project.yml", "--out", folder / "kits")
    assert done.returncode == 0, done.stderr
    for name in (HOST, LEAD, LEAD_IT, *SITES):
        machine = folder / (name if name in SITES else HOST)
        machine.mkdir(exist_ok=True)
        (folder / "kits" / name).rename(machine / name)
        if name in SITES:
            shutil.copytree(hospital_data / name, machine / "x-rays" / name)
            (machine / name / "local" / "pneumonia_fl.yml").write_text("data: ../x-rays\n")


@pytest.fixture(scope="module")
def consortium(hospital_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Consortium]:
    """Everybody is up; each site was started alone, on its own machine."""
    if reason := obstacle():
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("consortium")
    hand_out(tmp_path_factory, folder, hospital_data)
    with machines(HOST, SITES) as made:
        started = Consortium(made, folder)
        started.together("up")
        yield started
        started.together("down")
        left = {name: machine.processes() for name, machine in made.items()}
        assert not any(left.values()), left


@pytest.fixture(scope="module")
def job(consortium: Consortium) -> str:
    """A job that goes on with two of three, for longer than it takes to come back."""
    words = ("--min-sites", 2, "--rounds", ROUNDS, "--set", f"grace={GRACE}", *QUICK)
    code, out, said = consortium.person("submit", "smoke", "--kit", consortium.kit(LEAD), "--json", *words)
    assert code == 0, said
    return str(json.loads(out)["id"])


def events(consortium: Consortium, job: str, kind: str, site: str) -> list[dict[str, Any]]:
    found = read_journal(consortium.kit(HOST) / job / "journal.jsonl")
    return [event for event in found if event["event"] == kind and event.get("site") == site]


@pytest.fixture(scope="module")
def cut(consortium: Consortium, job: str) -> dict[str, str]:
    """Cut Asia's cable in the middle of the job and put it back; what was said at both ends in the meantime."""
    asia = consortium.machines[ASIA]
    until(lambda: events(consortium, job, "site", ASIA), 90, "asia contributes")
    asia.cable("down")
    try:
        late = until(lambda: events(consortium, job, "problem", ASIA), 30, "asia is named")
        doctor = asia.run("doctor", consortium.kit(ASIA))
        until(lambda: not status(consortium, ASIA)["connected"], NOTICED_SECONDS, "the site notices")
    finally:
        asia.cable("up")
    return {"server": late[0]["problem"], "doctor": doctor.stdout}


def status(consortium: Consortium, site: str) -> dict[str, Any]:
    done = consortium.machines[site].run("status", consortium.kit(site), "--json")
    (entry,) = json.loads(done.stdout)
    assert done.returncode == (0 if entry["ready"] else 1)
    return dict(entry)


def test_who_is_cut_off_is_told_so_at_both_ends(cut: dict[str, str]) -> None:
    """The site's own status has said so too, or there would be no `cut`."""
    assert cut["server"] == "no answer in time"
    assert f"{HOST}:8002" in next(
        line for line in cut["doctor"].splitlines() if line.startswith("fail network")
    )


@pytest.mark.usefixtures("cut")
def test_a_site_takes_part_again_when_its_cable_is_back(consortium: Consortium, job: str) -> None:
    late = events(consortium, job, "problem", ASIA)[-1]["round"]
    until(
        lambda: any(event["round"] > late for event in events(consortium, job, "site", ASIA)),
        BACK_SECONDS,
        "asia contributes again",
    )
    assert status(consortium, ASIA)["ready"]


@pytest.mark.usefixtures("cut")
def test_the_job_finishes_and_its_result_names_who_was_away(
    consortium: Consortium, job: str, tmp_path: Path
) -> None:
    kit = ("--kit", consortium.kit(LEAD))
    code, _, said = consortium.person("watch", job, *kit, timeout=120)
    assert code == 0, said
    code, _, said = consortium.person("download", job, *kit, "--out", tmp_path / "run")
    assert code == 0, said
    metrics = read_json(tmp_path / "run" / "metrics.json")
    assert [entry["round"] for entry in metrics["rounds"]] == list(range(ROUNDS + 1))
    assert metrics["missing"] == []
    assert {(entry["site"], entry["state"]) for entry in metrics["problems"]} == {(ASIA, "late")}
