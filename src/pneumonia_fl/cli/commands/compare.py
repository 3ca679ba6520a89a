"""`pneumonia-fl compare`: is the federated model worth it?"""

import json
from pathlib import Path
from typing import Annotated

import typer

from pneumonia_fl.cli.views.terminal import echo

DataOption = Annotated[
    Path,
    typer.Option("--data", help="Prepared data of all sites; private images need `data prepare --poolable`."),
]
Jobs = Annotated[
    str, typer.Option("--jobs", help="Federated jobs, separated by commas: job names or YAML files.")
]
Seeds = Annotated[
    int, typer.Option("--seeds", min=1, help="Number of random seeds per model; use at least 3.")
]
Out = Annotated[
    Path | None,
    typer.Option(
        "--out",
        help="Output folder; default: comparisons/DATA. An unfinished comparison in it is resumed.",
        show_default=False,
    ),
]
Rounds = Annotated[
    int | None, typer.Option("--rounds", "-r", min=1, help="Number of federated rounds of every job.")
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a setting of every job; repeatable."),
]
Alone = Annotated[
    bool,
    typer.Option("--alone/--no-alone", help="Also train a model at each site alone; slow with many sites."),
]
TableOnly = Annotated[
    bool,
    typer.Option(
        "--table-only", help="Train nothing; rebuild the table and the figures from the results in --out."
    ),
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

    All models share the network, the code and the number of optimizer steps. Validation data chooses the round and
    the threshold; the test split is only scored. The same command resumes an interrupted comparison. Private images
    are refused: a federation exists to avoid pooling them. Example:

        pneumonia-fl compare --data data/xrays --jobs fedavg,fedprox --seeds 3
    """
    from pneumonia_fl.fl.simulator.preload import begin_loading

    begin_loading()  # one warm process for all runs
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
