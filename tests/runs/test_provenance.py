"""The revision is that of this program's own source tree, or none."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import pneumonia_fl
from pneumonia_fl.runs.provenance import code_origin, git_revision

SAY = "from pneumonia_fl.runs.provenance import git_revision; print(git_revision())"


def repository(folder: Path, *add: str) -> str:
    """A git repository with a commit of `add`; its revision."""
    words = ["git", "-C", str(folder), "-c", "user.name=a", "-c", "user.email=a@example.org"]
    subprocess.run(["git", "init", "-q", str(folder)], check=True)
    subprocess.run([*words, "add", *add], check=True)
    subprocess.run([*words, "commit", "-qm", "x"], check=True)
    return subprocess.run(
        [*words, "rev-parse", "HEAD"], check=True, capture_output=True, text=True
    ).stdout.strip()


def revision_of(package: Path, **environment: str) -> str:
    """What a copy of the package in another place says."""
    source = Path(pneumonia_fl.__file__).parent
    shutil.copytree(source, package, ignore=shutil.ignore_patterns("__pycache__"), dirs_exist_ok=True)
    env = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(package.parent), **environment}
    done = subprocess.run([sys.executable, "-c", SAY], env=env, capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.mark.parametrize("place", [".venv/lib/python3.11/site-packages", "src", "vendor/src"])
def test_another_repository_around_the_package_says_nothing(place: str, tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "thesis"\n')
    package = tmp_path / place / "pneumonia_fl"
    revision_of(package)
    revision = repository(tmp_path, ".")
    assert revision_of(package) == "None"
    assert revision_of(package, GIT_DIR=str(tmp_path / ".git"), GIT_WORK_TREE=str(tmp_path)) == "None"
    assert len(revision) == 40


def test_the_own_source_tree_is_named_whatever_a_hook_has_set(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "pneumonia-fl"\n')
    package = tmp_path / "src/pneumonia_fl"
    assert revision_of(package) == "None", "no repository"
    revision = repository(tmp_path, ".")
    assert revision_of(package) == revision
    assert revision_of(package, GIT_DIR="/nowhere") == revision


def test_this_source_tree_knows_its_revision() -> None:
    revision = git_revision()
    assert revision is None or len(revision) == 40


def test_a_log_says_whose_code_runs_and_not_where_it_lies() -> None:
    assert code_origin(Path("/srv/venv/lib/pneumonia_fl/fl/site/client.py")) == "as installed"
    assert (
        code_origin(Path("/kits/a/JOB/app/custom/pneumonia_fl/fl/site/client.py")) == "shipped with the job"
    )
