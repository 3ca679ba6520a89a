"""`pneumonia-fl compare`: is the federated model worth it?"""

import json
from pathlib import Path
from typing import Annotated

import typer

from pneumonia_fl.cli.views.terminal import echo

DataOption = Annotated[
    Path, typer.Option("--data", help="Prepared data of all sites, which may be brought together.")
]
Jobs = Annotated[str, typer.Option("--jobs", help="Federated jobs, separated by commas: names or files.")]
Seeds = Annotated[int, typer.Option("--seeds", min=1, help="Trainings of everything; 3 is the least.")]
Out = Annotated[
    Path | None,
    typer.Option("--out", help="Folder of the comparison; default: comparisons/DATA.", show_default=False),
]
Rounds = Annotated[int | None, typer.Option("--rounds", "-r", min=1, help="Federated rounds of every job.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a setting of every job; repeatable."),
]
Alone = Annotated[
    bool,
    typer.Option("--alone/--no-alone", help="Train every site alone too; with many sites that takes long."),
]
TableOnly = Annotated[
    bool,
    typer.Option("--table-only", help="Train nothing: make table and figure anew from --out's raw numbers."),
]
Json = Annotated[bool, typer.Option("--json", help="Print the summary as JSON, and nothing else.")]


def compare(
    data: DataOption,
    jobs: Jobs = "fedavg",
    seeds: Seeds = 3,
    out: Out = None,
    rounds: Rounds = None,
    overrides: Overrides = None,
    alone: Alone = True,
    table_only: TableOnly = False,
    as_json: Json = False,
) -> None:
    """Compare central training, every site alone and federated jobs on the same test images.

    Same model, same code, same number of optimiser steps; validation chooses the round and the threshold, the test
    split is only scored. Killed or stopped, the same command goes on where it was. Images that may be private are
    refused: bringing them together is what a federation avoids. Example:

        pneumonia-fl compare --data data/xrays --jobs fedavg,fedprox --seeds 3
    """
    from pneumonia_fl.cli.views.compare_view import CompareView, show_comparison
    from pneumonia_fl.experiments.compare.compare_run import CompareRequest, write_summary
    from pneumonia_fl.experiments.compare.compare_run import compare as run_comparison

    folder = out or Path("comparisons") / data.absolute().name
    request = CompareRequest(
        data=data,
        jobs=[name.strip() for name in jobs.split(",") if name.strip()],
        seeds=seeds,
        overrides=[*(overrides or []), *([f"rounds={rounds}"] if rounds else [])],
        alone=alone,
        out=folder.absolute(),
    )
    with CompareView(quiet=as_json) as view:
        summary = write_summary(request.out, view) if table_only else run_comparison(request, view)
    if as_json:
        echo(json.dumps({"comparison": str(request.out), **summary}, indent=2))
    else:
        show_comparison(summary, request.out)
