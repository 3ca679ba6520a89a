"""Kits, keys and the root's state never enter git."""

import re
import subprocess

import pytest

from conftest import ROOT

KIT_FILES = re.compile(
    r"(^|/)(startup/|kits/|state/cert\.json|cert\.json|rootCA\.(pem|key)|signature\.json|fed_(server|client|admin)\.json"
    r"|(server|client)\.(crt|key)|.*\.(key|crt|pem|p12|pfx))"
)
PRIVATE_KEY = re.compile(rb"-----BEGIN [A-Z ]*PRIVATE KEY-----\s+[A-Za-z0-9+/=]{40}")
IN_A_CLONE = [
    "kits/localhost/startup/server.key",
    "kits/.state/pneumonia_fl/state/cert.json",
    "kits/x/local/resources.json",
]


def git(*words: str) -> list[str]:
    done = subprocess.run(["git", *words], capture_output=True, text=True, check=False, cwd=ROOT)
    if done.returncode not in (0, 1):
        pytest.skip("not a git clone")
    return done.stdout.splitlines()


def test_no_tracked_file_is_one_of_a_kit() -> None:
    tracked = git("ls-files")
    assert len(tracked) > 100
    assert [name for name in tracked if KIT_FILES.search(name)] == []


def test_no_tracked_file_holds_a_private_key() -> None:
    files = [ROOT / name for name in git("ls-files")]
    assert [path for path in files if path.is_file() and PRIVATE_KEY.search(path.read_bytes())] == []


def test_no_commit_ever_added_a_file_of_a_kit() -> None:
    names = git("log", "--all", "--diff-filter=A", "--name-only", "--format=")
    assert [name for name in names if KIT_FILES.search(name)] == []


@pytest.mark.parametrize("path", IN_A_CLONE)
def test_git_does_not_see_kits_where_the_command_puts_them(path: str) -> None:
    assert git("check-ignore", path) == [path]
