"""Why a run failed: the first cause wins, in the words of who met it."""

import subprocess
from pathlib import Path

import pytest

from pneumonia_fl.fl.protocol.messages import RUN_ERROR, SITE_ERROR
from pneumonia_fl.fl.simulator.failures import full_disk, server_error, site_error, start_error


def write_log(workspace: Path, place: str, *lines: str) -> None:
    folder = workspace / "fedavg" / place
    folder.mkdir(parents=True)
    (folder / "log.txt").write_text("\n".join(lines) + "\n")


def test_the_earliest_site_error_is_the_cause(tmp_path: Path) -> None:
    write_log(tmp_path, "site-1", f"2026-01-01 10:00:05,000 - x - ERROR - {SITE_ERROR} RuntimeError: aborted")
    write_log(tmp_path, "site-2", f"2026-01-01 10:00:01,000 - x - ERROR - {SITE_ERROR} DataError: no images")
    assert str(site_error(tmp_path)) == "site site-2: DataError: no images"


def test_without_a_site_error_the_first_error_line_speaks(tmp_path: Path) -> None:
    write_log(
        tmp_path,
        "server",
        "2026-01-01 10:00:00,000 - a - INFO - fine",
        "2026-01-01 10:00:01,000 - a - ERROR - full",
    )
    assert site_error(tmp_path) is None
    assert str(server_error(tmp_path)) == "full"


def test_an_error_before_nvflare_started_is_found_in_the_output(tmp_path: Path) -> None:
    output = tmp_path / "simulator.txt"
    output.write_text(f"noise\n{RUN_ERROR} no weights\n")
    assert str(start_error(output)) == "no weights"
    output.write_text("noise\n")
    assert start_error(output) is None


def test_a_full_disk_is_named_before_what_follows_from_it(tmp_path: Path) -> None:
    assert full_disk(tmp_path) is None
    mount = ["mount", "-t", "tmpfs", "-o", "size=100k", "tmpfs", str(tmp_path)]
    if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("no right to mount a small disk here")
    try:
        assert "no space left" in str(full_disk(tmp_path))
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)
