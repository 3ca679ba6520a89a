"""Report whose code this participant runs, by its own local/ files."""

from collections.abc import Iterator
from typing import Any

from pneumonia_fl.errors import KitError
from pneumonia_fl.findings import Finding
from pneumonia_fl.fl.kit.startup_kit import Kit
from pneumonia_fl.inputs.json_files import read_json


def policy(kit: Kit) -> Iterator[Finding]:
    """Report the policy in force, who may ship code here, and which classes a job without code may name."""
    resources = local_file(kit, "resources.json")
    permissions = local_file(kit, "authorization.json").get("permissions", {})
    senders = [role for role, granted in permissions.items() if _may(granted, "byoc")]
    gate = resources.get("app_validator", {}).get("args", {})
    name = f"policy {gate['policy']!r}: " if "policy" in gate else ""
    if senders and gate.get("shipped_code", True):
        yield Finding("ok", f"{name}jobs of {', '.join(senders)} may bring their own code")
    else:
        yield Finding("ok", f"{name}no job may bring its own code; only what is installed here runs")
    yield _classes(resources)


def _classes(resources: dict[str, Any]) -> Finding:
    allowed = resources.get("class_allow_list")
    if "*" in (allowed or []) or resources.get("class_list_enforcement_mode", "enforce") != "enforce":
        cure = "restore class_allow_list in local/resources.json"
        return Finding("warn", f"a job may name any class that is installed here; {cure}")
    listed = f"{len(allowed)} entries" if allowed is not None else "NVFlare's default classes"
    return Finding("ok", f"a job may name what class_allow_list has: {listed}")


def _may(granted: Any, right: str) -> bool:
    value = granted.get(right, "none") if isinstance(granted, dict) else granted
    return bool(value != "none")


def local_file(kit: Kit, name: str) -> dict[str, Any]:
    """Read a file of `local/`: the owner's, else the one that came with the kit.

    Raises:
        KitError: neither is there, or it is broken.
    """
    file = kit.local_file(name)
    try:
        values: dict[str, Any] = read_json(file)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise KitError(f"{file} cannot be read ({reason}); restore it from the kit") from None
    return values
