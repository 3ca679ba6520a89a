"""`pneumonia-fl provision` and `pneumonia-fl authz`: kits for everyone, and who may do what."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from pneumonia_fl.fl.provision.make import Provisioned

ProjectFile = Annotated[Path, typer.Argument(metavar="[PROJECT]", help="The federation's project.yml.")]
Out = Annotated[
    Path, typer.Option("--out", help="Folder for the kits; it holds all private keys: keep it safe.")
]
Policies = Annotated[
    list[str] | None,
    typer.Option(
        "--policy",
        metavar="[SITE=]POLICY",
        help="strict (default for a new site), relaxed or locked, for all sites or one; repeatable.",
    ),
]
Renew = Annotated[
    list[str] | None,
    typer.Option("--renew", metavar="NAME", help="New key and certificate for a participant; repeatable."),
]
Wheel = Annotated[
    Path | None, typer.Option("--wheel", help="The project's wheel; default: built from the source tree.")
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON, and nothing else.")]


def provision(
    project: ProjectFile = Path("project.yml"),
    out: Out = Path("kits"),
    policies: Policies = None,
    renew: Renew = None,
    wheel: Wheel = None,
    as_json: Json = False,
) -> None:
    """Make a startup kit for everyone in project.yml, or complete those that are there.

    Running it again keeps the root, all identities and what owners changed in their `local/`. Example:

        pneumonia-fl provision --policy strict --policy us-hospital=relaxed
    """
    from pneumonia_fl.cli.progress import progress_bars
    from pneumonia_fl.fl.provision import make

    request = make.Request(project, out, _read_policies(policies or []), tuple(renew or ()), wheel)
    with progress_bars(quiet=as_json) as progress:
        result = make.provision(request, progress)
    if as_json:
        typer.echo(json.dumps(result.as_json(), indent=2))
    else:
        _show(result)


def _read_policies(texts: list[str]) -> dict[str, str]:
    parts = [text.rpartition("=") for text in texts]
    return {site: policy for site, _, policy in parts}


def _show(result: "Provisioned") -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("Kit", "For", "Org", "Policy", "Certificate until", "", title=f"Kits in {result.out}")
    for kit in result.kits:
        table.add_row(
            kit.name, kit.role or kit.kind, kit.org, kit.policy, f"{kit.expires:%Y-%m-%d}", kit.change
        )
    Console().print(table)
    typer.echo(f"Root certificate: {result.fingerprint}")
    for name in result.dropped:
        typer.echo(
            f"{name}: no longer in project.yml, but its certificate stays valid; see docs/provisioning.md"
        )
    typer.echo(
        f"Give every kit to its owner, and to nobody else; back up {result.out}/.state: it is the root."
    )
