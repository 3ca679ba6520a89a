"""`pneumonia-fl doctor`: find problems of this machine and of startup kits."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pneumonia_fl.cli.options import Json
from pneumonia_fl.cli.views.terminal import echo, terminal

if TYPE_CHECKING:
    from pneumonia_fl.fl.doctor.examine import Result
    from pneumonia_fl.fl.kit.startup_kit import Kit

COLOURS = {"ok": "green", "warn": "yellow", "fail": "red"}

KitFolder = Annotated[
    Path | None,
    typer.Argument(
        metavar="KIT", help="A startup kit or a folder of kits; without it, only this machine is checked."
    ),
]


def doctor(kit: KitFolder = None, as_json: Json = False) -> None:
    """Check this machine and startup kits, and print what to do about each problem; exit code 1 when a check fails.

    Works on the kits of servers, sites and people, before they start and while they run. It changes nothing and takes
    at most ten seconds per kit, whatever the network does.
    """
    from pneumonia_fl.cli.views.progress_bars import progress_bars
    from pneumonia_fl.fl.doctor.examine import examine
    from pneumonia_fl.fl.kit.startup_kit import find_kits

    found = find_kits(kit) if kit else [None]
    entries = []
    for one in found:
        with progress_bars(quiet=as_json) as progress:
            results = examine(one, progress)
        entries.append(_as_json(one, results))
        if not as_json:
            _print(results, f"{one.name}, {one.folder}" if one and len(found) > 1 else "")
    good = all(entry["ok"] for entry in entries)
    if as_json:
        echo(json.dumps(entries[0] if len(found) == 1 else {"ok": good, "kits": entries}, indent=2))
    if not good:
        raise typer.Exit(1)


def _as_json(kit: "Kit | None", results: "list[Result]") -> dict[str, Any]:
    findings = [
        {"check": result.check, "level": finding.level, "message": finding.message}
        for result in results
        for finding in result.findings
    ]
    good = all(finding["level"] != "fail" for finding in findings)
    return {"ok": good, "kit": _describe(kit) if kit else None, "findings": findings}


def _describe(kit: "Kit") -> dict[str, Any]:
    return {
        "folder": str(kit.folder),
        "kind": kit.kind,
        "name": kit.name,
        "project": kit.project,
        "server": f"{kit.host}:{kit.port}",
    }


def _print(results: "list[Result]", title: str) -> None:
    console = terminal()
    if title:
        console.print(title, style="bold", soft_wrap=True)
    for result in results:
        for finding in result.findings:
            console.print(f"{finding.level:<4}", style=COLOURS[finding.level], end=" ")
            console.print(f"{result.check:<11} {finding.message}", soft_wrap=True)
