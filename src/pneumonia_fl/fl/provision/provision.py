"""`pneumonia-fl provision`: project.yml to finished kits; what exists already stays as it is."""

import contextlib
import copy
import io
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from nvflare.lighter.constants import CtxKey
from nvflare.lighter.prov_utils import prepare_builders
from nvflare.lighter.provision import prepare_project
from nvflare.lighter.provisioner import Provisioner
from nvflare.tool.cert.fingerprint import cert_fingerprint_sha256

from pneumonia_fl.errors import ConfigError, KitError, RunError
from pneumonia_fl.files import output_errors
from pneumonia_fl.fl.entrypoints import MODULE
from pneumonia_fl.fl.kit.assets import check_wheel, find_wheel, policy_folder
from pneumonia_fl.fl.kit.certificates import load, role_of
from pneumonia_fl.fl.kit.start import PROGRAMS, is_misread
from pneumonia_fl.fl.kit.startup_kit import Kit
from pneumonia_fl.fl.provision.complete_kit import finish, make_private
from pneumonia_fl.fl.provision.project_file.project import Participant, Project, load_project
from pneumonia_fl.fl.provision.root_ca import State, check_identities
from pneumonia_fl.fl.provision.signing import SIGNATURE
from pneumonia_fl.fl.provision.site_policy import policy_in_force
from pneumonia_fl.progress import Progress, silent

STATE = ".state"
WHEELS = "wheel"


@dataclass(frozen=True)
class Request:
    """Options of a provisioning."""

    project: Path
    out: Path
    policies: dict[str, str] = field(default_factory=dict)
    """Site or server, or "" for all of them, to policy; only their policy files are written again."""
    renew: tuple[str, ...] = ()
    """Participants who get a new key and certificate from the same root."""
    wheel: Path | None = None


@dataclass(frozen=True)
class Made:
    """One finished kit."""

    name: str
    kind: str
    role: str
    org: str
    folder: Path
    change: str
    """new, updated (its `startup/` is different now) or unchanged."""
    expires: datetime
    policy: str

    def as_json(self) -> dict[str, Any]:
        """Return the result for scripts."""
        values = {**vars(self), "folder": str(self.folder), "expires": self.expires.isoformat()}
        return {key: value for key, value in values.items() if value != ""}


@dataclass(frozen=True)
class Provisioned:
    """All kits of a federation."""

    project: str
    out: Path
    fingerprint: str
    """SHA-256 of the root certificate."""
    kits: list[Made]
    dropped: list[str]
    """Kits in the folder whose owner project.yml no longer names; their certificates stay valid."""

    def as_json(self) -> dict[str, Any]:
        """Return the result for scripts."""
        return {
            "project": self.project,
            "out": str(self.out),
            "root_fingerprint": self.fingerprint,
            "kits": [kit.as_json() for kit in self.kits],
            "dropped": self.dropped,
        }


def provision(request: Request, progress: Progress = silent) -> Provisioned:
    """Make or complete the kits of a project.

    Raises:
        ConfigError: project.yml or an option is wrong.
        KitError: the folder holds another project's kits, or a broken state.
        RunError: NVFlare or pip failed.
    """
    project = load_project(request.project)
    _check_options(project, request)
    out = request.out.absolute()
    workspace = _open_workspace(out, project)
    state = State(workspace / project.name / "state" / "cert.json")
    _check_root(out, state)
    check_identities(project, state, set(request.renew))
    progress("wheel", 0, None)
    wheel = find_wheel(request.wheel, workspace / WHEELS)
    with _private_files():
        for name in request.renew:
            state.forget(name)
        progress("certificates", 0, None)
        built = _run_nvflare(project, workspace)
        state = State(state.file)
        kits = _publish_all(project, request, built, wheel, state, progress)
    make_private(workspace / project.name)
    return Provisioned(project.name, out, cert_fingerprint_sha256(state.root), kits, _dropped(out, project))


def _check_options(project: Project, request: Request) -> None:
    check_wheel(request.wheel)
    names = [participant.name for participant in project.participants]
    for name in request.renew:
        if name not in names:
            raise ConfigError(f"--renew {name}: not in {project.file}; there are: {', '.join(names)}")
    sites = [participant.name for participant in project.participants if participant.type != "admin"]
    for site, policy in request.policies.items():
        policy_folder(policy)
        if site and site not in sites:
            raise ConfigError(
                f"--policy {site}={policy}: no such site or server; there are: {', '.join(sites)}"
            )


def _open_workspace(out: Path, project: Project) -> Path:
    workspace = out / STATE
    with output_errors(out):
        workspace.mkdir(parents=True, exist_ok=True, mode=0o700)
        for folder in (out, workspace):
            folder.chmod(0o700)
    others = [path.name for path in workspace.iterdir() if path.is_dir()]
    foreign = set(others) - {project.name, WHEELS}
    if foreign:
        raise KitError(f"{out} holds the kits of project {', '.join(sorted(foreign))}; choose another --out")
    return workspace


def _check_root(out: Path, state: State) -> None:
    """Require the root: NVFlare would make a new one, which invalidates every kit."""
    if not state.values and any(out.glob("*/startup")):
        raise KitError(
            f"{out} holds kits, but their root {state.file} is gone; put your backup there, or choose another --out "
            f"for a new federation"
        )


@contextlib.contextmanager
def _private_files() -> Iterator[None]:
    """Set the umask so that NVFlare's `cert.json`, with every key in it, is for the owner only."""
    before = os.umask(0o077)
    try:
        yield
    finally:
        os.umask(before)


def _run_nvflare(project: Project, workspace: Path) -> Path:
    """Run NVFlare's own provisioner into `workspace`; return the folder with its kits."""
    values = copy.deepcopy(project.values)  # NVFlare takes it apart
    spoken = io.StringIO()
    with contextlib.redirect_stdout(spoken), contextlib.redirect_stderr(spoken):
        try:
            provisioner = Provisioner(str(workspace), prepare_builders(values))
            context = provisioner.provision(prepare_project(values))
        except Exception as error:
            raise RunError(f"NVFlare could not provision {project.file}: {error}") from None
    if context.get(CtxKey.BUILD_ERROR):
        reasons = "; ".join(context.get(CtxKey.ERRORS, [])) or spoken.getvalue().strip()
        raise RunError(f"NVFlare could not provision {project.file}: {reasons}")
    return Path(context.get_result_location())


def _publish_all(
    project: Project, request: Request, built: Path, wheel: Path, state: State, progress: Progress
) -> list[Made]:
    made = []
    out = request.out.absolute()
    try:
        for number, participant in enumerate(project.participants):
            progress("kits", number, len(project.participants))
            policy = _policy(participant, request)
            target = out / participant.name
            _keep_names(built / participant.name / "startup" / "sub_start.sh", participant)
            change = _place(built / participant.name, target)
            kit = finish(target, wheel, policy, state.root_key if change != "unchanged" else None)
            made.append(_describe(kit, participant, change))
    finally:
        shutil.rmtree(built, ignore_errors=True)  # a second copy of every private key
    progress("kits", len(made), len(made))
    return made


def _keep_names(script: Path, participant: Participant) -> None:
    """Make NVFlare start with the literal names, where it would read a number or a truth value."""
    if script.is_file() and (is_misread(participant.name) or is_misread(participant.org)):
        text = script.read_text(encoding="utf-8")
        script.write_text(text.replace(f" -m {PROGRAMS}", f" -m {MODULE} {PROGRAMS}"), encoding="utf-8")


def _policy(participant: Participant, request: Request) -> str | None:
    everywhere = request.policies.get("") if participant.type != "admin" else None
    return request.policies.get(participant.name, everywhere)


def _place(new: Path, target: Path) -> str:
    """Install a kit at its target; in an existing kit only a different `startup/` is replaced."""
    if not target.exists():
        shutil.move(new, target)
        return "new"
    if not (target / "local").is_dir():
        raise KitError(f"{target} is in the way and is no kit; move it, or choose another --out")
    startup, old = target / "startup", target / ".startup.old"
    if startup.is_dir():
        if _same_files(new / "startup", startup):
            return "unchanged"
        shutil.rmtree(old, ignore_errors=True)
        startup.rename(old)
    shutil.move(new / "startup", startup)
    shutil.rmtree(old, ignore_errors=True)
    return "updated"


def _same_files(new: Path, there: Path) -> bool:
    """Return True when `there` has exactly the files of `new` and a signature."""
    wanted = {path.name: path.read_bytes() for path in new.iterdir()}
    found = {path.name: path.read_bytes() for path in there.iterdir() if path.is_file()}
    return found.pop(SIGNATURE, None) is not None and found == wanted


def _describe(kit: Kit, participant: Participant, change: str) -> Made:
    return Made(
        kit.name,
        kit.kind,
        role_of(kit),
        participant.org,
        kit.folder,
        change,
        load(kit.certificate).not_valid_after_utc,
        policy_in_force(kit.local) if kit.kind != "admin" else "",
    )


def _dropped(out: Path, project: Project) -> list[str]:
    names = {participant.name for participant in project.participants}
    found = (path.name for path in out.iterdir() if (path / "startup").is_dir())
    return sorted(set(found) - names)
