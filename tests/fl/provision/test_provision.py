"""`pneumonia-fl provision`: kits that are complete, private and signed, and stay who they are."""

import json
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from nvflare.fuel.f3.drivers.net_utils import MAX_FRAME_SIZE
from nvflare.lighter.utils import load_crt, verify_cert
from provisioning import SERVER, SITES, Kits
from saved_models import evaluation, subject
from speed import scaled

from conftest import ROOT, read_json
from pneumonia_fl.config.job import load_job
from pneumonia_fl.fl.admin.submit import resolve
from pneumonia_fl.fl.job.recipe import export_job
from pneumonia_fl.fl.kit.assets import POLICIES, provisioning_folder
from pneumonia_fl.fl.kit.startup_kit import find_kits, open_kit
from pneumonia_fl.fl.parent.job_validator import ServerJobValidator
from pneumonia_fl.fl.provision.signing import verify

PEOPLE = (
    "lead-it@consortium.org",
    "it@asia-hospital.org",
    "lead@consortium.org",
    "researcher@europe-hospital.org",
)


def test_everyone_has_a_kit_that_opens(original_kits: Kits) -> None:
    found = {kit.name: kit for kit in find_kits(original_kits.out)}
    assert {SERVER, *SITES, *PEOPLE} <= found.keys()
    assert {kit.kind for kit in found.values()} == {"server", "site", "admin"}
    assert {kit.port for kit in found.values()} == {8002}
    assert {kit.host for kit in found.values()} == {"localhost"}


@pytest.mark.parametrize("name", [SERVER, SITES[0], *PEOPLE])
def test_a_kit_holds_software_and_a_page_for_its_role(original_kits: Kits, name: str) -> None:
    folder = original_kits.out / name
    assert [path.name for path in folder.glob("*.whl")] == [original_kits.wheel.name]
    assert (folder / "requirements.txt").read_text() == (ROOT / "constraints.txt").read_text()
    assert os.access(folder / "install.sh", os.X_OK)
    page = (folder / "README.md").read_text()
    assert name in page
    assert "Not a medical device" in page
    assert "{" not in page


def test_pages_differ_by_role(original_kits: Kits) -> None:
    pages = [original_kits.out / name / "README.md" for name in (SERVER, SITES[0], *PEOPLE)]
    titles = {page.read_text().splitlines()[0] for page in pages}
    assert len(titles) == 6


def test_only_the_owner_can_read_a_kit(original_kits: Kits) -> None:
    for path in [original_kits.out, *original_kits.out.rglob("*")]:
        if "wheel" in path.parts:
            continue
        mode = stat.S_IMODE(path.stat().st_mode)
        assert mode == (0o700 if path.is_dir() or path.suffix == ".sh" else 0o600), path


def test_the_secrets_lie_in_the_kits_and_the_state_only(original_kits: Kits) -> None:
    owners = [
        path
        for path in original_kits.out.rglob("*")
        if path.is_file() and b"PRIVATE KEY" in path.read_bytes()
    ]
    places = {str(path.relative_to(original_kits.out)) for path in owners}
    assert places == {
        ".state/pneumonia_fl/state/cert.json",
        *(f"{kit.name}/startup/{kit.private_key.name}" for kit in find_kits(original_kits.out)),
    }


def test_the_stores_are_inside_the_server_kit(original_kits: Kits) -> None:
    resources = (original_kits.out / SERVER / "local" / "resources.json").read_text()
    assert "/tmp" not in resources
    assert str(original_kits.out) not in resources, "a kit must not know where it lies"
    receiver = next(part for part in json.loads(resources)["components"] if part["id"] == "log_receiver")
    assert receiver["args"] == {"dest_dir": "site-logs"}, "NVFlare's own default is the folder of everybody"


@pytest.mark.parametrize("name", [SERVER, *SITES])
def test_a_kit_allows_what_our_own_jobs_use_and_nothing_else(
    name: str, original_kits: Kits, tmp_path: Path
) -> None:
    local = original_kits.out / name / "local"
    allowed = set(read_json(local / "resources.json")["class_allow_list"])
    half = "server" if name == SERVER else "client"
    used: set[str] = set()
    for job in ("fedavg", "cyclic"):
        settings = resolve(load_job(ROOT / "jobs" / f"{job}.yml"), None)
        folder = export_job(settings, ("a", "b"), tmp_path)
        used |= classes_of(read_json(folder / "app" / "config" / f"config_fed_{half}.json"))
    folder = export_job(*evaluation(), tmp_path, models={"best": subject().weights})
    used |= classes_of(read_json(folder / "app" / "config" / f"config_fed_{half}.json"))
    assert allowed == used
    assert read_json(local / "resources.json")["class_list_enforcement_mode"] == "enforce"


def classes_of(config: object) -> set[str]:
    children = (
        list(config.values()) if isinstance(config, dict) else config if isinstance(config, list) else []
    )
    own = {config["path"]} if isinstance(config, dict) and "path" in config else set()
    return own.union(*map(classes_of, children))


def test_every_process_of_a_kit_has_its_guard(original_kits: Kits) -> None:
    for name in (SERVER, *SITES):
        local = original_kits.out / name / "local"
        paths = [part.get("path") for part in read_json(local / "resources.json")["components"]]
        assert f"pneumonia_fl.fl.entrypoints.{'Server' if name == SERVER else 'Site'}Guard" in paths
        internal = read_json(local / "comm_config.json")["internal"]
        assert internal["resources"]["connection_security"] == "mtls"


def test_both_ends_notice_a_dead_connection_and_no_request_waits_long(original_kits: Kits) -> None:
    for name in (SERVER, *SITES):
        local = original_kits.out / name / "local"
        options = dict(read_json(local / "comm_config.json")["grpc"]["options"])
        assert (
            options["grpc.http2.min_recv_ping_interval_without_data_ms"] < options["grpc.keepalive_time_ms"]
        )
        assert options["grpc.max_receive_message_length"] == MAX_FRAME_SIZE, (
            "what NVFlare has without the file"
        )
    for site in SITES:
        client = read_json(original_kits.out / site / "local" / "resources.json")["client"]
        assert client == {"retry_timeout": 30, "compression": "Gzip", "communication_timeout": 30}


def test_running_it_again_changes_no_byte_of_any_kit(kits: Kits) -> None:
    names = [kit.name for kit in find_kits(kits.out)]
    before = kits.files(*names)
    made = kits.made()
    assert {kit["change"] for kit in made.values()} == {"unchanged"}
    assert kits.files(*names) == before
    assert not list(kits.out.rglob("prod_*")), "a second copy of all keys"


def test_a_new_site_and_a_new_person_leave_the_others_alone(kits: Kits) -> None:
    names = [kit.name for kit in find_kits(kits.out)]
    before = kits.files(*names)
    made = kits.made(
        "--add-site", "africa-hospital:africa_hospital", "--add-user", "bob@africa.org:africa_hospital:lead"
    )
    assert {name for name, kit in made.items() if kit["change"] == "new"} == {
        "africa-hospital",
        "bob@africa.org",
    }
    assert kits.files(*names) == before
    root = (kits.out / SERVER / "startup" / "rootCA.pem").read_bytes()
    for name in ("africa-hospital", "bob@africa.org"):
        kit = open_kit(kits.out / name)
        assert kit.root_certificate.read_bytes() == root
        verify_cert(load_crt(kit.certificate), load_crt(kit.root_certificate).public_key())
    assert made["bob@africa.org"]["role"] == "lead"


def test_renewing_gives_one_participant_a_new_identity_from_the_same_root(kits: Kits) -> None:
    others = [kit.name for kit in find_kits(kits.out) if kit.name != SITES[1]]
    before, root = kits.files(*others), (kits.out / SERVER / "startup" / "rootCA.pem").read_bytes()
    old = open_kit(kits.out / SITES[1])
    was = (
        old.certificate.read_bytes(),
        old.private_key.read_bytes(),
        load_crt(old.certificate).not_valid_after_utc,
    )
    settings = old.local / "pneumonia_fl.yml"
    settings.write_text("data: /somewhere\n")
    made = kits.made("--renew", SITES[1])
    assert {name for name, kit in made.items() if kit["change"] != "unchanged"} == {SITES[1]}
    assert kits.files(*others) == before
    new = open_kit(kits.out / SITES[1])
    assert new.certificate.read_bytes() != was[0]
    assert new.private_key.read_bytes() != was[1]
    assert load_crt(new.certificate).not_valid_after_utc >= was[2]
    assert load_crt(new.certificate).subject == load_crt(original_certificate(kits, SITES[1])).subject
    assert new.root_certificate.read_bytes() == root
    assert settings.read_text() == "data: /somewhere\n"
    assert verify(new) == []


def original_certificate(kits: Kits, name: str) -> Path:
    return kits.out / name / "startup" / "client.crt"


def test_what_an_owner_changed_in_local_stays(kits: Kits) -> None:
    rights = kits.out / SITES[0] / "local" / "authorization.json"
    rights.write_text(rights.read_text().replace('"operate": "any"', '"operate": "o:site"'))
    before = rights.read_text()
    kits.made()
    assert rights.read_text() == before


def test_a_policy_is_for_the_named_sites(kits: Kits) -> None:
    made = kits.made("--policy", "locked", "--policy", f"{SITES[2]}=relaxed")
    assert [made[site]["policy"] for site in SITES] == ["locked", "locked", "relaxed"]
    made = kits.made("--policy", f"{SITES[0]}=strict")
    assert [made[site]["policy"] for site in SITES] == ["strict", "locked", "relaxed"]


def test_the_server_takes_shipped_code_only_when_it_is_relaxed(kits: Kits, tmp_path: Path) -> None:
    for folder in ("custom", "config"):
        (tmp_path / "app" / folder).mkdir(parents=True)
    (tmp_path / "app" / "config" / "config_fed_server.json").write_text("{}")

    def answer() -> str:
        resources = read_json(kits.out / SERVER / "local" / "resources.json")
        return str(
            ServerJobValidator(**resources["app_validator"]["args"]).validate(str(tmp_path / "app"))[0]
        )

    assert answer().startswith("server policy 'strict' refuses a job that ships code")
    made = kits.made("--policy", f"{SERVER}=relaxed")
    assert made[SERVER]["policy"] == "relaxed"
    assert answer() == ""
    kits.made("--policy", "strict")
    assert "refuses" in answer()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--policy", "lax"], "unknown policy 'lax'; there are: strict, relaxed, locked"),
        (["--policy", "mars=strict"], "no such site or server; there are: localhost, europe-hospital"),
        (["--renew", "mars"], "--renew mars: not in"),
        (["--wheel", "no.whl"], "no such wheel"),
        (["--add-site", "mars"], "write NAME:ORG"),
        (["--approve", "no.zip"], "no request no.zip"),
        (["--finish", "nowhere"], "does not exist"),
    ],
)
def test_a_bad_option_is_one_line(kits: Kits, words: list[str], message: str) -> None:
    done = kits.provision(*words)
    assert done.returncode == 1
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_certificate_that_contradicts_the_project_is_named_with_the_command(kits: Kits) -> None:
    text = kits.project.read_text()
    kits.project.write_text(
        text.replace("host_names: [127.0.0.1]", "host_names: [127.0.0.1, fl.example.org]")
    )
    done = kits.provision()
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "host names of localhost changed" in done.stderr
    assert kits.made("--renew", SERVER)[SERVER]["change"] == "updated"
    kits.project.write_text(text.replace("role: member", "role: lead"))
    done = kits.provision()
    assert "role of researcher@europe-hospital.org changed" in done.stderr
    assert "--renew researcher@europe-hospital.org" in done.stderr


def test_another_port_reaches_every_kit_without_a_new_identity(kits: Kits) -> None:
    keys = {kit.name: kit.private_key.read_bytes() for kit in find_kits(kits.out)}
    kits.project.write_text(kits.project.read_text().replace("fed_learn_port: 8002", "fed_learn_port: 8299"))
    assert {kit["change"] for kit in kits.made().values()} == {"updated"}
    for kit in find_kits(kits.out):
        assert kit.port == 8299
        assert kit.private_key.read_bytes() == keys[kit.name]
        assert verify(kit) == []


def test_a_kit_without_an_owner_is_named(kits: Kits) -> None:
    text = kits.project.read_text()
    entry = "  - name: us-hospital\n    type: client\n    org: us_hospital\n"
    assert entry in text
    kits.project.write_text(text.replace(entry, ""))
    done = kits.provision("--json")
    assert json.loads(done.stdout)["dropped"] == ["us-hospital"]
    assert (kits.out / "us-hospital" / "startup").is_dir()


def test_the_kits_of_another_project_are_left_alone(kits: Kits) -> None:
    kits.project.write_text(kits.project.read_text().replace("name: pneumonia_fl", "name: another"))
    done = kits.provision()
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "holds the kits of project pneumonia_fl" in done.stderr


def test_a_lost_root_is_no_reason_for_a_new_one(kits: Kits) -> None:
    names = [kit.name for kit in find_kits(kits.out)]
    before = kits.files(*names)
    shutil.rmtree(kits.out / ".state")
    done = kits.provision()
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "is gone; put your backup there" in done.stderr
    assert kits.files(*names) == before


def test_an_interrupted_provisioning_is_completed(kits: Kits) -> None:
    kit = kits.out / SITES[0]
    (kit / "startup").rename(kit / ".startup.old")
    shutil.rmtree(kits.out / SITES[1])
    made = kits.made()
    assert (made[SITES[0]]["change"], made[SITES[1]]["change"]) == ("updated", "new")
    assert verify(open_kit(kit)) == []
    assert not (kit / ".startup.old").exists()


def test_what_is_no_kit_is_not_overwritten(kits: Kits) -> None:
    shutil.rmtree(kits.out / SITES[0])
    (kits.out / SITES[0]).mkdir()
    (kits.out / SITES[0] / "thesis.txt").write_text("mine")
    done = kits.provision("--json")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "is in the way and is no kit" in done.stderr


def test_a_broken_state_says_what_it_is(kits: Kits) -> None:
    (kits.out / ".state" / "pneumonia_fl" / "state" / "cert.json").write_text("{")
    done = kits.provision()
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "put your backup in its place" in done.stderr


def test_nvflare_provisions_the_shipped_project_as_it_stands(tmp_path: Path) -> None:
    nvflare = Path(sys.executable).with_name("nvflare")
    words = [nvflare, "provision", "-p", ROOT / "project.yml", "-w", tmp_path / "workspace"]
    done = subprocess.run(
        words,
        capture_output=True,
        text=True,
        timeout=scaled(60),
        check=False,
        env={**os.environ, "HOME": str(tmp_path)},
    )
    assert done.returncode == 0, done.stderr
    made = tmp_path / "workspace" / "pneumonia_fl" / "prod_00"
    assert {SERVER, *SITES, *PEOPLE} <= {path.name for path in made.iterdir()}


def test_the_shipped_policies_are_the_documented_ones() -> None:
    folders = sorted(path.name for path in (provisioning_folder() / "sites").iterdir())
    assert folders == sorted(POLICIES)
    page = (provisioning_folder() / "README.md").read_text()
    assert all(f"`{policy}`" in page for policy in POLICIES)


def test_what_nvflare_refuses_is_one_line_too(kits: Kits) -> None:
    kits.project.write_text(kits.project.read_text().replace("root_valid_days: 3650", "root_valid_days: 365"))
    done = kits.provision("--json")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "root_valid_days" in done.stderr
