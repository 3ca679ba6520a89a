"""`pneumonia-fl runs` and `pneumonia-fl ui`: look at what was run."""

import json
import time
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal

import typer

from pneumonia_fl.cli.views.terminal import echo, terminal
from pneumonia_fl.errors import RunError

Root = Annotated[Path, typer.Option("--root", help="Folder that holds the run folders.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")]


RUNS = Path("runs")
"""Where runs are made; before the first one it need not be there."""


class Tool(StrEnum):
    """A program that shows a run."""

    tensorboard = "tensorboard"
    mlflow = "mlflow"


def runs(root: Root = RUNS, as_json: Json = False) -> None:
    """List the runs below a folder: when, which job, how it ended, how good its best model is."""
    from pneumonia_fl.inputs.paths import missing
    from pneumonia_fl.runs.listing import list_runs

    if not root.is_dir() and root != RUNS:
        raise RunError(missing(root) if not root.exists() else f"{root} is no folder")
    found = list_runs(root)
    if as_json:
        echo(json.dumps(found, indent=2))
        return
    if not found:
        echo(f"no runs in {root.absolute()}; start one with `pneumonia-fl run smoke`")
        return
    from pneumonia_fl.cli.views.fitting import FittingTable

    titles = ("Run", "Job", "Started", "State", "Rounds", "Sites", "Best AUROC")
    table = FittingTable(*titles, drop=("Sites", "Rounds", "Started", "Job", "State"))
    for run in found:
        started = run["started"] and time.strftime("%Y-%m-%d %H:%M", time.localtime(run["started"]))
        best = "n/a" if run["best_auroc"] is None else f"{run['best_auroc']:.4f}"
        cells = (run["name"], run["job"], started, run["state"], run["rounds"], run["sites"])
        table.add_row(*("–" if cell is None else str(cell) for cell in cells), best)
    console = terminal()
    console.print(table)
    for run in found:
        if run["reason"]:
            console.print(f"{run['name']} damaged: {run['reason']}", style="yellow", soft_wrap=True)


def ui(
    tool: Annotated[Tool, typer.Argument(help="Which program to open.")],
    run: Annotated[
        Path, typer.Argument(help="A folder of a run or a sweep; or a server's or site's startup kit.")
    ],
    port: Annotated[
        int | None,
        typer.Option(
            help="Port; 0: any free one. Default: 6006 for TensorBoard, 5000 for MLflow, or a free one.",
            min=0,
            max=65535,
            show_default=False,
        ),
    ] = None,
    host: Annotated[
        str, typer.Option(help="Address to listen on; the default is this machine only.")
    ] = "127.0.0.1",
) -> None:
    """Open TensorBoard or MLflow on one run, until Ctrl-C; TensorBoard also on all jobs of a server, running or done.

    The address is printed when it answers; looking at a run changes nothing in it. A server's MLflow runs beside it:
    of a server's kit, print its address, and where its password lies.
    """
    from pneumonia_fl.fl.services.viewer import show

    if tool is Tool.mlflow and (run / "startup").is_dir():
        echo(_mlflow_of_server(run))
        return
    name: Literal["tensorboard", "mlflow"] = "mlflow" if tool is Tool.mlflow else "tensorboard"
    raise typer.Exit(show(name, run, port, host, lambda text: echo(text, err=True)))


def _mlflow_of_server(folder: Path) -> str:
    """Where a server's MLflow is, and where its login lies; never the password itself."""
    from pneumonia_fl.fl.services.mlflow_server import address_and_login

    uri, user, password_file = address_and_login(folder)
    login = f"\nuser: {user}\npassword: in {password_file}" if password_file else ""
    return f"MLflow: {uri}{login}"
