"""`pneumonia-fl runs` and `pneumonia-fl ui`: list runs, and open one in TensorBoard or MLflow."""

import json
import time
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal

import typer

from pneumonia_fl.cli.views.terminal import echo, terminal
from pneumonia_fl.errors import RunError

Root = Annotated[Path, typer.Option("--root", help="Folder that contains the run folders.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")]


RUNS = Path("runs")
"""Where runs are made; before the first one it need not be there."""


class Tool(StrEnum):
    """A program that shows a run."""

    tensorboard = "tensorboard"
    mlflow = "mlflow"


def runs(root: Root = RUNS, as_json: Json = False) -> None:
    """List the runs in a folder with job, start, state and the AUROC of the best model."""
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
    tool: Annotated[Tool, typer.Argument(help="Program to open.")],
    run: Annotated[
        Path, typer.Argument(help="Folder of a run or a sweep, or the startup kit of a server or site.")
    ],
    port: Annotated[
        int | None,
        typer.Option(
            help="Port to listen on; 0: any free port. Default: 6006 (TensorBoard) or 5000 (MLflow), else a free port.",
            min=0,
            max=65535,
            show_default=False,
        ),
    ] = None,
    host: Annotated[
        str,
        typer.Option(help="Address to listen on; the default accepts connections from this machine only."),
    ] = "127.0.0.1",
) -> None:
    """Open TensorBoard or MLflow on a run until Ctrl-C; with a server's kit, TensorBoard on all its jobs.

    Prints the address as soon as it answers. Viewing a run changes nothing in it. The MLflow server of a federation
    runs already: with the server's kit, prints its address and the file that contains its password.
    """
    from pneumonia_fl.fl.services.viewer import show

    if tool is Tool.mlflow and (run / "startup").is_dir():
        echo(_mlflow_of_server(run))
        return
    name: Literal["tensorboard", "mlflow"] = "mlflow" if tool is Tool.mlflow else "tensorboard"
    raise typer.Exit(show(name, run, port, host, lambda text: echo(text, err=True)))


def _mlflow_of_server(folder: Path) -> str:
    """Return the address of a server's MLflow and the place of its login; never the password itself."""
    from pneumonia_fl.fl.services.mlflow_server import address_and_login

    uri, user, password_file = address_and_login(folder)
    login = f"\nuser: {user}\npassword: in {password_file}" if password_file else ""
    return f"MLflow: {uri}{login}"
