"""`pneumonia-fl clean`: remove old runs and the folders of ended jobs."""

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pneumonia_fl.cli.views.terminal import echo

if TYPE_CHECKING:
    from pneumonia_fl.runs.cleanup import Leftover

Folders = Annotated[
    list[Path] | None,
    typer.Argument(
        metavar="[FOLDER]...",
        help="Folders of runs, comparisons or sweeps; kits of servers or sites, or a folder of kits. Default: runs.",
        show_default=False,
    ),
]
Age = Annotated[
    str,
    typer.Option(
        "--older-than",
        metavar="AGE",
        help="Only what has not changed for this long: 12h, 30d, 2w; 0: any age.",
    ),
]
Size = Annotated[
    str, typer.Option("--larger-than", metavar="SIZE", help="Only what is at least this large: 500MB, 2GB.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="List what would be removed, and remove nothing.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Remove without asking.")]
Json = Annotated[
    bool, typer.Option("--json", help="Print the result as JSON and do not ask; removes only with --yes.")
]


def clean(
    folders: Folders = None,
    age: Age = "30d",
    size: Size = "0",
    dry_run: DryRun = False,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Remove old runs, and the folders that ended jobs left in the kits of servers and sites.

    Lists what would be removed and asks first. Active runs, the server's job store, state from which a job can be
    resumed, and a site's own models are never removed. Example:

        pneumonia-fl clean runs kits/us-hospital --older-than 30d --larger-than 100MB --dry-run
    """
    from pneumonia_fl.runs.cleanup import old_and_large, parse_age, parse_size

    limits = parse_age(age), parse_size(size)
    usual = [folder for folder in (Path("runs"),) if folder.is_dir()]  # as for `runs`, none is no mistake
    found = old_and_large([one for folder in folders or usual for one in _below(folder)], *limits)
    if not as_json:
        _show(found)
    remove_them = bool(found) and not dry_run and (yes or (not as_json and typer.confirm("Remove them?")))
    if remove_them:
        _remove(found, as_json)
    if as_json:
        echo(json.dumps({"removed": remove_them, "found": [one.as_dict() for one in found]}, indent=2))


def _below(folder: Path) -> "list[Leftover]":
    from pneumonia_fl.errors import OutputError
    from pneumonia_fl.fl.kit.startup_kit import find_kits
    from pneumonia_fl.fl.services.past_jobs import jobs_in
    from pneumonia_fl.inputs.paths import missing
    from pneumonia_fl.runs.cleanup import runs_below

    if not folder.is_dir():
        raise OutputError(missing(folder.absolute()))
    if (folder / "startup").is_dir() or any(folder.glob("*/startup")):
        alone = (folder / "startup").is_dir()
        return [one for kit in find_kits(folder) if alone or kit.kind != "admin" for one in jobs_in(kit)]
    return list(runs_below(folder))


def _show(found: "list[Leftover]") -> None:
    if not found:
        echo("nothing to remove: no past run or job is that old and that large")
        return
    for one in found:  # no table: at 80 columns it would cut the paths
        day = time.strftime("%Y-%m-%d", time.localtime(one.changed))
        echo(f"{_megabytes(one.bytes):>12}  {day}  {one.kind}: {one.path}")
    echo(f"{len(found)} folders, {_megabytes(sum(one.bytes for one in found))}")


def _remove(found: "list[Leftover]", quiet: bool) -> None:
    from pneumonia_fl.cli.views.progress_bars import progress_bars
    from pneumonia_fl.runs.cleanup import remove

    with progress_bars(quiet) as progress:
        for number, one in enumerate(found, start=1):
            remove(one)
            progress("removing", number, len(found))


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"
