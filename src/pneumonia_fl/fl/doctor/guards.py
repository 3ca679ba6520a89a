"""Check that a kit's `local/` names its protections: guards, job validator, and credentials inside."""

from collections.abc import Iterator
from typing import Any

from pneumonia_fl.findings import Finding
from pneumonia_fl.fl.doctor.policy import local_file
from pneumonia_fl.fl.entrypoints import old_paths
from pneumonia_fl.fl.kit.assets import POLICIES, policy_folder, provisioning_folder
from pneumonia_fl.fl.kit.startup_kit import Kit
from pneumonia_fl.fl.provision.site_policy import policy_in_force, server_gate
from pneumonia_fl.inputs.json_files import read_json


def guards(kit: Kit) -> Iterator[Finding]:
    """Name everything that is missing; one finding when nothing is."""
    found = list(missing(kit))
    policy = policy_in_force(kit.local) or "strict"
    cure = f"ask the Lead IT for a new local/: `pneumonia-fl provision --policy {kit.name}={policy}`"
    yield from (Finding("fail", f"{kit.name} is not guarded: {what}; {cure}") for what in found)
    if not found:
        yield Finding("ok", "messages, jobs, commands and the audit log are guarded")


def missing(kit: Kit) -> Iterator[str]:
    """Describe what this version puts into the kit's `local/` folder and is missing there.

    Raises:
        KitError: a file is broken or missing.
    """
    has = local_file(kit, "resources.json")
    if old := next(old_paths(has), ""):
        yield f"resources.json is of an earlier version of pneumonia-fl: it names {old}"
        return
    wanted = _wanted(kit)
    components = {str(part.get("id")): part for part in has.get("components", [])}
    for part in wanted["components"]:
        if part.get("path") and components.get(part["id"]) != part:
            yield f"resources.json does not name {part['path']} as this version does"
    validator = wanted["app_validator"]
    if has.get("app_validator") != validator:
        yield f"resources.json does not name {validator['path']} as app_validator, as this version does"
    if kit.kind == "server" or not validator["args"]["shipped_code"]:
        yield from _classes(has, set(wanted["class_allow_list"]))
    internal = local_file(kit, "comm_config.json").get("internal", {})
    security = internal.get("resources", {}).get("connection_security")
    if (internal.get("scheme"), security) != ("tcp", "mtls"):
        yield "comm_config.json lets any account of this machine connect to the processes of this kit"


def _classes(has: dict[str, Any], wanted: set[str]) -> Iterator[str]:
    allowed = has.get("class_allow_list")
    further = sorted(set(allowed or []) - wanted)
    if allowed is None or further:
        which = further[0] if further else "NVFlare's default list"
        yield f"resources.json allows jobs more classes than this package uses ({which})"
    if has.get("class_list_enforcement_mode", "enforce") != "enforce":
        yield "resources.json does not enforce class_allow_list"


def _wanted(kit: Kit) -> dict[str, Any]:
    found = policy_in_force(kit.local)
    policy = found if found in POLICIES else "strict"
    folder = provisioning_folder() / "server" if kit.kind == "server" else policy_folder(policy)
    wanted: dict[str, Any] = read_json(folder / "resources.json")
    if kit.kind == "server":
        wanted["app_validator"]["args"] = server_gate(policy)
    return wanted
