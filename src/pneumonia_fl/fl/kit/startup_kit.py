"""A startup kit as a folder: whose it is, where its server is, and what its owner has set in it.

A kit is what NVFlare's provisioning makes for one participant: `startup/` (identity and addresses, signed, never
edited) and `local/` (the owner's own settings).
"""

import contextlib
import shlex
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator

from pneumonia_fl.config.environment import LIMITED, SeriesPlace, data_root, no_login
from pneumonia_fl.config.strict import Strict, parse
from pneumonia_fl.errors import KitError
from pneumonia_fl.inputs.json_files import read_json
from pneumonia_fl.inputs.names import did_you_mean
from pneumonia_fl.inputs.paths import expanded
from pneumonia_fl.inputs.yaml_files import read_yaml

Kind = Literal["server", "site", "admin"]
STARTUP_FILES: dict[Kind, str] = {
    "server": "fed_server.json",
    "site": "fed_client.json",
    "admin": "fed_admin.json",
}
LOCAL_SETTINGS = "pneumonia_fl.yml"
SITE_STATE_FOLDER = "pneumonia_fl_site_state"
"""Below a site's kit: for each job what the site keeps for itself (see `fl/state/site_state.py`)."""


class LocalSettings(Strict):
    """`local/pneumonia_fl.yml`: what the kit's owner decides and no job can change."""

    data: Path | None = None
    """Site: folder with the prepared data; `PNEUMONIA_FL_DATA` goes before it."""
    threads: int | None = None
    """Site: threads for training; None: all cores."""
    max_local_epochs: int | None = Field(None, ge=1)
    """Site: the most passes over its images that it makes in a round, whatever a job wants."""
    max_batch_size: int | None = Field(None, ge=2)
    """Site: the most images that it takes in one step, whatever a job wants."""
    share_local_model: bool = True
    """Site: whether it sends its best local model when a job evaluates models across sites; see docs/cross-site.md."""
    tracking: SeriesPlace = "server"
    """Site: whether its series go to the server, stay at the `site`, or `both`; see docs/quickstart-site-it.md."""
    join_evaluations: bool = True
    """Site: whether it evaluates saved models when a job asks for nothing else; see docs/cross-site.md."""
    tracking_uri: str | None = None
    """Server: the MLflow server that gets every job's metrics; None: a database file inside the job. Site: its own
    MLflow, for series that stay there."""

    @field_validator("data")
    @classmethod
    def _at_home(cls, data: Path | None) -> Path | None:
        return data and expanded(data)

    @field_validator("tracking_uri")
    @classmethod
    def _no_secret(cls, uri: str | None) -> str | None:
        return no_login(uri)

    @property
    def limits(self) -> dict[str, int]:
        """Return the site's limits on the settings in `environment.LIMITED`."""
        found = {key: getattr(self, f"max_{key}") for key in LIMITED}
        return {key: most for key, most in found.items() if most is not None}


@dataclass(frozen=True)
class Kit:
    """One participant's kit."""

    folder: Path
    kind: Kind
    name: str
    """Host name of a server, name of a site, e-mail address of a person."""
    project: str
    host: str
    port: int

    @property
    def startup(self) -> Path:
        """Return the folder with identity and addresses."""
        return self.folder / "startup"

    @property
    def local(self) -> Path:
        """Return the folder with the owner's settings."""
        return self.folder / "local"

    @property
    def root_certificate(self) -> Path:
        """Return the certificate of the project's root, which all participants share."""
        return self.startup / "rootCA.pem"

    @property
    def certificate(self) -> Path:
        """Return the participant's own certificate."""
        return self.startup / ("server.crt" if self.kind == "server" else "client.crt")

    @property
    def private_key(self) -> Path:
        """Return the participant's private key."""
        return self.certificate.with_suffix(".key")

    def local_file(self, name: str) -> Path:
        """Return the owner's file in `local/`, else the one that came with the kit."""
        own = self.local / name
        return own if own.is_file() else own.with_name(f"{name}.default")

    def data_folder(self) -> Path | None:
        """Return a site's prepared data: `PNEUMONIA_FL_DATA`, else the setting, relative to the kit's folder."""
        setting = self.settings().data
        return data_root() or (setting and self.folder / setting)

    def settings(self) -> LocalSettings:
        """Return the settings in `local/pneumonia_fl.yml`; the defaults when there is no such file."""
        return read_settings(self.local)


def down_command(folder: Path) -> str:
    """Return the command that ends what runs from a kit, or from the kits in a folder."""
    return f"pneumonia-fl down {shlex.quote(str(folder))}"


def open_kit(folder: Path) -> Kit:
    """Read a kit.

    Raises:
        KitError: the folder is not a kit, or a file in it is broken or somebody else's.
    """
    folder = folder.absolute()
    with _readable(folder):
        for kind, file in STARTUP_FILES.items():
            if (folder / "startup" / file).is_file():
                return _read(folder, kind, folder / "startup" / file)
        if not folder.is_dir():
            raise KitError(f"{folder} does not exist{_meant(folder)}")
    raise KitError(f"{folder} is not a startup kit; give the folder that holds startup/ and local/")


def find_kits(folder: Path) -> list[Kit]:
    """Find kits: `folder` itself when it is one, else those directly below it, by name.

    Raises:
        KitError: there is none, or one is broken or somebody else's.
    """
    with _readable(folder.absolute()):
        if (folder / "startup").is_dir() or not folder.is_dir():
            return [open_kit(folder)]
        found = [open_kit(path) for path in sorted(folder.iterdir()) if _holds_startup(path)]
    if not found:
        raise KitError(f"no startup kits in {folder.absolute()}; make some with `pneumonia-fl provision`")
    return found


def _holds_startup(folder: Path) -> bool:
    """Return True when a folder is a kit."""
    return not folder.name.startswith(".") and (folder / "startup").is_dir()


def _meant(folder: Path) -> str:
    """Suggest the folder meant by a `folder` that does not exist, or how to make it."""
    missing = next(one for one in (*reversed(folder.parents), folder) if not one.is_dir())
    beside = [one.name for one in missing.parent.iterdir() if one.is_dir()]
    return did_you_mean(missing.name, beside) or "; `pneumonia-fl provision` makes kits"


@contextlib.contextmanager
def _readable(folder: Path) -> Iterator[None]:
    """Convert a permission error inside the block to a line that names the folder's owner."""
    try:
        yield
    except OSError as error:
        where, reason = error.filename or folder, error.strerror
        raise KitError(
            f"{where} cannot be read ({reason}); start as the owner of the kit, or ask for it"
        ) from None


def kit_python(kit: Kit | None) -> Path:
    """Return the Python that starts a kit: of its own environment (made by `install.sh`), else ours."""
    own = kit.folder / "venv" if kit else None
    return own / "bin" / "python3" if own is not None and own.is_dir() else Path(sys.executable)


def read_settings(local: Path) -> LocalSettings:
    """Read the settings in a kit's `local` folder; the defaults when there are none."""
    file = local / LOCAL_SETTINGS
    return parse(LocalSettings, read_yaml(file), str(file)) if file.is_file() else LocalSettings()


def _read(folder: Path, kind: Kind, file: Path) -> Kit:
    try:
        values = read_json(file)
        name, project, host, port = _READERS[kind](values)
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise KitError(f"{file} is broken ({error}); ask for a new kit") from None
    return Kit(folder, kind, name, project, host, int(port))


def _server(values: dict[str, Any]) -> tuple[str, str, str, str]:
    server = values["servers"][0]
    return server["admin_server"], server["name"], *_target(server)


def _site(values: dict[str, Any]) -> tuple[str, str, str, str]:
    server = values["servers"][0]
    return values["client"]["fqsn"], server["name"], *_target(server)


def _admin(values: dict[str, Any]) -> tuple[str, str, str, str]:
    admin = values["admin"]
    return admin["username"], admin["project_name"], admin["host"], admin["port"]


def _target(server: dict[str, Any]) -> tuple[str, str]:
    host, port = server["service"]["target"].rsplit(":", 1)
    return host, port


_READERS = {"server": _server, "site": _site, "admin": _admin}
