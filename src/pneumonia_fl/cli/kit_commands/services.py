"""`pneumonia-fl up`, `down` and `status`: the servers and sites whose kits are on this machine."""

import contextlib
import json
import shlex
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pneumonia_fl.cli.options import Json
from pneumonia_fl.cli.views.terminal import echo, printed, terminal

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from pneumonia_fl.fl.kit.startup_kit import Kit

Kits = Annotated[Path, typer.Argument(metavar="[KITS]", help="A folder of startup kits, or one kit.")]
Data = Annotated[
    Path | None,
    typer.Option(
        "--data", help="Prepared data with one folder per site; default: each site's own `data` setting."
    ),
]
Timeout = Annotated[
    float, typer.Option("--timeout", min=1, help="Seconds to wait until everything is ready.")
]
Yes = Annotated[bool, typer.Option("--yes", help="End jobs running on the server without asking.")]
Drain = Annotated[bool, typer.Option("--drain", help="Wait until the server runs no job, then stop it.")]


def up(kits: Kits = Path("kits"), data: Data = None, timeout: Timeout = 120, as_json: Json = False) -> None:
    """Start the servers and sites of these kits, and wait until all sites are registered.

    What runs already is left as it is. An MLflow server is started beside a server, on this machine's loopback
    address, unless the server's settings name another one. The processes keep running after this command;
    `pneumonia-fl down` stops them. Example:

        pneumonia-fl up kits --data data/demo
    """
    from rich.text import Text

    from pneumonia_fl.fl.services.status import status as status_of
    from pneumonia_fl.fl.services.up import up as start

    console = terminal(stderr=True, quiet=as_json)
    started = time.monotonic()
    with console.status(Text(f"starting the kits in {kits}")):
        start(kits, data, timeout, lambda text: _tell(console, text))
    seconds = round(time.monotonic() - started, 1)
    entries = status_of(kits)
    if as_json:
        echo(json.dumps({"seconds": seconds, "participants": entries}, indent=2))
        return
    echo(f"{len(entries)} up in {seconds} s; end them with: pneumonia-fl down {shlex.quote(str(kits))}")
    for entry in entries:
        echo(f"log of {entry['name']}: {entry['log']}")


def _tell(console: "Console", text: str) -> None:
    """Print a line; a reader that has gone (`up | head -1`) must not end what has just been started."""
    with contextlib.suppress(SystemExit, BrokenPipeError):
        console.print(text, soft_wrap=True)


def down(kits: Kits = Path("kits"), yes: Yes = False, drain: Drain = False) -> None:
    """Stop the servers and sites of these kits, their jobs, and the MLflow server beside a server.

    Jobs running on a server end with it, so the command asks first. A waiting job starts after the next `up`.
    """
    from rich.text import Text

    from pneumonia_fl.fl.services.status import down as stop

    _let_jobs_end(kits, yes, drain)
    started = time.monotonic()
    with terminal(stderr=True).status(Text(f"ending the kits in {kits}")):
        ended = stop(kits)
    if not ended:
        echo(f"nothing was running in {kits}")
        return
    echo(f"ended {', '.join(ended)} in {time.monotonic() - started:.1f} s")


def _let_jobs_end(kits: Path, yes: bool, drain: bool) -> None:
    """Wait for the jobs that `down` would end, or have the person agree to their end."""
    from pneumonia_fl.errors import RunError
    from pneumonia_fl.fl.services.status import drain as wait
    from pneumonia_fl.fl.services.status import running_jobs

    if drain:
        wait(kits, lambda jobs: echo(f"waiting for {', '.join(map(str, jobs))}", err=True))
    jobs = [] if yes else running_jobs(kits)
    if not jobs:
        return
    what = f"{'a job runs' if len(jobs) == 1 else f'{len(jobs)} jobs run'} here: {', '.join(map(str, jobs))}"
    if not sys.stdin.isatty():
        raise RunError(f"{what}; --drain waits for the end, --yes ends now what runs")
    if not typer.confirm(printed(f"{what}. End now?"), err=True):
        raise RunError("nothing was ended; --drain waits until no job runs")


def status(kits: Kits = Path("kits"), as_json: Json = False) -> None:
    """Show whether the servers and sites of these kits are running; exit code 0 when all are.

    With a person's kit: ask the server which sites are registered.
    """
    from pneumonia_fl.fl.kit.startup_kit import find_kits
    from pneumonia_fl.fl.services.status import status as status_of

    found = find_kits(kits)
    if len(found) == 1 and found[0].kind == "admin":
        _show_server(found[0], as_json)
        return
    entries = status_of(kits)
    if as_json:
        echo(json.dumps(entries, indent=2))
    else:
        _show_participants(entries)
    if not all(entry["ready"] for entry in entries):
        raise typer.Exit(1)


def _show_server(person: "Kit", as_json: bool) -> None:
    from pneumonia_fl.fl.admin.kit_selection import identity
    from pneumonia_fl.fl.services.registration import ask

    echo(identity(person), err=True)
    answer = ask(person)
    if as_json:
        echo(json.dumps(answer, indent=2))
        return
    echo(f"server {answer['server']}: up")
    for site in answer["sites"]:
        echo(f"{site}: registered")


def _show_participants(entries: list[dict[str, Any]]) -> None:

    console = terminal()
    console.print(_table(entries))
    for entry in entries:
        if uri := entry.get("mlflow"):
            answer = "answers" if entry["mlflow_answers"] else "does not answer"
            console.print(f"MLflow of {entry['name']}: {uri} ({answer})", soft_wrap=True)


def _table(entries: list[dict[str, Any]]) -> "Table":
    from pneumonia_fl.cli.views.fitting import FittingTable

    titles = ("Name", "Kind", "State", "Since", "Process", "Port", "Jobs")
    table = FittingTable(*titles, drop=("Since", "Port", "Kind", "Jobs", "Process"))
    for entry in entries:
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(entry["since"])) if entry["since"] else ""
        table.add_row(
            entry["name"],
            entry["kind"],
            _state(entry),
            since,
            str(entry["pid"] or ""),
            str(entry.get("port", "")),
            ", ".join(entry["jobs"]),
        )
    return table


def _state(entry: dict[str, Any]) -> str:
    if not entry["running"]:
        return "not running"
    if entry["kind"] == "site" and not entry["connected"]:
        return "no connection"
    if not entry["ready"]:
        return "starting"
    return "up" if entry["kind"] == "server" else "registered"
