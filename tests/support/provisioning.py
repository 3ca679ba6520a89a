"""Kits for tests of provisioning: made once through the command line, copied before a test changes them."""

import json
import os
import shutil
import subprocess
import sys
import venv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from once import made_once
from speed import scaled

from conftest import ROOT, pneumonia_fl

SERVER = "localhost"
WHEELS = Path(".state", "wheel")
"""Where below its kits `provision` keeps the wheel until the source changes."""
SITES = ("europe-hospital", "asia-hospital", "us-hospital")


@dataclass(frozen=True)
class Kits:
    """A project.yml, the kits made from it, and the wheel that is in them."""

    project: Path
    out: Path
    wheel: Path

    def provision(self, *words: object) -> "subprocess.CompletedProcess[str]":
        return pneumonia_fl("provision", self.project, "--out", self.out, "--wheel", self.wheel, *words)

    def made(self, *words: object) -> dict[str, dict[str, Any]]:
        """Provision again; the kits by name."""
        done = self.provision("--json", *words)
        assert done.returncode == 0, done.stderr
        return {kit["name"]: kit for kit in json.loads(done.stdout)["kits"]}

    def copy(self, folder: Path) -> "Kits":
        """The same kits in another place, to be changed."""
        shutil.copytree(self.out, folder / "kits")
        shutil.copy(self.project, folder / "project.yml")
        return Kits(folder / "project.yml", folder / "kits", self.wheel)

    def files(self, *kits: str) -> dict[str, bytes]:
        """Content of every file of the named kits, by path; without the signature, which is new every time."""
        paths = (path for kit in kits for path in (self.out / kit).rglob("*") if path.is_file())
        found = (path for path in paths if path.name != "signature.json")
        return {str(path.relative_to(self.out)): path.read_bytes() for path in found}


@pytest.fixture(scope="session")
def original_kits(tmp_path_factory: pytest.TempPathFactory) -> Kits:
    """Kits of the repository's project.yml with a wheel built on the way; do not change them."""
    return _made(tmp_path_factory)


def _made(factory: pytest.TempPathFactory) -> Kits:
    def provision(folder: Path) -> None:
        folder.mkdir()
        shutil.copy(ROOT / "project.yml", folder / "project.yml")
        done = pneumonia_fl("provision", folder / "project.yml", "--out", folder / "kits")
        assert done.returncode == 0, done.stderr

    folder = made_once(factory, "provision", provision)
    (wheel,) = (folder / "kits" / WHEELS).rglob("*.whl")
    return Kits(folder / "project.yml", folder / "kits", wheel)


def keep_wheel(factory: pytest.TempPathFactory, out: Path) -> None:
    """Let kits that are made in `out` find the wheel that was built for the original ones."""
    shutil.copytree(_made(factory).out / WHEELS, out / WHEELS)


@pytest.fixture
def kits(original_kits: Kits, tmp_path: Path) -> Kits:
    """Kits that the test may change."""
    return original_kits.copy(tmp_path)


def start_once(kit: Path, seconds: float = 60) -> "subprocess.CompletedProcess[str]":
    """Start a kit with NVFlare's own script, without its restart loop, and wait until it ends."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        [kit / "startup" / "sub_start.sh", "--once"],
        capture_output=True,
        text=True,
        timeout=scaled(seconds),
        check=False,
        env={**os.environ, "PATH": path},
    )


def linked_environment(folder: Path) -> Path:
    """A venv that sees this one's packages, so that an install takes seconds and no network."""
    venv.create(folder, with_pip=True)
    (site_packages,) = folder.glob("lib/python*/site-packages")
    here = Path(pytest.__file__).parents[1]
    (site_packages / "here.pth").write_text(f"{here}\n")
    return folder
