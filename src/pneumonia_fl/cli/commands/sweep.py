"""`pneumonia-fl sweep`: compare settings of a job on validation data."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pneumonia_fl import DISCLAIMER
from pneumonia_fl.cli.options import Data, Json
from pneumonia_fl.cli.settings import all_overrides
from pneumonia_fl.cli.views.terminal import echo, terminal
from pneumonia_fl.errors import RunError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from pneumonia_fl.cli.views.run_view import RunView
    from pneumonia_fl.experiments.sweep import Point

JobName = Annotated[str, typer.Argument(metavar="JOB", help="Job name in jobs/, or path to a YAML file.")]
Grid = Annotated[
    list[str],
    typer.Option(
        "--grid",
        metavar="KEY=V1,V2",
        help="Values of one setting; repeatable, all combinations are run. A single value applies to all points.",
    ),
]
Out = Annotated[
    Path | None,
    typer.Option("--out", help="Output folder (default: sweeps/JOB). An unfinished sweep in it is resumed."),
]
TrackingURI = Annotated[
    str | None,
    typer.Option(
        "--tracking-uri", help="MLflow server to log to; default: a database file in the output folder."
    ),
]
Yes = Annotated[bool, typer.Option("--yes", help="Allow more than 24 combinations.")]


def sweep(
    job: JobName,
    grid: Grid,
    data: Data = None,
    out: Out = None,
    tracking_uri: TrackingURI = None,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Run a job at every point of a small grid, one after another, and rank the points by pooled validation AUROC.

    All points are checked before the first one runs. The same command resumes an interrupted sweep. Exit code 1 when
    a point did not finish. Example:

        pneumonia-fl sweep fedprox --grid train.lr=0.001,0.002 --grid algorithm.mu=0.01,0.1 --data data/xrays
    """
    from pneumonia_fl.fl.simulator.preload import begin_loading

    begin_loading()  # one warm process for all runs
    from pneumonia_fl.cli.views.run_view import RunView
    from pneumonia_fl.experiments.sweep import parse_grid, run_sweep
    from pneumonia_fl.fl.simulator.simulation import Request

    said = terminal(stderr=True, quiet=as_json)

    def show(number: int, total: int, point: "Point") -> "RunView":
        said.print(f"point {number} of {total}: {' '.join(point.words)}", style="bold", soft_wrap=True)
        return RunView(quiet=as_json)

    request = Request(job, data, out, overrides=all_overrides(None, mlflow__tracking_uri=tracking_uri))
    folder, summary = run_sweep(request, parse_grid(grid), show, yes)
    if as_json:
        echo(json.dumps({"sweep": str(folder), **summary}, indent=2))
    else:
        _print(terminal(), folder, summary)
    if lost := [row["name"] for row in summary["points"] if row["state"] != "finished"]:
        raise RunError(f"{len(lost)} of {len(summary['points'])} points did not finish: {', '.join(lost)}")


def _print(console: "Console", folder: Path, summary: dict[str, Any]) -> None:
    """Print the ranking, the paths, and the command that opens MLflow on the sweep."""
    from pneumonia_fl.cli.views.run_view import viewer_command
    from pneumonia_fl.experiments.sweep import ranked

    console.print(_table(summary["grid"], ranked(summary)))
    for row in summary["points"]:
        if row["state"] != "finished":
            console.print(f"{row['name']} {row['state']}: {row['reason']}", style="yellow", soft_wrap=True)
    mlflow = summary["mlflow"]
    lines = {"sweep": folder, "best point": folder / summary["best"], "MLflow": mlflow["uri"]}
    if mlflow["uri"].startswith("sqlite"):
        lines["MLflow"] = viewer_command("mlflow", folder)
    if mlflow["error"]:
        lines["MLflow"] = f"did not take everything: {mlflow['error']}"
    for name, text in lines.items():
        console.print(f"{name + ':':<13}{text}", soft_wrap=True)
    console.print(DISCLAIMER, style="dim")


def _table(grid: Mapping[str, list[str]], rows: list[dict[str, Any]]) -> "Table":
    """Build the table of points; a setting that all points share goes into the caption."""
    from pneumonia_fl.cli.views.fitting import FittingTable
    from pneumonia_fl.metrics.binary import COLUMN_NAMES, LEADING

    varied = [key for key, values in grid.items() if len(values) > 1]
    title = "Validation of the best round, all sites pooled (threshold 0.5)"
    drop = ("Seconds", "Round", "State", "Specificity", "Sensitivity")
    table = FittingTable("Point", *varied, drop=drop, title=title)
    for title in (*(COLUMN_NAMES[key] for key in LEADING), "Round", "Seconds", "State"):
        table.add_column(title, justify="right")
    for row in rows:
        values = row["validation"] or {}
        measured = [values.get(key) for key in LEADING]
        shown = ["n/a" if value is None else f"{value:.4f}" for value in measured]
        rest = ["" if row[key] is None else f"{row[key]:.0f}" for key in ("best_round", "seconds")]
        settings = [row["settings"][key] for key in varied]
        table.add_row(row["name"], *settings, *shown, *rest, row["state"])
    same = [f"{key}={values[0]}" for key, values in grid.items() if len(values) == 1]
    everywhere = f"All points: {' '.join(same)}. " if same else ""
    table.caption = f"{everywhere}Chosen on validation; the test split was not read."
    return table
