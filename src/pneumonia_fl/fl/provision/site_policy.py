"""Putting a policy into a kit's `local/`: NVFlare's defaults with the files of `provisioning/` laid over them."""

import json
import shutil
from pathlib import Path
from typing import Any, Literal

from pneumonia_fl.errors import KitError
from pneumonia_fl.fl.kit.assets import policy_folder, provisioning_folder
from pneumonia_fl.inputs.json_files import read_json

AUTHORIZATION = "authorization.json"
RESOURCES = "resources.json"
CLASS_LIST = "class_allow_list"


def apply_policy(local: Path, kind: Literal["server", "site"], policy: str) -> None:
    """Write `authorization.json` and `resources.json` for a server or a site under `policy`.

    At a server a policy says whether jobs may ship code; everything else is the same there.

    Raises:
        ConfigError: there is no such policy.
    """
    folder = policy_folder(policy)
    folder = provisioning_folder() / "server" if kind == "server" else folder
    shutil.copyfile(folder / AUTHORIZATION, local / AUTHORIZATION)
    policy_file = read_json(folder / RESOURCES)
    resources = lay_over(read_json(local / f"{RESOURCES}.default"), policy_file)
    resources[CLASS_LIST] = policy_file[CLASS_LIST]  # in the place of NVFlare's 88 classes, not beside them
    if kind == "server":
        resources["app_validator"]["args"] = server_gate(policy)
    (local / RESOURCES).write_text(json.dumps(resources, indent=2) + "\n", encoding="utf-8")


def server_gate(policy: str) -> dict[str, Any]:
    """Return the arguments of a server's gate under `policy`."""
    return {"policy": policy, "shipped_code": policy == "relaxed"}


def policy_in_force(local: Path) -> str:
    """Return the policy that a site's `resources.json` names; "" for none of ours.

    Raises:
        KitError: the file is no JSON.
    """
    file = local / RESOURCES
    try:
        values = read_json(file) if file.is_file() else {}
        return str(values["app_validator"]["args"]["policy"])
    except ValueError as error:
        raise KitError(f"{file} is not valid JSON: {error}") from None
    except (KeyError, TypeError):
        return ""


def lay_over(base: dict[str, Any], extra: dict[str, Any]) -> dict[str, Any]:
    """Merge `extra` into `base`: mappings merge, lists grow, components are matched by id.

    A mapping that names a class (`path`) replaces the one below it, so that no argument of another class stays.
    """
    result = dict(base)
    for key, value in extra.items():
        below = result.get(key)
        if isinstance(value, dict) and isinstance(below, dict) and "path" not in value:
            result[key] = lay_over(below, value)
        elif isinstance(value, list) and isinstance(below, list):
            result[key] = _join(below, value)
        else:
            result[key] = value
    return result


def _join(below: list[Any], above: list[Any]) -> list[Any]:
    joined = list(below)
    for item in above:
        place = _place(joined, item)
        if place is None:
            joined.append(item)
        else:
            joined[place] = item if "path" in item else lay_over(joined[place], item)
    return joined


def _place(items: list[Any], item: Any) -> int | None:
    """Return the index of a component with the same id."""
    if not isinstance(item, dict):
        return None
    same = [
        n for n, other in enumerate(items) if isinstance(other, dict) and other.get("id") == item.get("id")
    ]
    return same[0] if same else None
