"""Images, manifests, models and results are for the account that made them, whatever its umask."""

import json
import os
import stat
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from conftest import CLI, prepare
from pneumonia_fl.errors import OutputError
from pneumonia_fl.files import inner_folder, private_folder, write_atomic, write_new
from pneumonia_fl.findings import Finding
from pneumonia_fl.fl.doctor import site_checks as site
from pneumonia_fl.fl.kit.startup_kit import Kit
from pneumonia_fl.fl.provision.root_ca import State


def folder_for_all(path: Path) -> Path:
    """A folder as others have made it, whatever the umask of this test."""
    path.mkdir()
    path.chmod(0o755)
    return path


def modes(folder: Path) -> dict[str, int]:
    """Mode by path below `folder`, itself included."""
    paths = [folder, *folder.rglob("*")]
    return {str(path.relative_to(folder)): stat.S_IMODE(path.lstat().st_mode) for path in paths}


def open_to_others(folder: Path) -> dict[str, str]:
    return {path: f"{mode:04o}" for path, mode in modes(folder).items() if mode & 0o077}


def command(umask: int, *words: object) -> None:
    done = subprocess.run([CLI, *map(str, words)], umask=umask, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.fixture(params=[0o000, 0o022, 0o077], ids=lambda mask: f"umask{mask:03o}")
def umask(request: pytest.FixtureRequest) -> int:
    return int(request.param)


def test_prepared_x_rays_are_for_their_owner_only(umask: int, tmp_path: Path) -> None:
    out = tmp_path / "new" / "data"
    command(umask, "data", "prepare", "--source", "synthetic:images=24,size=32", "--size", 32, "--out", out)
    command(umask, "data", "show", out, "--out", tmp_path / "new" / "figures")
    assert not open_to_others(tmp_path / "new")
    assert {"data/site-1/images.npy", "data/manifest.csv", "data/quarantine.csv"} <= modes(
        tmp_path / "new"
    ).keys()


@pytest.mark.e2e
def test_a_run_its_logs_its_records_and_its_report_are_for_their_owner_only(tmp_path: Path) -> None:
    """Under the umask that closes nothing: any other takes rights away from the same files."""
    run = tmp_path / "runs" / "smoke"
    small = ("--set", "train.local_epochs=1", "--set", "synthetic.images=90")
    command(0o000, "run", "smoke", "--rounds", 1, *small, "--out", run)
    command(0o000, "evaluate", run, "--source", "synthetic:images=24,size=32", "--split", "test")
    command(0o000, "report", run)
    assert not open_to_others(tmp_path / "runs")
    assert {
        "mlflow.db",
        "tb_events",
        "evaluations/test-01.json",
        "model/model.safetensors",
        "report.html",
    } <= modes(run).keys()


def test_x_rays_are_closed_even_where_the_program_is_called_as_a_library(tmp_path: Path) -> None:
    before = os.umask(0o000)
    try:
        prepare(tmp_path / "data", 24, 2)
    finally:
        os.umask(before)
    assert not open_to_others(tmp_path / "data")


def test_preparing_again_closes_what_an_earlier_version_left_open(tmp_path: Path) -> None:
    words = (
        "data",
        "prepare",
        "--source",
        "synthetic:images=24,size=32",
        "--size",
        32,
        "--out",
        tmp_path / "d",
    )
    command(0o022, *words)
    (tmp_path / "d").chmod(0o755)
    command(0o022, *words, "--force")
    assert not open_to_others(tmp_path / "d")


def test_a_folder_of_the_users_own_keeps_its_mode(tmp_path: Path) -> None:
    folder_for_all(tmp_path / "shared")
    private_folder(tmp_path / "shared" / "a" / "b")
    private_folder(tmp_path / "shared")
    assert modes(tmp_path / "shared") == {".": 0o755, "a": 0o700, "a/b": 0o700}


def test_a_folder_that_this_program_made_is_closed_when_it_is_written_again(tmp_path: Path) -> None:
    folder_for_all(tmp_path / "evaluations")
    assert modes(inner_folder(tmp_path / "evaluations")) == {".": 0o700}


def test_a_link_in_place_of_a_folder_is_refused(tmp_path: Path) -> None:
    folder_for_all(tmp_path / "elsewhere")
    (tmp_path / "evaluations").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OutputError, match="is a link"):
        inner_folder(tmp_path / "evaluations")
    assert modes(tmp_path / "elsewhere") == {".": 0o755}


def test_a_file_has_the_mode_that_its_writer_asks_for(tmp_path: Path) -> None:
    write_atomic(tmp_path / "secret", b"1")
    write_atomic(tmp_path / "project.yml", b"1", 0o640)
    assert modes(tmp_path) == {".": modes(tmp_path)["."], "secret": 0o600, "project.yml": 0o640}


def test_a_new_file_replaces_nothing_and_follows_no_link(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "target")
    with pytest.raises(FileExistsError):
        write_new(tmp_path / "link", b"1")
    write_new(tmp_path / "new", b"1")
    with pytest.raises(FileExistsError):
        write_new(tmp_path / "new", b"2")
    assert (tmp_path / "new").read_bytes() == b"1"
    assert not (tmp_path / "target").exists()


def test_the_state_with_all_keys_leaves_no_second_copy_when_it_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = State(tmp_path / "cert.json")
    state.values = {"root_pri_key": "secret", "gone": {}}

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OutputError):
        state.forget("gone")
    assert not list(tmp_path.iterdir())


def test_the_state_is_written_for_its_owner_only(tmp_path: Path) -> None:
    state = State(tmp_path / "cert.json")
    state.values = {"root_pri_key": "secret", "gone": {}}
    state.forget("gone")
    assert json.loads(state.file.read_text()) == {"root_pri_key": "secret"}
    assert modes(tmp_path)["cert.json"] == 0o600


@pytest.fixture
def public() -> Iterator[Path]:
    """A folder that everybody can enter, which pytest's own are not."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


def site_kit(folder: Path, data: Path) -> Kit:
    (folder / "local").mkdir(parents=True)
    (folder / "local" / "pneumonia_fl.yml").write_text(f"data: {data}\n")
    return Kit(folder, "site", "site-1", "p", "localhost", 1)


def warnings(findings: Iterable[Finding]) -> list[str]:
    return [finding.message for finding in findings if finding.level == "warn"]


def test_doctor_warns_of_x_rays_that_everybody_can_read(public: Path) -> None:
    prepare(public / "data", 24, 2)
    kit = site_kit(public / "kit", public / "data")
    assert not [text for text in warnings(site.data(kit)) if "can read" in text]
    for path in (public / "data", public / "data" / "site-1"):
        path.chmod(0o755)
    (public / "data" / "site-1" / "images.npy").chmod(0o644)
    assert any(f"chmod -R o= {public}/data/site-1" in text for text in warnings(site.data(kit)))
    (public / "data").chmod(0o750)
    assert not [text for text in warnings(site.data(kit)) if "can read" in text], (
        "a group is the owner's choice"
    )


def test_doctor_warns_of_runs_that_everybody_can_read(public: Path) -> None:
    run = folder_for_all(folder_for_all(public / "runs") / "a")
    (run / "run.json").write_text("{half")
    (text,) = warnings(site.runs(public / "runs"))
    assert f"every user of this machine can read {public}/runs/a (models and results)" in text
    (public / "runs").chmod(0o700)
    assert [finding.level for finding in site.runs(public / "runs")] == ["ok"]
