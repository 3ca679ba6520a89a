"""The doctor says when what keeps others out stands in a kit's files and is not in force."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from provisioning import SERVER, Kits

from conftest import read_json
from pneumonia_fl.errors import KitError
from pneumonia_fl.fl.doctor.guards import guards, missing
from pneumonia_fl.fl.kit.assets import POLICIES
from pneumonia_fl.fl.kit.startup_kit import open_kit
from pneumonia_fl.fl.provision.site_policy import apply_policy
from pneumonia_fl.fl.services.participant import Service
from pneumonia_fl.fl.services.preflight import check

SITE = "asia-hospital"
RESOURCES, NETWORK = "resources.json", "comm_config.json"


def guard(resources: Any) -> Any:
    return next(part for part in resources["components"] if part["id"] == "guard")


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("name", [SITE, SERVER])
def test_a_kit_as_provisioned_lacks_nothing(name: str, policy: str, kits: Kits) -> None:
    kit = open_kit(kits.out / name)
    apply_policy(kit.local, "server" if name == SERVER else "site", policy)
    assert list(missing(kit)) == []


@pytest.mark.parametrize(
    ("file", "change"),
    [
        (RESOURCES, lambda values: guard(values).update(disabled=True)),
        (RESOURCES, lambda values: guard(values)["args"].update(shell=True)),
        (RESOURCES, lambda values: values["app_validator"]["args"].update(shipped_code=True)),
        (NETWORK, lambda values: values["internal"].update(scheme="uds")),
    ],
    ids=["guard switched off", "shell at a strict site", "shipped code at a strict site", "other listener"],
)
def test_a_guard_that_is_not_in_force(file: str, change: Callable[[Any], object], kits: Kits) -> None:
    kit = open_kit(kits.out / SITE)
    values = read_json(kit.local / file)
    change(values)
    (kit.local / file).write_text(json.dumps(values))
    assert len(list(missing(kit))) == 1


@pytest.mark.parametrize(
    ("name", "path"),
    [
        (SITE, "pneumonia_fl.fl.parent.job_launcher.SiteJobLauncher"),
        (SERVER, "pneumonia_fl.fl.parent.storage.KitStorage"),
    ],
)
def test_a_kit_of_an_earlier_version_is_told_in_one_sentence_what_to_do(
    name: str, path: str, kits: Kits
) -> None:
    kit = open_kit(kits.out / name)
    values = read_json(kit.local / RESOURCES)
    values["components"][-1]["path"] = path
    (kit.local / RESOURCES).write_text(json.dumps(values))
    (found,) = guards(kit)
    old = f"resources.json is of an earlier version of pneumonia-fl: it names {path}"
    cure = f"ask the Lead IT for a new local/: `pneumonia-fl provision --policy {name}=strict`"
    assert (found.level, found.message) == ("fail", f"{name} is not guarded: {old}; {cure}")
    with pytest.raises(KitError, match=f"{name} is not guarded: {old}"):
        check([Service(kit)], say=print)
    kits.made("--policy", f"{name}=strict")
    assert list(missing(kit)) == []
