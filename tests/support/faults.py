"""Jobs and processes of a real federation, for tests that break them."""

import contextlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from conftest import pneumonia_fl, read_json
from federation import LEAD, SERVER, SITES, Federation, until
from pneumonia_fl.runs.journal import read_journal

ASIA, EUROPE, US = SITES
KINDS = {
    "trainer": "pneumonia_fl.fl.site.client",
    "job": "nvflare.private.fed.app.client.worker_process",
    "site": "nvflare.private.fed.app.client.client_train",
    "server job": "nvflare.private.fed.app.server.runner_process",
    "server": "nvflare.private.fed.app.server.server_train",
}
QUICK = ("train.local_epochs=1", "preprocess.size=32")


@dataclass(frozen=True)
class Job:
    """A job on the federation, seen from the server's own records."""

    federation: Federation
    id: str

    @property
    def folder(self) -> Path:
        return self.federation.kit(SERVER) / self.id

    def events(self, kind: str = "") -> list[dict[str, Any]]:
        found = read_journal(self.folder / "journal.jsonl")
        return [event for event in found if kind in ("", event["event"])]

    def round(self) -> int:
        """The round that runs now; -1 before the first."""
        return max((event["round"] for event in self.events("round_started")), default=-1)

    def reach(self, number: int, seconds: float = 90) -> None:
        until(lambda: self.round() >= number, seconds, f"round {number} of {self.id}")

    def contributed(self, site: str, since: int) -> bool:
        """Whether `site` gave an answer that counts in round `since` or later."""
        return any(event["site"] == site and event["round"] >= since for event in self.events("site"))

    def watch(self, seconds: float) -> tuple[int, str]:
        """Follow the job to its end: exit code and what was said on stderr."""
        done = pneumonia_fl("watch", self.id, "--kit", self.federation.kit(LEAD), timeout=seconds)
        return done.returncode, done.stderr

    def download(self, out: Path) -> dict[str, Any]:
        done = pneumonia_fl("download", self.id, "--kit", self.federation.kit(LEAD), "--out", out)
        assert done.returncode in (0, 1, 5), done.stderr
        return read_json(out / "metrics.json")


def submit(federation: Federation, *settings: str) -> Job:
    words = [word for setting in (*QUICK, *settings) for word in ("--set", setting)]
    done = pneumonia_fl("submit", "smoke", "--kit", federation.kit(LEAD), "--json", *words)
    assert done.returncode == 0, done.stderr
    return Job(federation, json.loads(done.stdout)["id"])


def processes(federation: Federation, kind: str, name: str) -> list[psutil.Process]:
    """Processes of one kind at one participant, by its kit's folder in command line or working directory."""
    found = []
    for pid, command in federation.processes().items():
        with contextlib.suppress(psutil.Error):  # it may end while we look
            process = psutil.Process(pid)
            if KINDS[kind] in command and str(federation.kit(name)) in command + process.cwd():
                found.append(process)
    return found


def whole(federation: Federation, site: str) -> bool:
    """Whether each process that a site has during a job runs, once."""
    return all(len(processes(federation, kind, site)) == 1 for kind in ("trainer", "job", "site"))


def of_jobs(federation: Federation) -> list[psutil.Process]:
    """All processes that a job has at any participant."""
    kinds = [("trainer", site) for site in SITES] + [("job", site) for site in SITES]
    return [
        process
        for kind, name in [*kinds, ("server job", SERVER)]
        for process in processes(federation, kind, name)
    ]


def kill(federation: Federation, name: str, *kinds: str) -> None:
    victims = [process for kind in kinds for process in processes(federation, kind, name)]
    assert len(victims) >= len(kinds), victims
    for process in victims:
        process.kill()


def resume(job: Job) -> Job:
    done = pneumonia_fl("resume", job.id, "--kit", job.federation.kit(LEAD), "--json")
    assert done.returncode == 0, done.stderr
    return Job(job.federation, json.loads(done.stdout)["id"])
