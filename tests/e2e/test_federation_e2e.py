"""A federation of real processes: it comes up, survives kill -9, and leaves nothing."""

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from faults import submit
from speed import scaled

from conftest import CLI, pneumonia_fl, read_json, scalars
from federation import (
    LEAD,
    MEMBER,
    SERVER,
    SITES,
    Federation,
    free_port,
    listening,
    provision_kits,
    running,
    until,
)
from pneumonia_fl.config.environment import QUIET, TRACKING_LOGIN
from pneumonia_fl.fl.services.participant import find_services
from pneumonia_fl.fl.site.executor import SITE_STATE_FOLDER

pytestmark = pytest.mark.e2e
SITE = SITES[0]
BACK_SECONDS = 40.0
"""NVFlare's loop looks every 5 s; a site's wait between two attempts to connect grows to 10 s."""


@pytest.fixture(scope="module")
def kits(hospital_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Federation:
    """Kits on a machine that has been started again (process ids of others), in a path with spaces and umlauts."""
    port = free_port()
    folder = provision_kits(tmp_path_factory, tmp_path_factory.mktemp("own") / "Kits unserer Häuser", port)
    for name in ("daemon_pid.fl", "pid.fl"):
        (folder / SITE / name).write_text(f"{os.getpid()}\n")
    (folder / SITES[-1]).rename(folder / "kit of the third hospital")
    return Federation(folder, hospital_data, port)


@pytest.fixture
def stopped(kits: Federation, tmp_path: Path) -> Federation:
    """A copy of the kits for one test; the tests that use it stand before those of the running federation."""
    shutil.copytree(kits.kits, tmp_path / "kits")
    return Federation(tmp_path / "kits", kits.data, kits.port)


def test_ctrl_c_during_up_leaves_nothing(stopped: Federation) -> None:
    command = [str(CLI), "up", str(stopped.kits), "--data", str(stopped.data)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        until(lambda: len(stopped.processes()) > len(SITES), 30, "something is started")
        process.send_signal(signal.SIGINT)
        assert process.wait(scaled(30)) == 130
        assert process.stderr is not None
        assert "Traceback" not in process.stderr.read()
    assert stopped.processes() == {}


def test_a_site_whose_server_is_away_is_named_when_the_time_is_over(stopped: Federation) -> None:
    done = pneumonia_fl("up", stopped.kit(SITE), "--data", stopped.data, "--timeout", 20)
    assert done.returncode == 3
    assert f"error: not ready after 20 s: {SITE} (no connection to localhost:{stopped.port}" in done.stderr
    assert stopped.processes() == {}


def test_a_site_that_cannot_start_ends_the_whole_start(stopped: Federation) -> None:
    file = stopped.kit(SITE) / "local/resources.json"
    resources = read_json(file)
    resources["components"].append({"id": "x", "path": "no.such.Component"})
    file.write_text(json.dumps(resources))
    done = stopped.up()
    assert done.returncode == 1
    assert f"error: {SITE} ended while it started: " in done.stderr
    assert "Traceback" not in done.stderr
    assert stopped.processes() == {}


@pytest.fixture(scope="module")
def started(kits: Federation) -> Iterator[Federation]:
    with running(kits) as federation:
        yield federation
    assert pneumonia_fl("status", kits.kits).returncode == 1
    assert not list(kits.kits.glob("*/*.fl"))
    assert not list(kits.kits.glob("*/.pneumonia_fl_up.json"))


def entries(federation: Federation) -> dict[str, dict[str, Any]]:
    done = pneumonia_fl("status", federation.kits, "--json")
    found = {entry["name"]: entry for entry in json.loads(done.stdout)}
    assert (done.returncode == 0) == all(entry["ready"] for entry in found.values())
    return found


def server_knows_all_sites(federation: Federation, seconds: float) -> None:
    until(lambda: set(SITES) <= set(federation.sites()), seconds, "the server knows all sites")


def kill(federation: Federation, name: str) -> int:
    """Kill a participant's main process as a crash would; return its process id."""
    (one,) = find_services(federation.kit(name))
    process = one.main()
    assert process is not None
    process.kill()
    return process.pid


def back(federation: Federation, name: str, killed: int) -> bool:
    entry = entries(federation)[name]
    return bool(entry["ready"] and entry["pid"] != killed)


def test_status_tells_everything_a_script_reads(started: Federation) -> None:
    found = entries(started)
    assert sorted(found) == sorted([SERVER, *SITES])
    for entry in found.values():
        assert entry["running"]
        assert entry["ready"]
        assert psutil.pid_exists(entry["pid"])
        assert time.time() - 300 < entry["since"] <= time.time()
        assert entry["jobs"] == []
        assert Path(entry["log"]).is_file()
    assert all(found[site]["connected"] for site in SITES)
    assert found[SERVER]["port"] == started.port
    assert listening(started.port)


def test_a_person_is_told_which_sites_the_server_knows(started: Federation) -> None:
    done = pneumonia_fl("status", started.kit(MEMBER), "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"server": f"localhost:{started.port}", "sites": sorted(SITES)}


def test_a_second_up_is_refused_and_harms_nothing(started: Federation) -> None:
    before = {name: entry["pid"] for name, entry in entries(started).items()}
    again = started.up()
    assert again.returncode == 1
    assert again.stderr.startswith(
        f"error: {SERVER} runs already, process {before[SERVER]}, {SITE} runs already"
    )
    after = entries(started)
    assert {name: entry["pid"] for name, entry in after.items()} == before
    assert all(entry["ready"] for entry in after.values())


def test_processes_get_data_threads_and_tracking(started: Federation) -> None:
    found = entries(started)
    for site in SITES:
        environment = psutil.Process(found[site]["pid"]).environ()
        assert environment["PNEUMONIA_FL_DATA"] == str(started.data)
        assert environment["PNEUMONIA_FL_THREADS"].startswith(f"{site}=")
        assert not {"PNEUMONIA_FL_TRACKING_URI", *TRACKING_LOGIN} & environment.keys()
        assert QUIET.items() <= environment.items()
    server = psutil.Process(found[SERVER]["pid"]).environ()
    assert QUIET.items() <= server.items()
    assert server["PNEUMONIA_FL_TRACKING_URI"] == found[SERVER]["mlflow"]
    assert started.mlflow_login().items() <= server.items()


def test_mlflow_takes_metrics_and_artifacts_and_keeps_them_in_the_kit(
    started: Federation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient

    server = until(lambda: (e := entries(started)[SERVER])["mlflow_answers"] and e, 30, "MLflow")
    assert server["mlflow"].startswith("http://127.0.0.1:")
    for name, value in started.mlflow_login().items():
        monkeypatch.setenv(name, value)
    client = MlflowClient(tracking_uri=server["mlflow"])
    run = client.create_run(client.create_experiment("up"))
    client.log_metric(run.info.run_id, "auroc", 0.9)
    (tmp_path / "note.txt").write_text("kept")
    client.log_artifact(run.info.run_id, str(tmp_path / "note.txt"))
    assert [one.path for one in client.list_artifacts(run.info.run_id)] == ["note.txt"]
    store = started.kit(SERVER) / "mlflow"
    assert [path.read_text() for path in store.glob("artifacts/**/note.txt")] == ["kept"]
    assert (store / "mlflow.db").is_file()


def test_a_killed_site_comes_back(started: Federation) -> None:
    killed = kill(started, SITE)
    until(lambda: back(started, SITE, killed), BACK_SECONDS, "the site is registered again")
    server_knows_all_sites(started, 10)


def test_a_killed_server_comes_back_and_gets_its_sites(started: Federation) -> None:
    killed = kill(started, SERVER)
    until(lambda: back(started, SERVER, killed), BACK_SECONDS, "the server is back")
    server_knows_all_sites(started, BACK_SECONDS)


def test_a_hospital_that_keeps_its_model_and_its_series_keeps_them_whatever_a_job_says(
    started: Federation, tmp_path: Path
) -> None:
    with (started.kit(SITE) / "local" / "pneumonia_fl.yml").open("a") as file:
        file.write("\nshare_local_model: false\ntracking: site\n")
    job = submit(started, "rounds=1", "cross_site.local_models=true")
    code, said = job.watch(120)
    assert code == 0, said
    job.download(tmp_path / "run")
    matrix = read_json(tmp_path / "run" / "cross_site.json")
    others = sorted(SITES[1:])
    assert matrix["models"] == ["best", "last", *others]
    assert matrix["missing"] == {SITE: "does not share its model"}
    assert all(sorted(row) == sorted(SITES) for row in matrix["cells"].values())
    kept = list(started.kits.glob(f"*/{SITE_STATE_FOLDER}/{job.id}/local_model"))
    assert len(kept) == len(others)
    assert not any(path.is_relative_to(started.kit(SITE)) for path in kept)
    assert {path.name for path in (tmp_path / "run" / "tb_events").iterdir()} == {"global", *others}
    at_home = scalars(started.kit(SITE) / SITE_STATE_FOLDER / job.id / "tensorboard")
    assert {"train_loss", "validation_auc"} <= at_home.keys()
    assert [step for step, _ in at_home["validation_auc"]] == [0, 1]


def test_status_names_a_running_job_which_down_ends_with_its_trainers(started: Federation) -> None:
    words = [
        "submit",
        "fedavg",
        "--rounds",
        500,
        "--data",
        started.data,
        "--kit",
        started.kit(LEAD),
        "--json",
    ]
    submitted = pneumonia_fl(*words)
    assert submitted.returncode == 0, submitted.stderr
    job = json.loads(submitted.stdout)["id"]
    until(lambda: trainers(started) == len(SITES), 90, "every site trains")
    assert {name: entry["jobs"] for name, entry in entries(started).items()} == {
        name: [job] for name in (SERVER, *SITES)
    }


def test_down_asks_before_it_ends_a_job(started: Federation) -> None:
    (job,) = entries(started)[SERVER]["jobs"]
    refused = pneumonia_fl("down", started.kits)
    assert refused.returncode == 1
    assert f"error: a job runs here: fedavg ({job[:8]}, {LEAD}); --drain waits" in refused.stderr
    assert all(entry["ready"] for entry in entries(started).values())


def test_a_kit_that_is_renamed_while_it_runs_keeps_its_processes(started: Federation) -> None:
    """Before the end of the fixture, which ends its processes too."""
    before = entries(started)[SITE]
    moved = started.kit(SITE).rename(started.kits / "Kit für Asien")
    shutil.copytree(moved, started.kit(SITE))
    after, copy = (
        next(one for one in json.loads(pneumonia_fl("status", kit, "--json").stdout))
        for kit in (moved, started.kit(SITE))
    )
    assert [after[key] for key in ("pid", "running", "jobs")] == [
        before[k] for k in ("pid", "running", "jobs")
    ]
    assert (copy["pid"], copy["running"], copy["jobs"]) == (None, False, [])
    refused = pneumonia_fl("up", moved, "--data", started.data)
    assert f"error: {SITE} runs already, process {before['pid']}; end it first: " in refused.stderr
    second = pneumonia_fl("up", started.kit(SITE), "--data", started.data)
    assert f"error: {SITE} runs already from {moved}, process {before['pid']}; " in second.stderr
    said = pneumonia_fl("doctor", moved).stdout
    assert f"it runs from this kit, process {before['pid']}" in said
    assert "the kit was moved while it runs" in said
    assert "nothing was running" in pneumonia_fl("down", started.kit(SITE)).stdout
    assert f"ended {SITE} in " in pneumonia_fl("down", moved).stdout
    assert not psutil.pid_exists(before["pid"])
    shutil.rmtree(moved)


def test_up_starts_what_does_not_run(started: Federation) -> None:
    """The last test: the end of the fixture looks for processes that are left."""
    running = {name: entry["pid"] for name, entry in entries(started).items() if entry["running"]}
    assert sorted(running) == sorted({SERVER, *SITES} - {SITE})
    done = started.up()
    assert done.returncode == 0, done.stderr
    assert f"{SERVER} runs already, process {running[SERVER]}" in done.stderr
    after = {name: entry["pid"] for name, entry in entries(started).items()}
    assert after.items() >= running.items()
    server_knows_all_sites(started, 10)


def trainers(federation: Federation) -> int:
    return sum("pneumonia_fl.fl.site.client" in command for command in federation.processes().values())
