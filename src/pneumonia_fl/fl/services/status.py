"""Describe and end the services of this machine: the servers and sites whose kits are here."""

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pneumonia_fl.fl.kit.kit_processes import kit_processes
from pneumonia_fl.fl.services.launch import end
from pneumonia_fl.fl.services.mlflow_server import answers, tracking_uri_of
from pneumonia_fl.fl.services.participant import Service, find_services
from pneumonia_fl.fl.services.startup_log import read_startup
from pneumonia_fl.inputs.json_files import read_json
from pneumonia_fl.inputs.text import printable

JOB_STORE = "jobs-storage"
"""In a server's kit: NVFlare's store of jobs, as provisioning sets it."""
DRAIN_SECONDS = 1.0
"""Between two looks at the jobs."""


def status(folder: Path) -> list[dict[str, Any]]:
    """Return one entry for each server and site kit at or below `folder`.

    Returns:
        name, kind, kit, running, pid, since (seconds since the epoch), ready (the server serves, the site is
        registered and connected), jobs (ids that have a process here), log, startup_log; of a site also connected
        (to the server, now); of a server also port, mlflow (URI) and mlflow_answers.
    """
    services = find_services(folder)
    seen = tuple(kit_processes())
    return [_describe(replace(one, seen=seen)) for one in services]


@dataclass(frozen=True)
class RunningJob:
    """A job that ends with its server."""

    id: str
    name: str
    owner: str

    def __str__(self) -> str:
        return f"{self.name} ({self.id[:8]}, {self.owner})"


def running_jobs(folder: Path) -> list[RunningJob]:
    """List running jobs of the servers at or below `folder`; a job continues when a site leaves it.

    When a job's process is gone, its server still has to keep the result and to write down how the job ended.
    """
    servers = [one for one in find_services(folder) if one.kit.kind == "server"]
    return [
        _running_job(server, job)
        for server in servers
        for job in sorted({*server.jobs(), *(_unfinished(server) if server.running() else ())})
    ]


def _unfinished(server: Service) -> list[str]:
    """List jobs that the server has deployed and has not finished, from its store."""
    found = []
    for meta in server.kit.folder.glob(f"{JOB_STORE}/*/meta"):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            if read_json(meta).get("status") in ("DISPATCHED", "RUNNING"):
                found.append(meta.parent.name)
    return found


def drain(folder: Path, say: Callable[[list[RunningJob]], None]) -> None:
    """Wait until no job runs on the servers at or below `folder`; `say` is told whenever others run than before."""
    before: list[RunningJob] = []
    while jobs := running_jobs(folder):
        if jobs != before:
            say(jobs)
        before = jobs
        time.sleep(DRAIN_SECONDS)


def down(folder: Path) -> list[str]:
    """End every server and site at or below `folder` and what they have started; return who was running."""
    services = find_services(folder)
    running = [one.name for one in services if one.running()]
    end(services)
    return running


def _running_job(server: Service, job: str) -> RunningJob:
    """Read a running job from the server's folder of it."""
    try:
        stored = server.kit.folder / JOB_STORE / job / "meta"
        meta = read_json(stored if stored.is_file() else server.kit.folder / job / "meta.json")
        name, owner = meta.get("name"), meta.get("submitter_name")
    except (OSError, ValueError, AttributeError):
        name = owner = None
    return RunningJob(job, printable(name or "a job"), printable(owner or "unknown"))


def _describe(one: Service) -> dict[str, Any]:
    main = one.main()
    alive = main is not None
    entry: dict[str, Any] = {
        "name": one.name,
        "kind": one.kit.kind,
        "kit": str(one.kit.folder),
        "running": alive,
        "pid": main.pid if main else None,
        "since": round(main.create_time(), 1) if main else None,
        "ready": alive and read_startup(one).ready,
        "jobs": one.jobs(),
        "log": str(one.log),
        "startup_log": str(one.startup_log),
    }
    if one.kit.kind == "server":
        uri = tracking_uri_of(one)
        return entry | {
            "port": one.kit.port,
            "mlflow": uri,
            "mlflow_answers": uri is not None and answers(uri),
        }
    connected = alive and one.connected()
    return entry | {"connected": connected, "ready": entry["ready"] and connected}
