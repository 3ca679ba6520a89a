"""Configure NVFlare's own simulator for an exported job: the classes that it may build, as in a kit."""

import json
from pathlib import Path

from pneumonia_fl.files import output_errors
from pneumonia_fl.fl.kit.assets import policy_folder, provisioning_folder
from pneumonia_fl.fl.provision.site_policy import CLASS_LIST, RESOURCES
from pneumonia_fl.inputs.json_files import read_json

WORKSPACE = "simulator_workspace"


def write_workspace(folder: Path) -> None:
    """Write a workspace for `nvflare simulator -w` into `folder`, where exported jobs lie.

    The simulator gives its `local/` to the server and every site, and removes all else in it before a run.

    Raises:
        OutputError: the folder cannot be written.
    """
    local = folder / WORKSPACE / "local"
    policies = provisioning_folder() / "server", policy_folder("strict")
    classes = [name for policy in policies for name in read_json(policy / RESOURCES)[CLASS_LIST]]
    with output_errors(folder):
        local.mkdir(parents=True, exist_ok=True)
        content = json.dumps({"format_version": 2, CLASS_LIST: sorted(classes)}, indent=2)
        (local / RESOURCES).write_text(content + "\n", encoding="utf-8")
