"""Kits whose private key never leaves the site: NVFlare's `cert request`, `cert approve`, `package`, on our root.

The site makes its key and a request, the Lead IT approves the request here, the site packages the answer and
finishes the kit. NVFlare's own flow begins with a root of its own (`nvflare cert init`); with this one, such a kit
and the others belong to the same federation.
"""

import json
import shlex
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

import yaml
from nvflare.tool.cert.fingerprint import cert_fingerprint_sha256

from pneumonia_fl.errors import ConfigError, KitError, RefusedError
from pneumonia_fl.fl.kit.assets import find_wheel, policy_folder
from pneumonia_fl.fl.kit.certificates import key_made_at_owner
from pneumonia_fl.fl.kit.startup_kit import Kit, open_kit
from pneumonia_fl.fl.provision.complete_kit import finish
from pneumonia_fl.fl.provision.project_file.project import Project, load_project
from pneumonia_fl.fl.provision.provision import STATE
from pneumonia_fl.fl.provision.root_ca import State
from pneumonia_fl.inputs.json_files import MAX_BYTES, parse_json
from pneumonia_fl.inputs.names import site_problem

VALID_DAYS = 360
"""As long as the certificates of the other kits."""
APPROVE_SECONDS = 60


@dataclass(frozen=True)
class Approved:
    """The answer to a request."""

    signed: Path
    """Goes back to the site; there is nothing secret in it."""
    fingerprint: str
    """SHA-256 of the root certificate; tell it to the site by another way than the file."""


def approve(request: Path, project_file: Path, out: Path) -> Approved:
    """Sign a site's (or a person's) request with the root of the kits in `out`.

    Raises:
        ConfigError: there is no request, no root yet, or project.yml has that participant.
        RefusedError: NVFlare refused the request (changed, of another project).
    """
    project = load_project(project_file)
    state = State(out / STATE / project.name / "state" / "cert.json")
    if not state.values:
        cure = f"make the kits first: pneumonia-fl provision --out {shlex.quote(str(out))}"
        raise ConfigError(f"{out} has no root yet; {cure}")
    if not request.is_file():
        raise ConfigError(f"no request {request}; the site makes it with `nvflare cert request`")
    _check_name(_requested_name(request), project)
    signed = request.absolute().with_name(
        request.name.removesuffix(".zip").removesuffix(".request") + ".signed.zip"
    )
    with tempfile.TemporaryDirectory(dir=state.file.parent) as folder:  # made with mode 0700
        _write_authority(Path(folder), project, state)
        _run_approve(request, Path(folder), signed)
    return Approved(signed, cert_fingerprint_sha256(state.root))


def _check_name(name: str, project: Project) -> None:
    """Refuse a name that project.yml could not have, or has."""
    if name.lower() in {participant.name.lower() for participant in project.participants}:
        raise ConfigError(f"{name} is in {project.file}, so that its kit is made here; take it out first")
    problem = "" if "@" in name and name[0].isalnum() else site_problem(name)
    if name and problem:
        raise ConfigError(f"no participant can be called {name!r}: {problem}")


def _requested_name(request: Path) -> str:
    """Return the name in a certificate request; "" when it is none, which NVFlare then reports."""
    try:
        with zipfile.ZipFile(request) as archive, archive.open("request.json") as file:
            return str(parse_json(file.read(MAX_BYTES + 1))["name"])
    except (OSError, KeyError, ValueError, TypeError, RuntimeError, zipfile.BadZipFile):
        return ""


def _write_authority(folder: Path, project: Project, state: State) -> None:
    """Write the root in the form that `nvflare cert approve` reads."""
    about = {
        "project": project.name,
        "provision_version": "00",
        "rootCA_fingerprint": cert_fingerprint_sha256(state.root),
    }
    profile = {
        "name": project.name,
        "scheme": "grpc",
        "connection_security": "mtls",
        "server": {"host": project.server.hosts[0], "fed_learn_port": project.server.port},
    }
    (folder / "rootCA.key").touch(mode=0o600)
    (folder / "rootCA.key").write_text(state.values["root_pri_key"], encoding="ascii")
    (folder / "rootCA.pem").write_text(state.values["root_cert"], encoding="ascii")
    (folder / "ca.json").write_text(json.dumps(about), encoding="utf-8")
    (folder / "profile.yml").write_text(yaml.safe_dump(profile), encoding="utf-8")


def _run_approve(request: Path, folder: Path, signed: Path) -> None:
    words = [str(Path(sys.executable).with_name("nvflare")), "cert", "approve", str(request.absolute())]
    words += ["--ca-dir", str(folder), "--profile", str(folder / "profile.yml"), "--out", str(signed)]
    done = subprocess.run(
        [*words, "--valid-days", str(VALID_DAYS), "--force"],
        capture_output=True,
        text=True,
        timeout=APPROVE_SECONDS,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    if done.returncode:
        reason = " ".join((done.stderr.strip() or done.stdout.strip()).splitlines())
        raise RefusedError(f"{request} was not approved: {reason}")


def finish_packaged(folder: Path, policy: str, wheel: Path | None) -> Kit:
    """Complete a kit that `nvflare package` made at the site.

    Raises:
        KitError: it is no kit, or one that is finished.
        ConfigError: there is no such policy, or no wheel.
    """
    policy_folder(policy)
    kit = open_kit(folder)
    if not key_made_at_owner(kit):
        raise KitError(
            f"{folder} is finished already: `pneumonia-fl provision` made it, not `nvflare package`"
        )
    with tempfile.TemporaryDirectory() as cache:
        return finish(kit.folder, find_wheel(wheel, Path(cache) / "wheel"), policy, None)
