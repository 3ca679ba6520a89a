"""Whose code this participant runs, as its own local/ files decide it."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pneumonia_fl.data.check import Finding
from pneumonia_fl.errors import KitError
from pneumonia_fl.fl.kits import Kit

_ANY_COMMAND = "nvflare.app_common.executors.client_api_executor.ClientAPIExecutor"


def policy(kit: Kit) -> Iterator[Finding]:
    """Who may ship code here, and which classes a job without code of its own may name."""
    rights = _local(kit, "authorization.json").get("permissions", {})
    senders = [role for role, granted in rights.items() if _may(granted, "byoc")]
    if senders:
        yield Finding("ok", f"relaxed: jobs of {', '.join(senders)} may bring their own code")
    else:
        yield Finding("ok", "no job may bring its own code; only what is installed here runs")
    yield from _classes(_local(kit, "resources.json"))


def _classes(resources: dict[str, Any]) -> Iterator[Finding]:
    allowed = resources.get("class_allow_list")
    if resources.get("class_list_enforcement_mode", "enforce") != "enforce" or "*" in (allowed or []):
        yield Finding(
            "warn", "local/resources.json lets a job name any installed class; restore class_allow_list"
        )
        return
    yield Finding(
        "ok",
        f"a job may name {len(allowed)} classes" if allowed else "a job may name NVFlare's default classes",
    )


def _may(granted: Any, right: str) -> bool:
    value = granted.get(right, "none") if isinstance(granted, dict) else granted
    return bool(value != "none")


def _local(kit: Kit, name: str) -> dict[str, Any]:
    """The owner's file, else the one that came with the kit.

    Raises:
        KitError: neither is there, or it is broken.
    """
    file = kit.local / name
    file = file if file.is_file() else file.with_name(f"{name}.default")
    return _read(file)


def _read(file: Path) -> dict[str, Any]:
    try:
        values: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise KitError(f"{file} cannot be read ({error}); restore it from the kit") from None
    return values
