"""`pneumonia-fl run`: one federated job, in NVFlare's simulator or on a real server."""

import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pneumonia_fl.cli.options import Data, Force, Json
from pneumonia_fl.cli.settings import InitFrom, all_overrides
from pneumonia_fl.cli.views.terminal import echo
from pneumonia_fl.errors import ConfigError
from pneumonia_fl.inputs.paths import expanded

if TYPE_CHECKING:
    from pneumonia_fl.fl.admin.production_run import ProdRunRequest
    from pneumonia_fl.fl.simulator.simulation import Request

JobName = Annotated[
    str | None,
    typer.Argument(
        metavar="JOB",
        help="Job name in jobs/ (fedavg, smoke, …), or path to a YAML file.",
        show_default=False,
    ),
]
From = Annotated[
    Path | None,
    typer.Option(
        "--from",
        metavar="RUN",
        help="Repeat the run in this folder on the same data and compare the metrics; takes the place of JOB.",
        show_default=False,
    ),
]
Out = Annotated[
    Path | None,
    typer.Option("--out", help="Output folder; default: runs/JOB-DATE-TIME.", show_default=False),
]
Rounds = Annotated[
    int | None, typer.Option("--rounds", "--num_rounds", "-r", min=1, help="Number of federated rounds.")
]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Override a setting of the job, e.g. train.lr=0.001; repeatable."
    ),
]
Clients = Annotated[
    int | None,
    typer.Option("--clients", "--n_clients", "-n", min=1, help="Use only the first N sites."),
]
JobFolder = Annotated[
    Path,
    typer.Option("--job-dir", "--export-dir", "-j", help="Folder for the NVFlare job that --export writes."),
]
Workspace = Annotated[
    Path | None,
    typer.Option("--workspace", "-w", help="Parent folder of new run folders; default: runs/."),
]
Export = Annotated[
    bool, typer.Option("--export", "--export_config", "-e", help="Write the NVFlare job and do not run it.")
]
TrackingURI = Annotated[
    str | None,
    typer.Option("--tracking-uri", "--tracking_uri", "-t", help="MLflow server to log to, http(s)://…."),
]
LogConfig = Annotated[
    str | None,
    typer.Option(
        "--log-config",
        "--log_config",
        "-l",
        help="NVFlare's log configuration: concise, full, verbose, or a file.",
    ),
]
Kit = Annotated[
    Path | None,
    typer.Option(
        "--kit",
        help="With --env prod: your startup kit; default: $PNEUMONIA_FL_KIT.",
        show_default=False,
    ),
]
Study = Annotated[str, typer.Option("--study", help="With --env prod: name of the NVFlare study.")]
ShipCode = Annotated[
    bool,
    typer.Option(
        "--ship-code", help="With --env prod: send this package's code with the job; strict sites refuse it."
    ),
]


class Env(StrEnum):
    """Execution environment of a job."""

    sim = "sim"
    prod = "prod"


Environment = Annotated[
    Env, typer.Option("--env", help="sim: the simulator on this machine; prod: a real server and its sites.")
]


def run(
    job: JobName = None,
    data: Data = None,
    earlier: From = None,
    out: Out = None,
    rounds: Rounds = None,
    overrides: Overrides = None,
    init_from: InitFrom = None,
    clients: Clients = None,
    job_dir: JobFolder = Path("fl_job"),
    workspace: Workspace = None,
    export: Export = False,
    tracking_uri: TrackingURI = None,
    log_config: LogConfig = None,
    force: Force = False,
    env: Environment = Env.sim,
    kit: Kit = None,
    study: Study = "default",
    ship_code: ShipCode = False,
    as_json: Json = False,
) -> None:
    """Train one model over several sites, in the simulator or on a real server, and print its metrics by round.

    Without --data, a job with a `synthetic` section generates its own X-rays in the simulator. Examples:

        pneumonia-fl run fedavg --data data/xrays --rounds 10 --set train.lr=0.001

        pneumonia-fl run fedavg --env prod --kit kits/lead@consortium.org

        pneumonia-fl run --from runs/fedavg-20261122-140000 --data data/xrays
    """
    changes = all_overrides(overrides, rounds=rounds, mlflow__tracking_uri=tracking_uri, init_from=init_from)
    runs = workspace or Path("runs")
    _check_what(job, earlier, bool(changes or clients or export or env is Env.prod))
    if env is Env.prod:
        from pneumonia_fl.cli.kit_commands.jobs import chosen_kit
        from pneumonia_fl.fl.admin.production_run import ProdRunRequest
        from pneumonia_fl.fl.admin.submit import JobRequest

        _check_for_server(clients, log_config, export)
        prod_job = JobRequest(str(job), changes, data, ship_code)
        _run_prod(ProdRunRequest(chosen_kit(kit, acts=True), study, prod_job, out, runs, force), as_json)
        return
    from pneumonia_fl.fl.simulator.preload import begin_loading
    from pneumonia_fl.fl.simulator.simulation import Request, run_simulation

    log = str(expanded(log_config)) if log_config else None
    request = Request(str(job), data, out, runs, changes, clients, log, force)
    if export:
        _export(request, job_dir)
        return
    begin_loading()  # seconds of work for another core, while this one checks the request
    if earlier is not None:
        _repeat(earlier, request, as_json)
        return
    from pneumonia_fl.cli.views.run_view import RunView

    with RunView(quiet=as_json) as view:
        finished = run_simulation(request, view)
    view.show_result(finished, as_json)


def _export(request: "Request", folder: Path) -> None:
    """Write the NVFlare job, and beside it what NVFlare's own simulator needs."""
    from pneumonia_fl.fl.simulator.simulation import export_only
    from pneumonia_fl.fl.simulator.stock import write_workspace

    sys.argv[1:] = []  # NVFlare would take --export from here for itself, and warn
    job = export_only(request, folder)
    write_workspace(job.parent)
    echo(f"NVFlare job: {job}")


def _check_what(job: str | None, earlier: Path | None, changed: bool) -> None:
    """Require either a job or a run to repeat, and refuse changes to a repeated run."""
    if earlier is not None and (job or changed):
        raise ConfigError(
            "--from repeats a run as it was: JOB, --set, --rounds, --init-from, --clients, --tracking-uri, --export "
            "and --env prod do not go with it; to change something, run the job itself"
        )
    if earlier is None and job is None:
        raise ConfigError("name a job (pneumonia-fl run fedavg), or a run to repeat (--from RUN)")


def _check_for_server(*simulators_own: object) -> None:
    if any(simulators_own):
        raise ConfigError("--clients, --log-config and --export are for the simulator, not for --env prod")


def _repeat(folder: Path, request: "Request", as_json: bool) -> None:
    """Run again, compare; exit code 1 when one machine gives two answers."""
    from pneumonia_fl.cli.views.run_view import RunView
    from pneumonia_fl.errors import RunError
    from pneumonia_fl.experiments.repeat import repeat_run, warnings
    from pneumonia_fl.runs.folder import RunFolder

    earlier = RunFolder.open(folder)
    for warning in warnings(earlier):
        echo(f"warning: {warning}", err=True)
    with RunView(quiet=as_json) as view:
        finished, found = repeat_run(earlier, request, view)
    view.show_result(finished, as_json)
    if found.same_machine and not found.within:
        raise RunError(f"{found.text}; see docs/reproducibility.md")
    echo(found.text, err=as_json)


def _run_prod(request: "ProdRunRequest", as_json: bool) -> None:
    """Submit, watch and download; the exit code says how the job ended."""
    from pneumonia_fl.cli.views.job_view import JobView
    from pneumonia_fl.cli.views.run_view import RunView
    from pneumonia_fl.fl.admin.production_run import run_prod

    with JobView(quiet=as_json) as view:
        done = run_prod(request, view)
    if done.run is not None and done.run.metrics()["rounds"]:
        RunView(quiet=as_json).show_result(done.run, as_json)
    done.ending.check()
