"""`pneumonia-fl doctor`: what is wrong here, and what to do about it."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pneumonia_fl.cli.terminal import echo, terminal

if TYPE_CHECKING:
    from pneumonia_fl.fl.doctor.report import Result
    from pneumonia_fl.fl.kits import Kit

COLOURS = {"ok": "green", "warn": "yellow", "fail": "red"}

KitFolder = Annotated[
    Path | None, typer.Argument(metavar="KIT", help="A startup kit; without it, this machine only.")
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON, and nothing else.")]


def doctor(kit: KitFolder = None, as_json: Json = False) -> None:
    """Say what is wrong with this machine and a startup kit, and what to do; exit 1 when something fails.

    Works on the kits of servers, sites and people, before they are started and while they run. It changes
    nothing and ends within ten seconds, whatever the network does.
    """
    from pneumonia_fl.cli.progress import progress_bars
    from pneumonia_fl.fl.doctor.report import examine
    from pneumonia_fl.fl.kits import open_kit

    opened = open_kit(kit) if kit else None
    with progress_bars(quiet=as_json) as progress:
        results = examine(opened, progress)
    good = all(finding.level != "fail" for result in results for finding in result.findings)
    if as_json:
        echo(json.dumps(_as_json(opened, results, good), indent=2))
    else:
        _print(results)
    if not good:
        raise typer.Exit(1)


def _as_json(kit: "Kit | None", results: "list[Result]", good: bool) -> dict[str, Any]:
    findings = [
        {"check": result.check, "level": finding.level, "message": finding.message}
        for result in results
        for finding in result.findings
    ]
    return {"ok": good, "kit": _describe(kit) if kit else None, "findings": findings}


def _describe(kit: "Kit") -> dict[str, Any]:
    return {
        "folder": str(kit.folder),
        "kind": kit.kind,
        "name": kit.name,
        "project": kit.project,
        "server": f"{kit.host}:{kit.port}",
    }


def _print(results: "list[Result]") -> None:
    console = terminal()
    for result in results:
        for finding in result.findings:
            console.print(f"{finding.level:<4}", style=COLOURS[finding.level], end=" ")
            console.print(f"{result.check:<11} {finding.message}", soft_wrap=True)
