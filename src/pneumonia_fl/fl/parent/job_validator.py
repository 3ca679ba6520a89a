"""Validate a job before anything of it is run; named as `app_validator` in a server's or a site's kit.

strict, locked   a job that is what this package makes from its own settings, to the letter (`expected_job.py`)
relaxed          that, and any other job of people who have the right `byoc` here

NVFlare's own rules (`class_allow_list` in `local/resources.json`, rights in `local/authorization.json`) stay in force
behind these; alone they leave the arguments of allowed classes, references in strings and further files to the job.
"""

import hashlib
from pathlib import Path
from typing import Any

from nvflare.apis.app_validation import AppValidationKey, AppValidator
from nvflare.apis.fl_constant import SiteType, WorkspaceConstants
from nvflare.fuel.sec.audit import AuditService
from nvflare.private.fed.app.default_app_validator import DefaultAppValidator

from pneumonia_fl.errors import ConfigError
from pneumonia_fl.fl.parent.expected_job import SERVER_FILE, SIGNATURE_FILES, SITE_FILE, read_job
from pneumonia_fl.fl.protocol.carried_weights import FOLDER, is_weights, weights_problem
from pneumonia_fl.inputs.text import printable

SHIPS_CODE = "a job that ships code; submit it without --ship-code, or ask its IT for the policy 'relaxed'"
FILES = {SERVER_FILE, SITE_FILE}
ACTION = "job_configuration"


class SiteJobValidator(AppValidator):
    """Looks at a job before the site takes it."""

    place, kind = "site", SiteType.CLIENT

    def __init__(self, policy: str, shipped_code: bool) -> None:
        super().__init__()
        self.policy = policy
        self.shipped_code = shipped_code

    def validate(self, app_folder: str) -> tuple[str, dict[str, Any]]:
        """Return the refusal ("" for none), and whether NVFlare shall ask for the right to bring code."""
        app = Path(app_folder)
        reason, known = objection(app, needs_weights=self.kind == SiteType.SERVER), {}
        ours = not reason
        if reason and self.shipped_code:
            reason, known = DefaultAppValidator(self.kind).validate(app_folder)
            known = known | {AppValidationKey.BYOC: True}
        if reason:
            return f"{self.place} policy '{self.policy}' refuses {reason}", {}
        what = f"sha256 {digest(app, ours)}{evaluated(app) if ours else ''}"
        AuditService.add_event(user="", action=ACTION, ref=app.parent.name, msg=what)
        return "", known


class ServerJobValidator(SiteJobValidator):
    """The same for the server: whoever may run code there can read the server's key and all models."""

    place, kind = "server", SiteType.SERVER


def objection(app: Path, needs_weights: bool = False) -> str:
    """Return why a deployed app is not one of ours without code; "" when it is.

    Args:
        app: the folder of the app.
        needs_weights: whether the models that its configuration names must be there.
    """
    if (app / str(WorkspaceConstants.CUSTOM_FOLDER_NAME)).exists():
        return SHIPS_CODE
    try:
        if extra := _other_files(app):
            return f"a job with more in it than a configuration: {extra}"
        _, models, place = read_job(app)
    except ConfigError as error:
        return f"a job that it cannot read: {printable(error)}"
    if place:
        return f"a job that is not what this version of pneumonia-fl makes: it differs at {printable(place)}"
    problem = weights_problem(app, models, needs_weights)
    return f"a job whose weights cannot be taken: {printable(problem)}" if problem else ""


def evaluated(app: Path) -> str:
    """Describe which models a job evaluates on which split, for the audit log; "" for a training job."""
    evaluation = read_job(app)[0].evaluation
    if evaluation is None:
        return ""
    models = ", ".join(f"{name} {model.sha256}" for name, model in evaluation.models.items())
    return f", evaluates on split {evaluation.split}: {models}"


def digest(app: Path, ours: bool) -> str:
    """Return the SHA-256 over the names and contents of an app's files: which configuration has run.

    Without the weights of a job of ours: the configuration has their hash, and only the server has them.
    """
    whole = hashlib.sha256()
    for path in sorted(path for path in app.rglob("*") if path.is_file() and not path.is_symlink()):
        if path.name not in SIGNATURE_FILES and not (ours and is_weights(app, path)):
            whole.update(f"{path.relative_to(app)}\n".encode(errors="surrogateescape"))
            whole.update(hashlib.sha256(path.read_bytes()).digest())
    return whole.hexdigest()


def _other_files(app: Path) -> str:
    """Return the first file, folder or link that does not belong in a job without code."""
    folders = ("config", FOLDER)
    signatures = (str(Path(folder, name)) for folder in ("", *folders) for name in SIGNATURE_FILES)
    known = {*FILES, *signatures, *folders}
    for path in sorted(app.rglob("*")):
        name = path.relative_to(app).as_posix()
        expected = name in known or is_weights(app, path)
        if not expected or path.is_symlink() or path.is_dir() != (name in folders):
            return printable(name, 80)
    return ""
