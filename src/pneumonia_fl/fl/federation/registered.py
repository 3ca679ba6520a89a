"""Asking the server, as one of the people whose kits lie beside the others, which sites it knows."""

import contextlib
import io
from collections.abc import Sequence
from pathlib import Path

from nvflare.fuel.flare_api.flare_api import new_secure_session

from pneumonia_fl.errors import KitError
from pneumonia_fl.fl.kits import Kit, find_kits

LOGIN_SECONDS = 5.0


def admin_kit(folder: Path, server: Kit) -> Kit | None:
    """A person's kit below `folder` for this server; None when there is none."""
    people = [kit for kit in find_kits(folder) if kit.kind == "admin"]
    fitting = [kit for kit in people if (kit.project, kit.port) == (server.project, server.port)]
    return fitting[0] if fitting else None


def registered_sites(person: Kit) -> Sequence[str]:
    """Names of the sites that are registered at the server.

    Raises:
        KitError: the person cannot log in.
    """
    try:
        # NVFlare prints what it does.
        with contextlib.redirect_stdout(io.StringIO()):
            session = new_secure_session(person.name, str(person.folder), timeout=LOGIN_SECONDS)
            try:
                return sorted(client.name for client in session.get_system_info().client_info)
            finally:
                session.close()
    except Exception as error:  # NVFlare's API raises a dozen kinds, and its transport more
        raise KitError(f"{person.name} cannot log in: {error}") from None
