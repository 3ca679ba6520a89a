"""Files of this project that kits are finished with: from the repository, or from inside an installed wheel."""

import hashlib
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pneumonia_fl
from pneumonia_fl.errors import ConfigError, RunError

_PACKAGE = Path(pneumonia_fl.__file__).resolve().parent
_SOURCE = _PACKAGE.parents[1]
POLICIES = ("strict", "relaxed", "locked")
BUILD_SECONDS = 300


def provisioning_folder() -> Path:
    """Return the folder `provisioning/`."""
    packaged = _PACKAGE / "_provisioning"
    return packaged if packaged.is_dir() else _SOURCE / "provisioning"


def policy_folder(policy: str) -> Path:
    """Return the folder of a site policy.

    Raises:
        ConfigError: there is no such policy.
    """
    if policy not in POLICIES:
        raise ConfigError(f"unknown policy {policy!r}; there are: {', '.join(POLICIES)}")
    return provisioning_folder() / "sites" / policy


def pins() -> str:
    """Return the pinned versions: the content of `constraints.txt`."""
    packaged = _PACKAGE / "_constraints.txt"
    return (packaged if packaged.is_file() else _SOURCE / "constraints.txt").read_text(encoding="utf-8")


def find_wheel(given: Path | None, cache: Path) -> Path:
    """Return the project's wheel: `given`, or one built from the source tree and cached until it changes.

    Raises:
        ConfigError: `given` is no wheel, or there is no source tree to build from.
        RunError: pip could not build it.
    """
    check_wheel(given)
    if given is not None:
        return given
    folder = cache / _fingerprint()
    found = sorted(folder.glob("*.whl"))
    return found[0] if found else _build(folder)


def check_wheel(given: Path | None) -> None:
    """Require a wheel, or a source tree to build one from.

    Raises:
        ConfigError: neither.
    """
    if given is not None and (given.suffix != ".whl" or not given.is_file()):
        raise ConfigError(f"--wheel {given}: no such wheel (a file pneumonia_fl-….whl)")
    if given is None and not (_SOURCE / "pyproject.toml").is_file():
        raise ConfigError(
            "pneumonia-fl is installed without its source, so that no wheel can be built for the kits; "
            "name the one it was installed from with --wheel FILE"
        )


def _build(folder: Path) -> Path:
    shutil.rmtree(folder.parent, ignore_errors=True)
    folder.mkdir(parents=True)
    words = [sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "--quiet", "--no-deps"]
    try:
        done = subprocess.run(
            [*words, "--wheel-dir", str(folder), str(_SOURCE)],
            capture_output=True,
            text=True,
            timeout=BUILD_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise RunError(
            f"building the wheel took longer than {BUILD_SECONDS} s; give one with --wheel"
        ) from None
    found = sorted(folder.glob("*.whl"))
    if done.returncode or not found:
        reason = (done.stderr.strip().splitlines() or ["pip gave no reason"])[-1]
        raise RunError(
            f"the wheel could not be built: {reason}; pip needs the package index for that: without internet, "
            "build one elsewhere (`pip wheel --no-deps .`) and give it with --wheel FILE"
        )
    return found[0]


def _fingerprint() -> str:
    digest = hashlib.sha256()
    for path in _inputs():
        digest.update(str(path.relative_to(_SOURCE)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


def _inputs() -> Iterator[Path]:
    for name in ("pyproject.toml", "README.md", "constraints.txt", "project.yml"):
        yield _SOURCE / name
    for folder in (_PACKAGE, _SOURCE / "jobs", _SOURCE / "provisioning"):
        yield from sorted(p for p in folder.rglob("*") if p.is_file() and "__pycache__" not in p.parts)
