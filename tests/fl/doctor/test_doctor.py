"""What the doctor says about a machine and about kits in whose files something is wrong."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from doctor_kits import PERSON, SERVER, SITE, Project, certify, said
from speed import scaled
from xrays import kaggle_files, prepare_small, write_folder

from pneumonia_fl import __version__
from pneumonia_fl.config.environment import child_environment
from pneumonia_fl.data.manifest import read_info, read_manifest, write_info, write_manifest
from pneumonia_fl.errors import KitError
from pneumonia_fl.findings import Finding
from pneumonia_fl.fl.doctor import identity_checks, instance, policy
from pneumonia_fl.fl.doctor import kit_files as files
from pneumonia_fl.fl.doctor import site_checks as site
from pneumonia_fl.fl.doctor import software as machine
from pneumonia_fl.fl.doctor.examine import examine
from pneumonia_fl.fl.kit.kit_processes import MODULES
from pneumonia_fl.fl.kit.startup_kit import Kit

PATIENCE = 60.0
"""Seconds for importing torch beside other tests."""


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prepared data of two hospitals, at 16 px."""
    folder = tmp_path_factory.mktemp("data")
    source = write_folder(folder / "xrays", kaggle_files())
    prepare_small(source, folder / "out", sites=(SITE, "us-hospital"))
    return folder / "out"


# -- the machine


def test_without_a_kit_versions_gpu_and_disk_are_looked_at() -> None:
    assert [result.check for result in examine(None)] == ["software", "disk"]
    versions, gpu = machine.software(None, PATIENCE)
    assert versions.level == "ok"
    assert {"python", "pneumonia-fl", "nvflare", "torch"} <= set(versions.message.replace(",", "").split())
    assert "GPU" in gpu.message


def test_a_slow_machine_is_not_called_broken() -> None:
    found = [*machine.software(None, 0.001)]
    assert "did not import torch in 0.001 s" in found[-1].message
    assert "fail" not in {finding.level for finding in found}


@pytest.mark.parametrize(
    ("pin", "wheel", "level", "message"),
    [
        ("2.9.0", __version__, "ok", "nvflare 2.9.0"),
        ("2.8.1", __version__, "fail", "nvflare is 2.9.0, the kit asks for 2.8.1; run "),
        ("2.9.0", "0.0.9", "fail", f"pneumonia-fl is {__version__}, the kit asks for 0.0.9; run "),
    ],
)
def test_versions_are_held_against_the_kits_pins(
    kit: Kit, pin: str, wheel: str, level: str, message: str
) -> None:
    (kit.folder / "requirements.txt").write_text(f"# pins\nnvflare=={pin}\nnumpy==2.0\n")
    (kit.folder / f"pneumonia_fl-{wheel}-py3-none-any.whl").touch()
    assert message in said(machine.software(kit, PATIENCE), level)


def test_requirements_without_versions_are_a_broken_kit(kit: Kit) -> None:
    (kit.folder / "requirements.txt").write_text("nvflare\n")
    with pytest.raises(KitError, match="names no versions"):
        list(machine.software(kit, PATIENCE))


def test_a_kit_environment_that_lacks_the_package_is_named(kit: Kit) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(kit.folder / "venv")], check=True)
    failures = said(machine.software(kit, PATIENCE), "fail")
    assert f"{kit.folder}/venv/bin/python3 cannot import pneumonia_fl" in failures
    assert f"run {kit.folder}/install.sh" in failures


def test_a_kit_environment_that_does_not_run_is_named(kit: Kit) -> None:
    (kit.folder / "venv" / "bin").mkdir(parents=True)
    (kit.folder / "venv" / "bin" / "python3").write_text("#!/bin/sh\nexit 3\n")
    (kit.folder / "venv" / "bin" / "python3").chmod(0o755)
    assert "does not run" in said(machine.software(kit, PATIENCE), "fail")


@pytest.mark.parametrize(("free", "level"), [(0.5, "fail"), (3.0, "warn"), (80.0, "ok")])
def test_little_disk_space_is_told_before_it_stops_a_job(tmp_path: Path, free: float, level: str) -> None:
    finding = machine.space(free, tmp_path)
    assert finding.level == level
    assert str(tmp_path) in finding.message


# -- certificates, key, clock


@pytest.mark.parametrize("name", [SERVER, SITE, PERSON])
def test_a_new_kit_has_nothing_wrong_with_its_identity(project: Project, tmp_path: Path, name: str) -> None:
    kit = project.copy(name, tmp_path)
    findings = [*identity_checks.clock(kit), *identity_checks.certificate(kit), *identity_checks.key(kit)]
    assert {finding.level for finding in findings} == {"ok"}
    assert "359 days" in said(iter(findings), "ok")


@pytest.mark.parametrize(
    ("days", "level", "message"),
    [
        (-1, "fail", "the certificate of asia-hospital expired on"),
        (20.5, "warn", "20 days; the Lead IT renews it with `pneumonia-fl provision --renew asia-hospital`"),
        (30.5, "warn", "30 days"),
        (31.5, "ok", "31 days"),
    ],
)
def test_days_left_and_the_command_that_renews(
    kit: Kit, project: Project, days: float, level: str, message: str
) -> None:
    certify(kit, project, days)
    assert message in said(identity_checks.certificate(kit), level)


def test_an_expired_certificate_names_the_command_that_renews(kit: Kit, project: Project) -> None:
    certify(kit, project, -1)
    assert "`pneumonia-fl provision --renew asia-hospital`" in said(identity_checks.certificate(kit), "fail")


def test_a_clock_before_the_certificate_is_a_wrong_clock(kit: Kit, project: Project) -> None:
    certify(kit, project, days=100, since=2)
    assert "set the clock" in said(identity_checks.clock(kit), "fail")


def test_a_root_that_did_not_sign_is_found(kit: Kit, stranger: Project) -> None:
    shutil.copy(stranger.kits / SITE / "startup" / "rootCA.pem", kit.root_certificate)
    assert "rootCA.pem did not sign client.crt" in said(identity_checks.certificate(kit), "fail")


def test_a_foreign_certificate_is_found(kit: Kit, project: Project) -> None:
    shutil.copy(project.kits / PERSON / "startup" / "client.crt", kit.certificate)
    assert "client.crt is of 'lead@asia.org'" in said(identity_checks.certificate(kit), "fail")
    assert "client.key" in said(identity_checks.key(kit), "fail")


@pytest.mark.parametrize(
    "content", [None, b"", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"]
)
def test_a_missing_or_broken_key_is_found(kit: Kit, content: bytes | None) -> None:
    kit.private_key.unlink()
    if content is not None:
        kit.private_key.write_bytes(content)
    assert "client.key is not a readable key" in said(identity_checks.key(kit), "fail")


def test_a_missing_certificate_is_one_line_that_does_not_end_the_rest(kit: Kit) -> None:
    kit.certificate.unlink()
    results = {result.check: result.findings for result in examine(kit)}
    assert "client.crt" in results["certificate"][0].message
    assert results["disk"][0].level == "ok"


def test_a_key_that_others_can_read_comes_with_the_command_that_closes_it(kit: Kit) -> None:
    kit.private_key.chmod(0o644)
    failure = said(identity_checks.key(kit), "fail")
    assert f"(mode 0644); run `chmod 600 {kit.private_key}`" in failure
    subprocess.run(failure.split("`")[1], shell=True, check=True)
    assert not said(identity_checks.key(kit), "fail")


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a file away")
def test_a_key_of_another_user_is_told(kit: Kit) -> None:
    os.chown(kit.private_key, 65534, 65534)
    os.chown(kit.folder, 65534, 65534)
    assert "belongs to user 65534" in said(identity_checks.key(kit), "warn")
    assert "belongs to user 65534" in said(files.rights(kit), "warn")


# -- files


def test_an_edited_startup_file_breaks_the_signature(kit: Kit) -> None:
    assert "as the Lead IT signed it" in said(files.signature(kit), "ok")
    with (kit.startup / "fed_client.json").open("a") as file:
        file.write("\n")
    assert "startup is not as it was signed (fed_client.json)" in said(files.signature(kit), "fail")


def test_a_signature_that_was_taken_away_is_a_failure(kit: Kit) -> None:
    (kit.startup / "signature.json").unlink()
    assert "is not as it was signed (signature.json)" in said(files.signature(kit), "fail")


def test_a_fresh_kit_is_writable_for_its_owner_only(kit: Kit) -> None:
    previous = os.umask(0o022)
    try:
        assert [finding.level for finding in files.rights(kit)] == ["ok"]
    finally:
        os.umask(previous)


def test_files_that_everybody_can_change_are_found(kit: Kit) -> None:
    (kit.local / "resources.json.default").chmod(0o666)
    assert f"run `chmod o-w {kit.local}/resources.json.default`" in said(files.rights(kit), "fail")


def test_a_umask_that_is_too_wide_is_told_and_kept(kit: Kit) -> None:
    previous = os.umask(0o000)
    try:
        assert "umask 0000" in said(files.rights(kit), "warn")
    finally:
        assert os.umask(previous) == 0o000


def test_a_folder_that_cannot_be_written_is_found(kit: Kit) -> None:
    elsewhere = replace(kit, folder=Path("/proc/self"))  # not even root can write there
    assert "cannot write to /proc/self" in said(files.writable(elsewhere), "fail")


# -- a second instance


def test_a_kit_that_does_not_run(kit: Kit) -> None:
    assert list(instance.instance(kit)) == [Finding("ok", "it does not run from this kit")]


def test_a_left_over_pid_file_is_a_warning(kit: Kit) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    (kit.folder / "daemon_pid.fl").write_text(f"{ended.pid}\n")
    assert f"its process {ended.pid} is gone" in said(instance.instance(kit), "warn")


def test_a_pid_file_that_names_another_program_keeps_the_kit_from_starting(kit: Kit) -> None:
    (kit.folder / "daemon_pid.fl").write_text(f"{os.getpid()}\n")
    assert f"process {os.getpid()}" in said(instance.instance(kit), "fail")
    # NVFlare's own start script says the same.
    done = subprocess.run(
        [kit.startup / "sub_start.sh"], capture_output=True, text=True, check=False, timeout=scaled(30)
    )
    assert "There seems to be one instance" in done.stdout


def test_a_running_site_uses_the_data_it_was_started_with(running_copy: Kit, prepared: Path) -> None:
    use_data(running_copy, Path("/nowhere"))
    assert f"PNEUMONIA_FL_DATA says {prepared}/gone" in said(site.data(running_copy), "fail")


@pytest.fixture
def running_copy(project: Project, tmp_path: Path, prepared: Path) -> Iterator[Kit]:
    """The site's kit in another folder, with a process whose command is NVFlare's."""
    copy = project.copy(SITE, tmp_path / "copy")
    words = ["-m", MODULES["site"], "-m", str(copy.folder), "-s", "fed_client.json"]
    waiting = "import sys; sys.stdin.read()"
    # A wrapper has the same words in its command.
    process = subprocess.Popen(
        ["timeout", "60", sys.executable, "-c", waiting, *words],
        stdin=subprocess.PIPE,
        env=child_environment(PNEUMONIA_FL_DATA=str(prepared / "gone")),
    )
    yield copy
    process.communicate(b"")


def test_the_same_identity_from_another_folder_is_found(
    kit: Kit, running_copy: Kit, stranger: Project, tmp_path: Path
) -> None:
    failures = said(instance.instance(kit), "fail")
    assert failures.count(f"asia-hospital runs already from {running_copy.folder}, process ") == 1
    assert "it runs from this kit, process" in said(instance.instance(running_copy), "ok")
    namesake = stranger.copy(SITE, tmp_path / "stranger")
    assert [finding.level for finding in instance.instance(namesake)] == ["ok"]


# -- the site's data


def use_data(kit: Kit, folder: Path) -> None:
    (kit.local / "pneumonia_fl.yml").write_text(f"data: {folder}\n")


def test_a_site_without_a_data_folder_is_told_where_to_write_it(kit: Kit) -> None:
    assert f"write `data: DIR` into {kit.local}/pneumonia_fl.yml" in said(site.data(kit), "fail")


def test_good_data_is_counted_by_split_and_class(kit: Kit, prepared: Path) -> None:
    for folder in (prepared, prepared / SITE):
        use_data(kit, folder)
        findings = list(site.data(kit))
        assert {finding.level for finding in findings} == {"ok"}
        counts = read_info(prepared / SITE).counts[SITE]["train"]
        assert f"train {counts['NORMAL']} NORMAL + {counts['PNEUMONIA']} PNEUMONIA" in findings[0].message


def test_the_environment_goes_before_the_kits_setting(
    kit: Kit, prepared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_data(kit, Path("/nowhere"))
    assert "local/pneumonia_fl.yml says /nowhere" in said(site.data(kit), "fail")
    monkeypatch.setenv("PNEUMONIA_FL_DATA", str(prepared))
    assert not said(site.data(kit), "fail")


def test_a_relative_data_folder_is_meant_from_the_kit(kit: Kit, prepared: Path) -> None:
    shutil.copytree(prepared / SITE, kit.folder / "xrays")
    use_data(kit, Path("xrays"))
    assert not said(site.data(kit), "fail")


def test_data_of_another_site_is_refused(kit: Kit, prepared: Path) -> None:
    use_data(kit, prepared / "us-hospital")
    assert "'us-hospital', not of 'asia-hospital'" in said(site.data(kit), "fail")


def test_data_of_another_size_than_it_says_is_refused(kit: Kit, prepared: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(prepared / SITE, tmp_path / "data"))
    images = np.load(folder / "images.npy")
    np.save(folder / "images.npy", images[:, ::2, ::2])
    use_data(kit, folder)
    assert "its manifest needs uint8" in said(site.data(kit), "fail")


def test_a_site_with_one_class_may_take_part_and_is_told_so(kit: Kit, prepared: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(prepared / SITE, tmp_path / "data"))
    rows = read_manifest(folder)
    keep = [index for index, row in enumerate(rows) if row.split != "val" or row.label == 1]
    np.save(folder / "images.npy", np.load(folder / "images.npy")[keep])
    info = read_info(folder)
    info.counts[SITE]["val"]["NORMAL"] = 0
    changed = write_manifest(folder, [rows[index] for index in keep])
    write_info(folder, info.model_copy(update={"manifest_sha256": changed}))
    use_data(kit, folder)
    assert said(site.data(kit), "fail") == ""
    assert "no NORMAL images in val" in said(site.data(kit), "warn")


# -- policy


def put(kit: Kit, name: str, **changes: object) -> None:
    """Make the owner's own file of the one that came with the kit."""
    values = json.loads((kit.local / f"{name}.default").read_text())
    (kit.local / name).write_text(json.dumps({**values, **changes}))


def test_nvflares_own_rules_let_leads_ship_code(kit: Kit) -> None:
    text = said(policy.policy(kit), "ok")
    assert "jobs of project_admin, lead may" in text
    assert "class_allow_list has: 88 entries" in text


def test_a_strict_site_is_called_by_its_policy(kit: Kit) -> None:
    put(kit, "authorization.json", permissions={"lead": {"submit_job": "any", "byoc": "none"}})
    gate = {
        "path": "pneumonia_fl.fl.entrypoints.SiteJobValidator",
        "args": {"policy": "strict", "shipped_code": False},
    }
    put(kit, "resources.json", class_allow_list=["pneumonia_fl."], app_validator=gate)
    text = said(policy.policy(kit), "ok")
    assert "policy 'strict': no job may" in text
    assert "class_allow_list has: 1 entries" in text


@pytest.mark.parametrize("change", [{"class_allow_list": ["*"]}, {"class_list_enforcement_mode": "warn"}])
def test_an_allow_list_that_allows_everything_is_a_warning(kit: Kit, change: dict[str, object]) -> None:
    put(kit, "resources.json", **change)
    assert "any class" in said(policy.policy(kit), "warn")


def test_a_broken_policy_file_is_one_line(kit: Kit) -> None:
    (kit.local / "resources.json").write_text("{")
    results = {result.check: result.findings for result in examine(kit)}
    assert [finding.level for finding in results["policy"]] == ["fail"]
    assert "resources.json cannot be read" in results["policy"][0].message
