"""The wheel in a kit: `install.sh` makes an environment of it, and an installed wheel provisions in its turn."""

import os
import subprocess
from pathlib import Path

import pytest
from provisioning import SITES, Kits, linked_environment
from speed import scaled

from pneumonia_fl.fl.kit.startup_kit import open_kit
from pneumonia_fl.fl.provision.signing import verify


@pytest.mark.e2e
def test_install_makes_an_environment_from_the_kit_alone(kits: Kits) -> None:
    kit = kits.out / SITES[0]
    linked_environment(kit / "venv")
    done = subprocess.run(
        [kit / "install.sh", "--no-deps", "--no-index"],
        capture_output=True,
        text=True,
        timeout=scaled(120),
        check=False,
        cwd="/",
    )
    assert done.returncode == 0, done.stderr
    code = (
        "import pneumonia_fl, pneumonia_fl.fl.kit.assets as s, pneumonia_fl.config.job_files as j;"
        "print(pneumonia_fl.__file__); print(s.provisioning_folder()); print(*j.job_names()); print(len(s.pins()))"
    )
    said = subprocess.run(
        [kit / "venv" / "bin" / "python", "-c", code],
        capture_output=True,
        text=True,
        timeout=scaled(60),
        check=True,
        cwd="/",
    ).stdout.splitlines()
    assert said[0].startswith(str(kit / "venv")), "the kit's own wheel, not this source tree"
    assert said[1] == str(Path(said[0]).parent / "_provisioning")
    assert "fedavg" in said[2].split()
    assert int(said[3]) > 1000


@pytest.mark.e2e
def test_an_installed_wheel_provisions_with_the_wheel_it_is_given(kits: Kits, tmp_path: Path) -> None:
    environment = linked_environment(tmp_path / "venv")
    words = ["-m", "pip", "install", "--quiet", "--no-deps", "--no-index", str(kits.wheel)]
    subprocess.run([environment / "bin" / "python", *words], timeout=scaled(120), check=True)
    command = [environment / "bin" / "pneumonia-fl", "provision", kits.project, "--out", tmp_path / "made"]
    refused = subprocess.run(
        command, capture_output=True, text=True, timeout=scaled(60), check=False, cwd=tmp_path
    )
    assert refused.returncode == 1
    assert "--wheel FILE" in refused.stderr
    made = subprocess.run(
        [*command, "--wheel", kits.wheel],
        capture_output=True,
        text=True,
        timeout=scaled(60),
        check=False,
        cwd=tmp_path,
    )
    assert made.returncode == 0, made.stderr
    assert verify(open_kit(tmp_path / "made" / SITES[0])) == []


def test_install_names_a_python_that_is_too_old(kits: Kits, tmp_path: Path) -> None:
    old = tmp_path / "python3"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    done = subprocess.run(
        [kits.out / SITES[0] / "install.sh"],
        capture_output=True, text=True, timeout=scaled(60), check=False, env={**os.environ, "PYTHON": str(old)},
    )  # fmt: skip
    assert done.returncode == 1
    assert "older than Python 3.11" in done.stderr
