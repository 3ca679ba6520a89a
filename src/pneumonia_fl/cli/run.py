"""`pneumonia-fl run`: one federated job in NVFlare's simulator."""

import sys
from pathlib import Path
from typing import Annotated

import typer

JobName = Annotated[
    str, typer.Argument(metavar="JOB", help="A name in jobs/ (fedavg, smoke, …) or a path to a YAML file.")
]
Data = Annotated[Path | None, typer.Option("--data", help="Prepared data (`pneumonia-fl data prepare`).")]
Out = Annotated[
    Path | None,
    typer.Option("--out", help="Folder for the run; default: runs/JOB-DATE-TIME.", show_default=False),
]
Rounds = Annotated[
    int | None, typer.Option("--rounds", "--num_rounds", "-r", min=1, help="Federated rounds.")
]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Override a setting of the job, e.g. train.lr=0.001; repeatable."
    ),
]
Clients = Annotated[
    int | None,
    typer.Option("--clients", "--n_clients", "-n", min=1, help="Use only the first so many sites."),
]
JobFolder = Annotated[
    Path, typer.Option("--job-dir", "--export-dir", "-j", help="Where --export writes the NVFlare job.")
]
Workspace = Annotated[
    Path | None,
    typer.Option("--workspace", "-w", help="Folder in which run folders are made, in place of runs/."),
]
Export = Annotated[
    bool, typer.Option("--export", "--export_config", "-e", help="Only write the NVFlare job; do not run it.")
]
TrackingURI = Annotated[
    str | None,
    typer.Option("--tracking-uri", "--tracking_uri", "-t", help="MLflow server to log to, http(s)://…."),
]
LogConfig = Annotated[
    str | None,
    typer.Option(
        "--log-config", "--log_config", "-l", help="NVFlare's logs: concise, full, verbose, or a file."
    ),
]
Force = Annotated[bool, typer.Option("--force", help="Replace an earlier run in --out.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON, and nothing else.")]


def run(
    job: JobName,
    data: Data = None,
    out: Out = None,
    rounds: Rounds = None,
    overrides: Overrides = None,
    clients: Clients = None,
    job_dir: JobFolder = Path("fl_job"),
    workspace: Workspace = None,
    export: Export = False,
    tracking_uri: TrackingURI = None,
    log_config: LogConfig = None,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Train one model over several sites in the simulator, and show how it went.

    Without --data, a job with a `synthetic` section makes its own X-rays. Example:

        pneumonia-fl run fedavg --data data/xray --rounds 10 --set train.lr=0.001
    """
    from pneumonia_fl.fl.session import Request, export_only, run_simulation

    request = Request(
        job=job,
        data=data,
        out=out,
        runs=workspace or Path("runs"),
        overrides=_all_overrides(overrides or [], rounds, tracking_uri),
        clients=clients,
        log_config=log_config,
        force=force,
    )
    if export:
        sys.argv[1:] = []  # NVFlare would take --export from here for itself, and warn
        typer.echo(f"NVFlare job: {export_only(request, job_dir)}")
        return
    from pneumonia_fl.cli.live import RunView

    with RunView(quiet=as_json) as view:
        finished = run_simulation(request, view)
    view.show_result(finished, as_json)


def _all_overrides(overrides: list[str], rounds: int | None, tracking_uri: str | None) -> list[str]:
    extra = [f"rounds={rounds}"] if rounds else []
    extra += [f"mlflow.tracking_uri={tracking_uri}"] if tracking_uri else []
    return [*overrides, *extra]
