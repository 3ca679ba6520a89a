"""Jobs of real kits run in processes that were forked from one that has imported everything."""

import json
from collections.abc import Iterator

import psutil
import pytest
from faults import ASIA, KINDS, Job, kill, of_jobs, processes, submit, whole
from speed import scaled

from conftest import pneumonia_fl
from federation import LEAD, SERVER, SITES, Federation
from pneumonia_fl.config.environment import TRACKING_LOGIN
from pneumonia_fl.runs.processes.fork_server import can_fork

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.slow,
    pytest.mark.skipif(not can_fork(), reason="this machine does not fork (not Linux, or a GPU)"),
]


def fork_server(federation: Federation, name: str) -> psutil.Process:
    """The fork server of a kit: the child of its parent process that says so in `ps`."""
    (main,) = processes(federation, "server" if name == SERVER else "site", name)
    (found,) = [child for child in main.children() if "fork server" in " ".join(child.cmdline())]
    return found


@pytest.fixture(scope="module")
def job(federation: Federation) -> Iterator[Job]:
    job = submit(federation, "rounds=500", "min_sites=2", "grace=3")
    job.reach(1)
    yield job
    done = pneumonia_fl("abort", job.id, "--kit", federation.kit(LEAD))
    assert done.returncode == 0, done.stderr
    job.until(lambda: not of_jobs(federation), 60, "no process of a job is left")


@pytest.mark.parametrize("name", [SERVER, *SITES])
def test_the_processes_of_a_job_are_forked(job: Job, name: str) -> None:
    kinds = ("server job",) if name == SERVER else ("job", "trainer")
    found = [process for kind in kinds for process in processes(job.federation, kind, name)]
    assert len(found) == len(kinds)
    server = fork_server(job.federation, name)
    assert [process.ppid() for process in found] == [server.pid] * len(kinds)
    assert server.num_threads() == 1


@pytest.mark.parametrize("name", [SERVER, ASIA])
def test_a_fork_server_knows_no_secret_and_has_no_file_of_its_kit_open(job: Job, name: str) -> None:
    server = fork_server(job.federation, name)
    assert not {*TRACKING_LOGIN, "PNEUMONIA_FL_DATA", "https_proxy"} & server.environ().keys()
    kit = str(job.federation.kit(name))
    assert [file.path for file in server.open_files() if not file.path.endswith("startup.log")] == []
    assert [one for one in server.net_connections("inet")] == []
    assert kit in server.environ()["PNEUMONIA_FL_RUN"]


def test_status_shows_the_job_as_ever(job: Job) -> None:
    done = pneumonia_fl("status", job.federation.kits, "--json")
    shown = {entry["name"]: entry for entry in json.loads(done.stdout)}
    assert {name: entry["jobs"] for name, entry in shown.items()} == {
        name: [job.id] for name in (SERVER, *SITES)
    }
    assert all(entry["ready"] for entry in shown.values())


def test_a_killed_fork_server_comes_back_with_its_job(job: Job) -> None:
    federation, before = job.federation, fork_server(job.federation, ASIA)
    before.kill()
    job.until(lambda: whole(federation, ASIA) and not before.is_running(), 60, "asia has its processes again")
    since = job.round() + 1
    job.until(lambda: job.contributed(ASIA, since), 60, "asia takes part again")
    assert fork_server(federation, ASIA).pid != before.pid


def test_nothing_outlives_a_killed_parent(job: Job) -> None:
    """Its job, its trainer and its fork server end at once; NVFlare's loop brings all of them back."""
    federation = job.federation
    gone = [
        fork_server(federation, ASIA),
        *(processes(federation, kind, ASIA)[0] for kind in ("job", "trainer")),
    ]
    kill(federation, ASIA, "site")
    assert psutil.wait_procs(gone, timeout=scaled(10))[1] == []
    job.until(lambda: whole(federation, ASIA), 90, "asia has all its processes again")
    since = job.round() + 1
    job.until(lambda: job.contributed(ASIA, since), 60, "asia takes part again")
    assert KINDS["job"] in " ".join(processes(federation, "job", ASIA)[0].cmdline())
