"""`up`, `down` and `status`: what they refuse, and what they read, without a running federation."""

import json
import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from speed import scaled

from conftest import CLI, pneumonia_fl
from federation import LEAD, LEAD_IT, SERVER, SITES, Federation, free_port, provision_kits, until
from pneumonia_fl.errors import KitError
from pneumonia_fl.fl.kit.file_modes import mend
from pneumonia_fl.fl.kit.kit_processes import mark_of
from pneumonia_fl.fl.kit.startup_kit import find_kits, open_kit
from pneumonia_fl.fl.provision.root_ca import State
from pneumonia_fl.fl.provision.signing import sign
from pneumonia_fl.fl.services.participant import find_services
from pneumonia_fl.fl.services.registration import lead_it_kit
from pneumonia_fl.fl.services.startup_log import read_startup
from pneumonia_fl.fl.services.status import running_jobs
from pneumonia_fl.runs.processes.process_group import RUN_MARK

SITE = SITES[0]


@pytest.fixture(scope="module")
def made(hospital_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Federation:
    port = free_port()
    return Federation(
        provision_kits(tmp_path_factory, tmp_path_factory.mktemp("made"), port), hospital_data, port
    )


def test_a_server_is_asked_with_the_lead_its_kit_or_not_at_all(made: Federation, tmp_path: Path) -> None:
    server = open_kit(made.kit(SERVER))
    found = lead_it_kit(made.kits, server)
    assert found is not None
    assert found.name == LEAD_IT
    for name in (SERVER, LEAD, SITE):
        shutil.copytree(made.kit(name), tmp_path / name)
    assert lead_it_kit(tmp_path, server) is None


@pytest.fixture
def stopped(made: Federation, tmp_path: Path) -> Federation:
    """A copy of the kits for one test to spoil."""
    shutil.copytree(made.kits, tmp_path / "kits")
    return Federation(tmp_path / "kits", made.data, made.port)


@pytest.fixture
def sleeper(stopped: Federation) -> Iterator["subprocess.Popen[bytes]"]:
    """A process that a site's crashed start has left behind."""
    mark = mark_of(open_kit(stopped.kit(SITE)))
    with subprocess.Popen(["sleep", "600"], env={**os.environ, RUN_MARK: mark}) as process:
        threading.Thread(target=process.wait, daemon=True).start()  # reaps it, as init would
        yield process
        process.kill()


def refusal(federation: Federation, *words: object) -> str:
    """The one line with which `up` refuses; nothing is running after it."""
    done = federation.up(*words)
    assert done.returncode == 1, done.stdout + done.stderr
    assert federation.processes() == {}
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("error: ")
    return line


def test_a_taken_port_is_named(stopped: Federation) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", stopped.port))
        other.listen()
        assert f"port {stopped.port}" in refusal(stopped)


def test_lost_modes_are_mended_where_they_are_ours(stopped: Federation) -> None:
    kit = open_kit(stopped.kit(SITE))
    for path in (*kit.startup.iterdir(), kit.folder / "install.sh"):
        path.chmod(0o644)
    said: list[str] = []
    mend(kit, said.append)
    assert [line.partition(": ")[2].split(" ", 1)[1] for line in said] == [
        "stop_fl.sh, sub_start.sh, install.sh had lost the right to be run; given back",
        "could be read by others (mode 0644); now only its owner can",
    ]
    assert all(os.access(path, os.X_OK) for path in kit.startup.glob("*.sh"))
    assert kit.private_key.stat().st_mode & 0o777 == 0o600
    mend(kit, said.append)
    assert len(said) == 2


def test_an_environment_of_the_kit_that_lacks_something_is_refused_at_once(stopped: Federation) -> None:
    kit = stopped.kit(SITE)
    (kit / "venv/bin").mkdir(parents=True)
    assert (
        f"{kit}/venv/bin/python3 does not run (No such file or directory); run {kit}/install.sh"
        in refusal(stopped)
    )
    shutil.rmtree(kit / "venv")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", kit / "venv"], check=True)
    assert f"{kit}/venv/bin/python3 has no nvflare, pneumonia_fl, torch; run {kit}/install.sh" in refusal(
        stopped
    )


def test_a_proxy_in_the_way_is_refused_with_the_remedy(stopped: Federation) -> None:
    environment = {**os.environ, "https_proxy": "http://127.0.0.1:9"}
    for kits, why in (
        (stopped.kits, "the server is on this machine"),
        (stopped.kit(SITE), "which does not answer"),
    ):
        done = pneumonia_fl("up", kits, "--data", stopped.data, env=environment)
        assert done.returncode == 1
        assert (
            f"https_proxy sends gRPC to localhost:{stopped.port} through the proxy 127.0.0.1:9" in done.stderr
        )
        assert why in done.stderr
        assert 'export no_proxy="$no_proxy,localhost"' in done.stderr
    assert stopped.processes() == {}


def test_a_site_without_data_is_named(stopped: Federation) -> None:
    done = pneumonia_fl("up", stopped.kits)
    assert done.returncode == 1
    assert f"site {SITE} has no data" in done.stderr
    assert str(stopped.kit(SITE) / "local/pneumonia_fl.yml") in done.stderr
    assert stopped.processes() == {}


def test_data_of_another_site_is_refused(stopped: Federation) -> None:
    done = pneumonia_fl("up", stopped.kit(SITE), "--data", stopped.data / SITES[1])
    assert done.returncode == 1
    assert f"holds the data of site '{SITES[1]}'" in done.stderr


def test_an_edited_kit_is_refused(stopped: Federation) -> None:
    with (stopped.kit(SITE) / "startup/start.sh").open("a") as script:
        script.write("true\n")
    assert "start.sh" in refusal(stopped)


def test_a_kit_whose_signature_was_taken_away_is_refused(stopped: Federation) -> None:
    (stopped.kit(SITE) / "startup/signature.json").unlink()
    assert "not as it was signed (signature.json)" in refusal(stopped)


def test_an_expired_certificate_is_refused_with_its_cure(stopped: Federation) -> None:
    startup = stopped.kit(SITE) / "startup"
    state = State(next(stopped.kits.rglob("cert.json")))
    (startup / "client.crt").write_bytes(expired_certificate(SITE, state))
    sign(startup, state.root_key)
    line = refusal(stopped)
    assert f"error: the certificate of {SITE} expired on 2020-01-31" in line
    assert f"pneumonia-fl provision --renew {SITE}" in line


def test_the_certificate_of_another_kit_is_refused(stopped: Federation) -> None:
    startup = stopped.kit(SITE) / "startup"
    shutil.copy(stopped.kit(SITES[1]) / "startup/client.crt", startup)
    sign(startup, State(next(stopped.kits.rglob("cert.json"))).root_key)
    assert f"client.crt is of {SITES[1]!r}, but the kit is of {SITE!r}" in refusal(stopped)


def expired_certificate(name: str, state: State) -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    start = datetime(2020, 1, 1, tzinfo=UTC)
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(state.root.subject).serial_number(1)
    builder = builder.not_valid_before(start).not_valid_after(start + timedelta(days=30))
    return (
        builder.public_key(key.public_key()).sign(state.root_key, hashes.SHA256()).public_bytes(Encoding.PEM)
    )


@pytest.mark.parametrize("command", ["up", "down", "status", "doctor"])
def test_a_kit_that_is_not_there_is_answered_with_the_one_that_was_meant(
    stopped: Federation, command: str
) -> None:
    done = pneumonia_fl(command, stopped.kits / "asia-hospitl")
    assert done.returncode == 1
    assert done.stderr == f"error: {stopped.kits}/asia-hospitl does not exist; did you mean asia-hospital?\n"


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be another account")
def test_a_kit_of_another_account_is_one_plain_line(stopped: Federation) -> None:
    """As somebody who sees the folder of kits, and not into them."""
    for folder in (stopped.kits, *list(stopped.kits.parents)[:3]):
        folder.chmod(0o755)
    os.seteuid(65534)
    try:
        with pytest.raises(
            KitError, match=r"startup cannot be read \(Permission denied\); start as the owner"
        ):
            find_kits(stopped.kits)
    finally:
        os.seteuid(0)


def test_a_folder_without_kits_and_a_persons_kit_are_refused(stopped: Federation) -> None:
    for command in ("up", "down", "status"):
        nothing = pneumonia_fl(command, stopped.data)
        assert (nothing.returncode, "no startup kits in" in nothing.stderr) == (1, True)
    for command in ("up", "down"):
        person = pneumonia_fl(command, stopped.kit(LEAD))
        assert (person.returncode, "only a person's" in person.stderr) == (1, True)


def test_a_person_hears_when_the_server_is_down(stopped: Federation) -> None:
    done = pneumonia_fl("status", stopped.kit(LEAD))
    assert done.returncode == 3
    assert f"localhost:{stopped.port}" in done.stderr


def test_status_and_down_of_what_does_not_run(stopped: Federation) -> None:
    status = pneumonia_fl("status", stopped.kits, "--json")
    assert status.returncode == 1
    entries = json.loads(status.stdout)
    assert [entry["name"] for entry in entries] == [SERVER, *SITES]
    assert not any(entry["running"] or entry["ready"] or entry["pid"] for entry in entries)
    down = pneumonia_fl("down", stopped.kits)
    assert (down.returncode, "nothing was running" in down.stdout) == (0, True)


def test_a_process_left_behind_stops_up_and_is_ended_by_down(
    stopped: Federation, sleeper: "subprocess.Popen[bytes]"
) -> None:
    done = stopped.up()
    assert done.returncode == 1
    assert f"{SITE} runs already" in done.stderr
    assert stopped.down().returncode == 0
    assert sleeper.wait(scaled(10)) != 0


def test_down_leaves_processes_of_a_copied_kit_alone(
    stopped: Federation, sleeper: "subprocess.Popen[bytes]", tmp_path: Path
) -> None:
    shutil.copytree(stopped.kits, tmp_path / "copy")
    assert pneumonia_fl("down", tmp_path / "copy").returncode == 0
    assert sleeper.poll() is None


def test_ids_of_other_peoples_processes_in_a_kit_are_not_its_own(stopped: Federation) -> None:
    for name in ("daemon_pid.fl", "pid.fl"):
        (stopped.kit(SITE) / name).write_text(f"{os.getpid()}\n")
    (site,) = find_services(stopped.kit(SITE))
    assert (site.loop(), site.main(), site.running()) == (None, None, False)


JOB = "1f0c6a52-0000-4000-8000-000000000000"


def test_down_names_jobs_and_owners_and_ends_them_only_when_told(stopped: Federation) -> None:
    server = open_kit(stopped.kit(SERVER))
    words = ["-n", JOB, "nvflare.private.fed.app.server.runner_process"]
    code = "import time; time.sleep(600)"
    environment = {**os.environ, RUN_MARK: mark_of(server)}
    (server.folder / JOB).mkdir()
    (server.folder / JOB / "meta.json").write_text(json.dumps({"name": "fedavg", "submitter_name": LEAD}))
    with subprocess.Popen([sys.executable, "-c", code, *words], env=environment, cwd=server.folder) as job:
        threading.Thread(target=job.wait, daemon=True).start()
        refused = pneumonia_fl("down", stopped.kits)
        waiting = subprocess.Popen(
            [CLI, "down", stopped.kits, "--drain"], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert waiting.stderr is not None
        assert waiting.stderr.readline() == f"waiting for fedavg (1f0c6a52, {LEAD})\n"
        assert job.poll() is None
        job.terminate()
        assert waiting.communicate(timeout=scaled(30))[0].startswith("nothing was running")
    assert refused.returncode == 1
    assert f"a job runs here: fedavg (1f0c6a52, {LEAD}); --drain waits for the end, --yes" in refused.stderr


def test_a_job_runs_until_its_server_has_written_down_its_end(
    stopped: Federation,
) -> None:
    """`down --drain` would else end the server before it has kept the result of a job whose process is gone."""
    server = stopped.kit(SERVER)
    meta = {"name": "fedavg", "submitter_name": LEAD, "status": "RUNNING"}
    file = server / f"jobs-storage/{JOB}/meta"
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps(meta))
    assert running_jobs(stopped.kits) == [], "no server runs that could end it"
    environment = {**os.environ, RUN_MARK: mark_of(open_kit(server))}
    with subprocess.Popen(["sleep", "600"], env=environment, cwd=server) as process:
        assert list(map(str, running_jobs(stopped.kits))) == [f"fedavg (1f0c6a52, {LEAD})"]
        file.write_text(json.dumps({**meta, "status": "FINISHED:COMPLETED"}))
        assert running_jobs(stopped.kits) == []
        process.kill()


def test_the_doctor_looks_at_every_kit_of_a_folder(stopped: Federation, tmp_path: Path) -> None:
    for name in (SITE, LEAD):
        shutil.copytree(stopped.kit(name), tmp_path / "two" / name)
    done = pneumonia_fl("doctor", tmp_path / "two", "--json")
    said = json.loads(done.stdout)
    assert [entry["kit"]["name"] for entry in said["kits"]] == [SITE, LEAD]
    assert (said["ok"], done.returncode) == (False, 1)  # no data


@pytest.mark.parametrize(
    ("printed", "error"),
    [
        (
            "/kits/x/startup/start.sh: line 36: /kits/x/startup/sub_start.sh: Permission denied\n",
            "Permission denied",
        ),
        (
            "/usr/bin/python3: Error while finding module specification (No module named 'nvflare')\n",
            "No module named",
        ),
    ],
)
def test_a_child_that_died_ends_the_wait_with_its_last_words(
    stopped: Federation, printed: str, error: str
) -> None:
    (site,) = find_services(stopped.kit(SITE))
    site.startup_log.write_text(f"WORKSPACE set to /kits/x\n{printed}")
    state = read_startup(site)
    assert state.died
    assert error in state.error
    with subprocess.Popen(["true"]) as gone:
        gone.wait()
    site.startup_log.write_text(f"WORKSPACE set to /kits/x\nnew pid {gone.pid}\n{printed}")
    assert read_startup(site).died


@pytest.mark.e2e
def test_a_kit_started_by_hand_is_seen_and_ended_its_own_way(stopped: Federation) -> None:
    kit = stopped.kit(SITE)
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    with (kit / "startup.log").open("w") as log:
        subprocess.run(
            ["bash", str(kit / "startup/start.sh")], env={**os.environ, "PATH": path}, stdout=log, check=True
        )
    (site,) = find_services(kit)
    loop = until(site.loop, 10, "the restart loop")
    assert "runs already" in pneumonia_fl("up", kit, "--data", stopped.data).stderr
    main = until(site.main, 15, "the site's process")
    assert f"ended {SITE}" in pneumonia_fl("down", kit).stdout
    until(lambda: not any(one.is_running() for one in (loop, main)), 2, "both are gone")


LOG = """\
WORKSPACE set to /kits/asia-hospital
new pid {pid}
2026-11-22 10:52:41,811 - Cell - INFO - Register blob CB
2026-11-22 10:52:42,570 - conn_manager - INFO - Connection [CN00002 Not Connected] is closed PID: {pid}
"""
REGISTERED = (
    "2026-11-22 10:52:43,570 - FederatedClient - INFO - Successfully registered client:asia-hospital\n"
)


def test_the_log_tells_registered_from_died(stopped: Federation) -> None:
    (site,) = find_services(stopped.kit(SITE))
    log = LOG.format(pid=os.getpid())
    site.startup_log.write_text(log)
    waiting = read_startup(site)
    assert (waiting.ready, waiting.died) == (False, False)
    assert waiting.error.startswith(f"no connection to localhost:{stopped.port}; ")
    site.startup_log.write_text(log + REGISTERED)
    assert read_startup(site).ready
    site.startup_log.write_text(
        log + REGISTERED + "start fl because process of 17 does not exist\nnew pid 18\n"
    )
    again = read_startup(site)
    assert (again.ready, again.died) == (False, True)


def test_a_site_that_came_too_early_is_started_again(
    stopped: Federation, sleeper: "subprocess.Popen[bytes]"
) -> None:
    """NVFlare's server refuses whoever comes between the opening of its port and the end of its start."""
    (site,) = find_services(stopped.kit(SITE))
    with subprocess.Popen(["true"]) as gone:
        gone.wait()
    refused = LOG.format(pid=gone.pid) + "RuntimeError: Login failed.\n"
    site.startup_log.write_text(refused)
    assert not read_startup(site).died
    again = f"start fl because process of {gone.pid} does not exist\nnew pid {os.getpid()}\n"
    site.startup_log.write_text(refused + again + REGISTERED)
    assert (read_startup(site).ready, read_startup(site).died) == (True, False)
    site.startup_log.write_text(refused + again + "RuntimeError: Login failed.\nnew pid 18\n")
    assert read_startup(site).died
