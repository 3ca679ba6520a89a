"""`pneumonia-fl provision` and `pneumonia-fl authz`: kits for everyone, and who may do what."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pneumonia_fl.cli.options import Json
from pneumonia_fl.cli.views.terminal import echo, terminal

if TYPE_CHECKING:
    from pneumonia_fl.fl.provision.provision import Provisioned
    from pneumonia_fl.fl.provision.rights import Rights

ProjectFile = Annotated[Path, typer.Argument(metavar="[PROJECT]", help="The federation's project.yml.")]
Out = Annotated[
    Path, typer.Option("--out", help="Folder for the kits. It contains all private keys: protect it.")
]
AddSite = Annotated[
    list[str] | None,
    typer.Option("--add-site", metavar="NAME:ORG", help="Add a site to project.yml first; repeatable."),
]
AddUser = Annotated[
    list[str] | None,
    typer.Option(
        "--add-user",
        metavar="EMAIL:ORG:ROLE",
        help="Add a person to project.yml first, with role project_admin, org_admin, lead or member; repeatable.",
    ),
]
Policies = Annotated[
    list[str] | None,
    typer.Option(
        "--policy",
        metavar="[NAME=]POLICY",
        help="Policy strict (default), relaxed or locked, for the server and all sites or for the named one; "
        "repeatable. Replaces the kit's rights and list of allowed classes.",
    ),
]
Renew = Annotated[
    list[str] | None,
    typer.Option(
        "--renew", metavar="NAME", help="Issue a new key and certificate for a participant; repeatable."
    ),
]
Approve = Annotated[
    Path | None,
    typer.Option(
        "--approve", metavar="REQUEST", help="Only sign a request made with `nvflare cert request`."
    ),
]
Finish = Annotated[
    Path | None,
    typer.Option("--finish", metavar="KIT", help="Only complete a kit made with `nvflare package`."),
]
Wheel = Annotated[
    Path | None,
    typer.Option("--wheel", help="Wheel of this package for the kits; default: built from the source tree."),
]
KitFolder = Annotated[
    Path,
    typer.Option(
        "--kit", help="Kit of a server or site; for a person's kit, the rights as shipped are shown."
    ),
]


def provision(
    project: ProjectFile = Path("project.yml"),
    out: Out = Path("kits"),
    add_site: AddSite = None,
    add_user: AddUser = None,
    policies: Policies = None,
    renew: Renew = None,
    approve: Approve = None,
    finish: Finish = None,
    wheel: Wheel = None,
    as_json: Json = False,
) -> None:
    """Create a startup kit for everyone in project.yml, or update the kits that exist.

    Running it again keeps the root certificate, all identities and what owners changed in their `local/`. Example:

        pneumonia-fl provision --policy strict --policy us-hospital=relaxed
    """
    named = _read_policies(policies or [])
    if approve or finish:
        _one_kit(project, out, approve, finish, named.get("", "strict"), wheel, as_json)
        return
    from pneumonia_fl.cli.views.progress_bars import progress_bars
    from pneumonia_fl.fl.provision import provision as make
    from pneumonia_fl.fl.provision.project_file.add_participants import added

    request = make.Request(project, out, named, tuple(renew or ()), wheel)
    with added(project, add_site or [], add_user or []), progress_bars(quiet=as_json) as progress:
        result = make.provision(request, progress)
    if as_json:
        echo(json.dumps(result.as_json(), indent=2))
    else:
        _show(result)


def _read_policies(texts: list[str]) -> dict[str, str]:
    parts = [text.rpartition("=") for text in texts]
    return {site: policy for site, _, policy in parts}


def _one_kit(
    project: Path,
    out: Path,
    request: Path | None,
    kit: Path | None,
    policy: str,
    wheel: Path | None,
    as_json: bool,
) -> None:
    """Request or complete one kit: the two steps around a private key that never leaves its machine."""
    from pneumonia_fl.fl.provision.csr import approve, finish_packaged

    if request:
        approved = approve(request, project, out)
        values = {"signed": str(approved.signed), "root_fingerprint": approved.fingerprint}
    else:
        finished = finish_packaged(kit or Path(), policy, wheel)
        values = {"kit": str(finished.folder), "name": finished.name, "kind": finished.kind}
    if as_json:
        echo(json.dumps(values, indent=2))
    else:
        echo("\n".join(f"{key.replace('_', ' ')}: {value}" for key, value in values.items()))


def _show(result: "Provisioned") -> None:
    from rich import box

    from pneumonia_fl.cli.views.fitting import FittingTable

    titles = ("Kit", "For", "Policy", "Valid until", "")
    table = FittingTable(*titles, drop=("Policy", "For"), box=box.SIMPLE)
    for kit in result.kits:
        until = f"{kit.expires:%Y-%m-%d}"
        style = "" if kit.change == "unchanged" else "bold"
        table.add_row(kit.name, kit.role or kit.kind, kit.policy, until, kit.change, style=style)
    terminal().print(table)
    echo(f"Kits: {result.out}")
    echo(f"Root certificate: {result.fingerprint}")
    for name in result.dropped:
        echo(f"{name} is not in project.yml; its certificate stays valid until it ends.")
    echo(f"Give each kit to its owner alone. Back up {result.out / '.state'}: it holds the root key.")


def authz(kit: KitFolder, as_json: Json = False) -> None:
    """Print who may do what at a server or site, as NVFlare reads the kit's authorization.json.

    own jobs: jobs that the person submitted; jobs of own org: jobs submitted by anyone of the person's org; at own
    org's site: only where the site belongs to the person's org. A command must be allowed by the server and by each
    site that it reaches.
    """
    from pneumonia_fl.fl.kit.startup_kit import open_kit
    from pneumonia_fl.fl.provision.rights import read_rights

    rights = read_rights(open_kit(kit))
    if as_json:
        echo(json.dumps(rights.as_json(), indent=2))
    else:
        _show_rights(rights)


def _show_rights(rights: "Rights") -> None:
    from rich.table import Table

    about = [f"org {rights.org}"] if rights.org else ["as shipped; its own file decides"]
    about += [f"policy {rights.policy}"] if rights.policy else []
    table = Table("", *rights.roles, title=f"Who may do what at {rights.place} ({', '.join(about)})")
    for action in next(iter(rights.roles.values())):
        table.add_row(action, *(words[action] for words in rights.roles.values()))
    terminal().print(table)
    echo(f"From {rights.file}; a command must be allowed by the server and by each site that it reaches.")
