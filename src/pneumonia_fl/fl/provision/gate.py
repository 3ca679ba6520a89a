"""What a server or a site answers to a job that its policy does not allow, in words.

NVFlare's own answers are "BYOC not permitted", and for a class that is not listed an exception in a process that has
started already, which the submitter sees as "ended abnormally". NVFlare's rules (`byoc` in
`local/authorization.json`, `class_allow_list` in `local/resources.json`) stay in force behind these.
"""

import inspect
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nvflare.apis.app_validation import AppValidator
from nvflare.apis.fl_constant import WorkspaceConstants
from nvflare.apis.fl_exception import UnsafeComponentError
from nvflare.apis.workspace import Workspace
from nvflare.app_common.widgets.component_path_authorizer import ComponentPathAuthorizer

SHIPS_CODE = "a job that ships code; submit it without --ship-code, or ask its IT for the policy 'relaxed'"
SERVER_CONFIG, SITE_CONFIG = "config/config_fed_server.json", "config/config_fed_client.json"


class SiteGate(AppValidator):
    """Looks at a job before the site takes it; named as `app_validator` in the site's `local/resources.json`."""

    def __init__(self, policy: str, shipped_code: bool) -> None:
        super().__init__()
        self.policy = policy
        self.shipped_code = shipped_code

    def validate(self, app_folder: str) -> tuple[str, dict[str, Any]]:
        """Return the refusal ("" for none) and what is known about the job (nothing)."""
        reason = self._objection(Path(app_folder))
        return (f"site policy '{self.policy}' refuses {reason}" if reason else "", {})

    def _objection(self, app: Path) -> str:
        if _ships_code(app):
            return "" if self.shipped_code else SHIPS_CODE
        config = _read(app, SITE_CONFIG)
        return _unlisted_class(config) or ("" if self.shipped_code else _own_command(config) or _path(config))


class ServerGate(SiteGate):
    """The same for the server: whoever may run code there can read the server's key and all models."""

    def validate(self, app_folder: str) -> tuple[str, dict[str, Any]]:
        """Return the refusal ("" for none) and what is known about the job (nothing)."""
        app = Path(app_folder)
        config = _read(app, SERVER_CONFIG)
        if _ships_code(app):
            reason = "" if self.shipped_code else SHIPS_CODE
        else:
            reason = _unlisted_class(config) or _path(config)
        return (f"server policy '{self.policy}' refuses {reason}" if reason else "", {})


def _ships_code(app: Path) -> bool:
    return (app / str(WorkspaceConstants.CUSTOM_FOLDER_NAME)).exists()


def _read(app: Path, name: str) -> Any:
    """A job's configuration; nothing when it is not JSON: NVFlare then judges it alone."""
    try:
        return json.loads((app / name).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def _unlisted_class(config: Any) -> str:
    """The first class that NVFlare would not build with the list in the kit, which is the working directory."""
    workspace = Workspace(str(Path.cwd()))
    for name, _ in _components(config):
        try:
            ComponentPathAuthorizer().authorize_component_config({"path": name}, workspace=workspace)
        except UnsafeComponentError:
            return f"a job that uses {name}, which is not on its list of classes"
    return ""


def _own_command(config: Any) -> str:
    """What a job tries to tell the trainer beside its settings."""
    from pneumonia_fl.fl.executor import TrainerExecutor  # a server has no use for it

    trainer = f"{TrainerExecutor.__module__}.{TrainerExecutor.__qualname__}"
    for name, arguments in _components(config):
        extra = sorted(set(arguments) - set(inspect.signature(TrainerExecutor).parameters))
        if name == trainer and extra:
            return (
                f"a job that sets {', '.join(extra)} of the trainer; the site runs its own and nothing else"
            )
    return ""


def _path(config: Any) -> str:
    for text in _inside(config):
        value = text.rpartition("=")[2] if isinstance(text, str) else ""
        if value.startswith(("/", "~")) or ".." in Path(value).parts:
            return f"a job that names the path {value}; what a job needs travels inside it"
    return ""


def _components(config: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every class that a configuration names, at whatever depth, with its arguments."""
    for entry in _inside(config):
        name = entry.get("path", entry.get("class_path")) if isinstance(entry, dict) else None
        if isinstance(name, str) and all(part.isidentifier() for part in name.split(".")):
            yield name, entry.get("args") or {}


def _inside(value: Any) -> Iterator[Any]:
    """A JSON value and all values in it."""
    yield value
    children = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    for child in children:
        yield from _inside(child)
