"""`pneumonia-fl authz`: its words are what NVFlare's authorizer does."""

import json
from pathlib import Path

import pytest
from nvflare.fuel.sec.authz import AuthzContext, Person
from provisioning import SERVER, Kits

from conftest import pneumonia_fl
from pneumonia_fl.fl.kit.assets import POLICIES
from pneumonia_fl.fl.kit.certificates import ROLES
from pneumonia_fl.fl.kit.startup_kit import open_kit
from pneumonia_fl.fl.provision.rights import ACTIONS, authorizer, read_rights
from pneumonia_fl.fl.provision.site_policy import apply_policy

ORG, OTHER = "asia_hospital", "us_hospital"
SITE = "asia-hospital"


def allowed(file: Path, role: str, right: str, org: str, submitter: tuple[str, str]) -> bool:
    """Ask NVFlare: may a person called `me` of `org` use `right` at a site of ORG on that person's job?"""
    context = AuthzContext(right, Person("me", org, role), Person(*submitter, "lead"))
    return bool(authorizer(file, ORG).authorize(context)[0])


def expected(word: str, org: str, submitter: tuple[str, str]) -> bool:
    """What a word of the table promises."""
    name, submitter_org = submitter
    promises = {
        "yes": True,
        "no": False,
        "own jobs": name == "me",
        "jobs of own org": submitter_org == org,
        "at own org's site": org == ORG,
        "at own org's site or org consortium": org in (ORG, "consortium"),
    }
    return promises[word]


@pytest.mark.parametrize("policy", POLICIES)
def test_every_word_is_what_nvflare_does(kits: Kits, policy: str) -> None:
    kit = open_kit(kits.out / SITE)
    apply_policy(kit.local, "site", policy)
    rights = read_rights(kit)
    assert rights.policy == policy
    for role, words in rights.roles.items():
        for action, word in words.items():
            for org in (ORG, OTHER, "consortium"):
                for submitter in (("me", org), ("colleague", org), ("stranger", "elsewhere")):
                    says = expected(word, org, submitter)
                    assert allowed(rights.file, role, ACTIONS[action], org, submitter) == says, (
                        role,
                        action,
                        org,
                    )


def table(kits: Kits, name: str) -> dict[str, dict[str, str]]:
    said = pneumonia_fl("authz", "--kit", kits.out / name, "--json")
    assert said.returncode == 0, said.stderr
    roles: dict[str, dict[str, str]] = json.loads(said.stdout)["roles"]
    assert tuple(roles) == ROLES
    return roles


def test_least_privilege_at_the_server(original_kits: Kits) -> None:
    roles = table(original_kits, SERVER)
    assert set(roles["project_admin"].values()) == {"yes"}
    assert roles["member"] == {action: "yes" if "see jobs" in action else "no" for action in ACTIONS}
    assert roles["lead"]["read a job's log"] == "own jobs"
    assert roles["lead"]["end or delete a job"] == "own jobs"
    assert roles["lead"]["restart, stop or disable a site"] == "no"
    assert roles["lead"]["look at files (ls, cat, tail)"] == "no"
    assert roles["org_admin"]["submit a job"] == "no"


def test_code_from_outside_at_the_three_kinds_of_site(kits: Kits) -> None:
    action = "submit a job with its own code"
    found = {}
    for policy in POLICIES:
        apply_policy(kits.out / SITE / "local", "site", policy)
        found[policy] = {words[action] for words in table(kits, SITE).values()}
    assert found == {"strict": {"no"}, "locked": {"no"}, "relaxed": {"yes", "no"}}


def test_the_table_is_for_people(original_kits: Kits) -> None:
    said = pneumonia_fl("authz", "--kit", original_kits.out / SITE)
    assert said.returncode == 0
    assert "policy strict" in said.stdout
    assert "own jobs" in said.stdout


def test_an_owners_own_rule_is_shown(kits: Kits) -> None:
    file = kits.out / SITE / "local" / "authorization.json"
    values = json.loads(file.read_text())
    values["permissions"]["lead"]["submit_job"] = ["org:us_hospital", "n:eve@us.org", "not o:elsewhere"]
    values["permissions"]["member"] = "none"
    file.write_text(json.dumps(values))
    roles = table(kits, SITE)
    assert roles["lead"]["submit a job"] == "org us_hospital or eve@us.org or not org elsewhere"
    assert set(roles["member"].values()) == {"no"}


@pytest.mark.parametrize(
    ("content", "message"),
    [("{", "Expecting"), ('{"format_version": "1.0"}', "missing permissions"), ("[]", "must be a dict")],
)
def test_a_file_that_nvflare_would_not_take_is_one_line(kits: Kits, content: str, message: str) -> None:
    (kits.out / SITE / "local" / "authorization.json").write_text(content)
    done = pneumonia_fl("authz", "--kit", kits.out / SITE)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert message in done.stderr


def test_a_persons_kit_shows_what_servers_get_and_says_so(original_kits: Kits) -> None:
    person = original_kits.out / "lead@consortium.org"
    assert table(original_kits, person.name) == table(original_kits, SERVER)
    said = pneumonia_fl("authz", "--kit", person).stdout
    assert "as shipped" in said
    assert json.loads(pneumonia_fl("authz", "--kit", person, "--json").stdout)["as_shipped"] is True


def test_what_is_no_kit_is_one_line(tmp_path: Path) -> None:
    done = pneumonia_fl("authz", "--kit", tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "is not a startup kit" in done.stderr
