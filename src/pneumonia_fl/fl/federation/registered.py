"""Asking a server, as one of the people, which sites it knows."""

import time
from pathlib import Path
from typing import Any

from pneumonia_fl.errors import TimeLimitError
from pneumonia_fl.fl.admin.session import login
from pneumonia_fl.fl.federation.launch import POLL_SECONDS
from pneumonia_fl.fl.kits import Kit, find_kits


def ask(person: Kit) -> dict[str, Any]:
    """What the server says to a person: `server` (its address) and `sites` (names of those registered).

    Raises:
        TimeLimitError: the server cannot be reached.
        KitError, RefusedError: the person cannot log in.
    """
    with login(person.folder) as admin:
        return {"server": f"{person.host}:{person.port}", "sites": admin.sites()}


def admin_kit(folder: Path, server: Kit) -> Kit | None:
    """A person's kit in `folder` for this server; None when there is none."""
    people = [kit for kit in find_kits(folder) if kit.kind == "admin"]
    fitting = [kit for kit in people if (kit.project, kit.port) == (server.project, server.port)]
    return fitting[0] if fitting else None


def wait_for_sites(person: Kit, sites: set[str], deadline: float) -> None:
    """Wait until the server says that all these sites are registered.

    Raises:
        TimeLimitError: it does not by `deadline` (seconds of the monotonic clock), or cannot be reached.
        KitError, RefusedError: the person cannot log in.
    """
    with login(person.folder) as admin:
        while missing := sites - set(admin.sites()):
            if time.monotonic() > deadline:
                raise TimeLimitError(f"{admin.where} does not know {', '.join(sorted(missing))}")
            time.sleep(POLL_SECONDS)
