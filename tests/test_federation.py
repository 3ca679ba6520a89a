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

from conftest import pneumonia_fl
from federation import LEAD, LEAD_IT, SERVER, SITES, Federation, free_port, provision_kits, until
from pneumonia_fl.fl.federation.participant import find_participants
from pneumonia_fl.fl.federation.registered import lead_it_kit
from pneumonia_fl.fl.federation.startup import last_error, read_startup
from pneumonia_fl.fl.kit_processes import mark_of
from pneumonia_fl.fl.kits import open_kit
from pneumonia_fl.fl.processes import RUN_MARK
from pneumonia_fl.fl.provision.signing import sign
from pneumonia_fl.fl.provision.state import State

SITE = SITES[0]


@pytest.fixture(scope="module")
def made(hospital_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Federation:
    port = free_port()
    return Federation(provision_kits(tmp_path_factory.mktemp("made"), port), hospital_data, port)


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
    (startup / "client.crt").write_bytes(expired_certificate(SITE))
    sign(startup, State(next(stopped.kits.rglob("cert.json"))).root_key)
    line = refusal(stopped)
    assert "client.crt has expired on 2020-01-31" in line
    assert f"pneumonia-fl provision --renew {SITE}" in line


def expired_certificate(name: str) -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    start = datetime(2020, 1, 1, tzinfo=UTC)
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(subject).serial_number(1)
    builder = builder.not_valid_before(start).not_valid_after(start + timedelta(days=30))
    return builder.public_key(key.public_key()).sign(key, hashes.SHA256()).public_bytes(Encoding.PEM)


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
    assert sleeper.wait(10) != 0


def test_down_leaves_processes_of_a_copied_kit_alone(
    stopped: Federation, sleeper: "subprocess.Popen[bytes]", tmp_path: Path
) -> None:
    shutil.copytree(stopped.kits, tmp_path / "copy")
    assert pneumonia_fl("down", tmp_path / "copy").returncode == 0
    assert sleeper.poll() is None


def test_ids_of_other_peoples_processes_in_a_kit_are_not_its_own(stopped: Federation) -> None:
    for name in ("daemon_pid.fl", "pid.fl"):
        (stopped.kit(SITE) / name).write_text(f"{os.getpid()}\n")
    (site,) = find_participants(stopped.kit(SITE))
    assert (site.loop(), site.main(), site.running()) == (None, None, False)


@pytest.mark.e2e
def test_a_kit_started_by_hand_is_seen_and_ended_its_own_way(stopped: Federation) -> None:
    kit = stopped.kit(SITE)
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    with (kit / "startup.log").open("w") as log:
        subprocess.run(
            ["bash", str(kit / "startup/start.sh")], env={**os.environ, "PATH": path}, stdout=log, check=True
        )
    (site,) = find_participants(kit)
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
    (site,) = find_participants(stopped.kit(SITE))
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


def test_the_last_error_is_the_one_that_counts() -> None:
    first = "2026-11-22 10:52:41,811 - Cell - ERROR - first thing\n"
    assert last_error(LOG + first) == "first thing"
    assert last_error(first + "Traceback\n  File x\nValueError: not a number\n") == "ValueError: not a number"
    assert last_error(LOG) == ""
