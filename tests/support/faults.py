"""Jobs and processes of a real federation, for tests that break them."""

import contextlib
import json
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from speed import scaled

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
LAST_EVENTS, LAST_LINES = 12, 6
"""What a failure shows of a job's journal, and of each log."""
QUICK = ("train.local_epochs=1", "preprocess.size=32")


class JobOver(AssertionError):
    """The job ended while the test waited for something that it should do."""


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

    def until(self, condition: Callable[[], Any], seconds: float, what: str) -> Any:
        """Wait as `until` does; a failure tells what job, server and sites said last."""
        return until(condition, seconds, f"{what} (job {self.id})", self.evidence)

    def reach(self, number: int, seconds: float = 90) -> None:
        """Wait for a round; fail at once when the job ends before."""
        begun = False

        def reached() -> bool:
            nonlocal begun
            begun, over = begun or self.folder.exists(), begun and not self.folder.exists()
            if over:
                raise JobOver(f"job {self.id} ended before round {number}\n{self.evidence()}")
            return self.round() >= number

        self.until(reached, seconds, f"round {number}")

    def evidence(self) -> str:
        """The last events of the journal, the server's list of jobs, and the last errors in every log."""
        events = [json.dumps(event)[:300] for event in self.events()[-LAST_EVENTS:]]
        listed = pneumonia_fl("jobs", "--kit", self.federation.kit(LEAD), "--json")
        jobs = [line for line in (listed.stdout + listed.stderr).splitlines() if line.strip()]
        found = {"journal": events, "jobs": [line[:300] for line in jobs[-60:]]}
        for name in (SERVER, *SITES):
            for log in sorted(self.federation.kit(name).rglob("log.txt")):
                lines = log.read_text(errors="replace").splitlines()
                errors = [line[:300] for line in lines if " - ERROR - " in line or "Error: " in line]
                found[str(log.relative_to(self.federation.kits))] = errors[-LAST_LINES:]
        return "\n".join(f"{source}:\n  " + "\n  ".join(lines) for source, lines in found.items() if lines)

    def contributed(self, site: str, since: int) -> bool:
        """Whether `site` gave an answer that counts in round `since` or later."""
        return any(event["site"] == site and event["round"] >= since for event in self.events("site"))

    def watch(self, seconds: float) -> tuple[int, str]:
        """Follow the job to its end: exit code and what was said on stderr."""
        try:
            done = pneumonia_fl("watch", self.id, "--kit", self.federation.kit(LEAD), timeout=seconds)
        except subprocess.TimeoutExpired as error:
            raise AssertionError(f"{error}: job {self.id} goes on\n{self.evidence()}") from error
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


def submit_with_patience(federation: Federation, setting: str, late: str, *settings: str) -> tuple[Job, int]:
    """A job in round 2 that gives up after some seconds, and these: as many as healthy sites need on this machine.

    Begins with 25 s, and doubles them while the job ends too early for the reason `late`.
    """
    for doublings in range(5):
        seconds = round(scaled(25)) * 2**doublings
        job = submit(federation, f"{setting}={seconds}", *settings)
        try:
            job.reach(2, 90 + 3 * seconds)
        except JobOver:
            _, said = job.watch(60)
            assert late in said, said
        else:
            return job, seconds
    raise AssertionError(f"healthy sites are late after {seconds} s")


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


@contextmanager
def frozen(federation: Federation, *sites: str) -> Iterator[None]:
    """Meanwhile these sites do nothing in a job.

    Their job processes are stopped too: left alone, one of them misses its trainer's heartbeat after half a minute and
    starts another, which on a slow machine is earlier than the server's patience ends.
    """
    stopped = [
        one for site in sites for kind in ("job", "trainer") for one in processes(federation, kind, site)
    ]
    assert len(stopped) == 2 * len(sites), stopped
    for process in stopped:
        process.suspend()
    try:
        yield
    finally:
        for process in stopped:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.resume()


def resume(job: Job) -> Job:
    done = pneumonia_fl("resume", job.id, "--kit", job.federation.kit(LEAD), "--json")
    assert done.returncode == 0, done.stderr
    return Job(job.federation, json.loads(done.stdout)["id"])
