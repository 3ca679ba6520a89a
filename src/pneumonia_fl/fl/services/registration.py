"""Asking a server, as one of the people, which sites it knows."""

import time
from pathlib import Path
from typing import Any

from pneumonia_fl.errors import TimeLimitError
from pneumonia_fl.fl.admin.session import login
from pneumonia_fl.fl.kit.certificates import LEAD_IT, role_of
from pneumonia_fl.fl.kit.startup_kit import Kit, find_kits
from pneumonia_fl.fl.services.launch import POLL_SECONDS


def ask(person: Kit) -> dict[str, Any]:
    """Ask the server as a person for `server` (its address) and `sites` (names of those registered).

    Raises:
        TimeLimitError: the server cannot be reached.
        KitError, RefusedError: the person cannot log in.
    """
    with login(person.folder) as admin:
        return {"server": f"{person.host}:{person.port}", "sites": admin.sites()}


def lead_it_kit(folder: Path, server: Kit) -> Kit | None:
    """Return the kit of the only Lead IT for this server in `folder`, who runs it; None when there is none."""
    people = [kit for kit in find_kits(folder) if kit.kind == "admin"]
    fitting = [kit for kit in people if (kit.project, kit.port) == (server.project, server.port)]
    leads = [kit for kit in fitting if role_of(kit) == LEAD_IT]
    return leads[0] if len(leads) == 1 else None


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
