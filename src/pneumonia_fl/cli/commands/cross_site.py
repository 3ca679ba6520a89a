"""`pneumonia-fl cross-site`: evaluate saved models at every site."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pneumonia_fl.cli.options import Kit, Sites, Study, Timeout, names
from pneumonia_fl.cli.saved_models import Judges, ask_sites
from pneumonia_fl.cli.views.terminal import echo, terminal
from pneumonia_fl.errors import ConfigError, RunError
from pneumonia_fl.inputs.paths import missing

if TYPE_CHECKING:
    from pneumonia_fl.runs.folder import RunFolder

Target = Annotated[
    str, typer.Argument(metavar="RUN|ID", help="A run folder, or the id of a job on the server.")
]
Models = Annotated[
    str | None,
    typer.Option(
        "--models",
        help="Models, separated by commas: best, last, or a site's name for its own model. Default: best,last.",
        show_default=False,
    ),
]
Data = Annotated[
    Path | None,
    typer.Option(
        "--data", help="Prepared data: evaluate at its sites, in the simulator.", show_default=False
    ),
]
Out = Annotated[
    Path | None,
    typer.Option(
        "--out", help="With ID: output folder of the run; default: runs/JOB-ID.", show_default=False
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print the matrix as JSON, and nothing else.")]


def cross_site(
    target: Target,
    kit: Kit = None,
    data: Data = None,
    models: Models = None,
    sites: Sites = None,
    study: Study = "default",
    out: Out = None,
    timeout: Timeout = None,
    as_json: Json = False,
) -> None:
    """Evaluate a run's models on the validation images of every site, as a matrix of models by sites.

    The matrix replaces the one in the run folder (`cross_site.json`, `.csv` and the heat map); the journal keeps the
    run's own. With ID, the job's result is downloaded first if it is not there yet. Examples:

        pneumonia-fl cross-site runs/demo --data data/demo --models best,site-1

        pneumonia-fl cross-site 1a2b3c4d --kit kits/lead@consortium.org --sites asia-hospital
    """
    from pneumonia_fl.fl.simulator.evaluation_job import evaluation_job, model_paths, subject
    from pneumonia_fl.results.cross_site_files import write_matrix

    run = _run(target, kit, study, out, as_json)
    subjects = [subject(name, path) for name, path in model_paths(run, names(models)).items()]
    judges = Judges(_place(run, data, kit), kit, study, names(sites), timeout, as_json)
    judged = ask_sites(evaluation_job("cross_site", subjects, "val", intervals=False), subjects, judges)
    if found := write_matrix(run, judged.events):
        if as_json:
            echo(json.dumps(found, indent=2))
        else:
            _show(run, found)
        _renew_report(run, as_json)
    judged.check()


def _run(target: str, kit: Path | None, study: str, out: Path | None, quiet: bool) -> "RunFolder":
    """Return the named run folder, or that of a job's result, which is downloaded if it is missing."""
    from pneumonia_fl.runs.folder import RunFolder

    if RunFolder(Path(target)).is_run:
        return RunFolder(Path(target))
    if Path(target).exists():
        raise RunError(f"{target} is not a run folder; `pneumonia-fl runs` lists the runs")
    if "/" in target:  # no job's id has one
        raise RunError(missing(Path(target), "`pneumonia-fl runs` lists the runs"))
    from pneumonia_fl.cli.kit_commands.jobs import session
    from pneumonia_fl.fl.admin.download import download, run_path

    with session(kit, study, quiet, acts=True) as (admin, view):
        job = admin.job(admin.find(target))
        place = RunFolder(out or run_path(Path("runs"), job))
        if place.is_run and place.state().get("job_id") == job.id:
            return place
        return download(admin, job.id, place.path, progress=view.progress)


def _place(run: "RunFolder", data: Path | None, kit: Path | None) -> Path | None:
    """Return the prepared data whose sites evaluate; None when real sites do."""
    if data is not None and kit is not None:
        raise ConfigError("--data is for the simulator, --kit for hospitals; give one")
    if data is not None or kit is not None or "job_id" in run.state():
        return data
    own = run.path / "data"
    if not own.is_dir():
        raise ConfigError("say who evaluates: --data DIR for the simulator, or --kit KIT for the hospitals")
    return own


def _renew_report(run: "RunFolder", quiet: bool) -> None:
    """Rebuild an existing report, since it shows the matrix too."""
    from pneumonia_fl.cli.commands.report import refresh

    report = refresh(run.path)
    if report and not quiet:
        echo(f"report: {report} (made again with this matrix)")


def _show(run: "RunFolder", found: dict[str, object]) -> None:
    from pneumonia_fl.cli.views.terminal_tables import matrix_table

    terminal().print(matrix_table(found))
    missing = found["missing"]
    assert isinstance(missing, dict)
    for site, reason in missing.items():
        echo(f"- {site}: {reason}")
    echo(str(run.cross_site))
