"""Read rights from a kit's `authorization.json`, with NVFlare's own authorizer."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nvflare.security.security import FLAuthorizer

from pneumonia_fl.errors import KitError
from pneumonia_fl.fl.kit.assets import provisioning_folder
from pneumonia_fl.fl.kit.certificates import ROLES, load, organization
from pneumonia_fl.fl.kit.startup_kit import Kit
from pneumonia_fl.fl.provision.site_policy import AUTHORIZATION, policy_in_force
from pneumonia_fl.inputs.json_files import read_json

# What a person does, and the commands it takes; a row of the table each.
ACTIONS = {
    "submit a job": "submit_job",
    "submit a job with its own code": "byoc",
    "copy a job": "clone_job",
    "end or delete a job": "abort_job",
    "download a result": "download_job",
    "read a job's log": "get_job_log",
    "see jobs, sites, progress": "list_jobs",
    "restart, stop or disable a site": "shutdown",
    "see a machine's resources": "sys_info",
    "look at files (ls, cat, tail)": "cat",
}
WORDS = {
    "any": "yes",
    "all": "yes",
    "none": "no",
    "no": "no",
    "n:submitter": "own jobs",
    "o:submitter": "jobs of own org",
    "o:site": "at own org's site",
}


@dataclass(frozen=True)
class Rights:
    """Rights by role at the owner of one kit."""

    place: str
    """Name of the server or site."""
    org: str
    """Its org; "" when a person's kit does not know it."""
    policy: str
    """Name of the site's policy; "" for a server."""
    file: Path
    roles: dict[str, dict[str, str]]
    """Role to action to words: yes, no, own jobs, …"""
    as_shipped: bool
    """What servers get, not what is in force at `place`: a person's kit does not know that."""

    def as_json(self) -> dict[str, Any]:
        """Return the rights for scripts."""
        return {**vars(self), "file": str(self.file)}


def read_rights(kit: Kit) -> Rights:
    """Read a server's or a site's rights; from a person's kit those that a server gets, as shipped.

    Raises:
        KitError: its `authorization.json` is one that NVFlare would not take.
    """
    file = _authorization_file(kit)
    person = kit.kind == "admin"
    org = "" if person else organization(load(kit.certificate))
    table = authorizer(file, org).get_policy()
    roles = [*(role for role in ROLES if role in table.roles), *sorted(set(table.roles) - set(ROLES))]
    rights = {
        role: {action: _words(table, role, right) for action, right in ACTIONS.items()} for role in roles
    }
    policy = policy_in_force(kit.local) if kit.kind == "site" else ""
    return Rights(kit.host if person else kit.name, org, policy, file, rights, person)


def authorizer(file: Path, org: str) -> FLAuthorizer:
    """Load NVFlare's authorizer for a site of `org`.

    Raises:
        KitError: NVFlare would not take the file.
    """
    try:
        return FLAuthorizer(org, read_json(file))
    except (OSError, ValueError, SyntaxError, TypeError, AssertionError) as error:
        cure = "ask the Lead IT for a new local/, which `pneumonia-fl provision --policy NAME=POLICY` makes"
        raise KitError(f"{file}: {error}; {cure}") from None


def _authorization_file(kit: Kit) -> Path:
    if kit.kind == "admin":
        return provisioning_folder() / "server" / AUTHORIZATION
    return kit.local_file(AUTHORIZATION)


def _words(policy: Any, role: str, right: str) -> str:
    """Return the policy's text for a role's right; no entry means no."""
    rights = policy.role_rights[role]
    said = rights.get("*", rights.get(right))
    if said is None:
        return "no"
    return " or ".join(_word(one) for one in ([said] if isinstance(said, str) else said))


def _word(expression: str) -> str:
    text = " ".join(expression.lower().split())
    if text.startswith("not "):
        return f"not {_word(text[4:])}"
    kind, _, target = text.partition(":")
    named = {"o": f"org {target}", "org": f"org {target}", "n": target, "name": target}
    return WORDS.get(text.replace("org:", "o:").replace("name:", "n:"), named.get(kind, text))
