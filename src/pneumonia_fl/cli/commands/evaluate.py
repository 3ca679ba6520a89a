"""`pneumonia-fl evaluate`: how good is a model on a data source, or at the hospitals?"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pneumonia_fl.cli.options import Json, Kit, Model, Sites, Study, Timeout, names
from pneumonia_fl.cli.saved_models import Judges, ask_sites
from pneumonia_fl.cli.views.terminal import echo, terminal
from pneumonia_fl.errors import ConfigError
from pneumonia_fl.inputs.paths import expanded

if TYPE_CHECKING:
    from pneumonia_fl.evaluation.evaluate import Evaluation

SourceOption = Annotated[
    str | None,
    typer.Option(
        "--source",
        help="Prepared data, a folder or zip in the Kaggle layout, a MedMNIST .npz, or `synthetic`.",
        show_default=False,
    ),
]
SplitOption = Annotated[
    str, typer.Option("--split", help="Split to read: train, val or test; at sites only val or test.")
]
Federated = Annotated[
    bool,
    typer.Option(
        "--federated",
        help="With --source: evaluate at each site of the prepared data, in the simulator. Implied by --kit.",
    ),
]


def evaluate(
    model: Model,
    source: SourceOption = None,
    split: SplitOption = "test",
    kit: Kit = None,
    federated: Federated = False,
    sites: Sites = None,
    study: Study = "default",
    timeout: Timeout = None,
    as_json: Json = False,
) -> None:
    """Evaluate a model on one split of a data source or of the sites, with 95 % confidence intervals by patient.

    Uses the model's own threshold and calibration, which were fitted on validation data, and prints below the table
    whether they hold on this split. The result is saved in the run's `evaluations/`, which counts how often each
    split was read: read the test split once, at the end. With --kit the model is sent to the sites, and only counts
    come back: no image and no score of an image. Examples:

        pneumonia-fl evaluate runs/demo --source data/demo --split test

        pneumonia-fl evaluate runs/first --kit kits/lead@consortium.org
    """
    if kit is None and not federated:
        if source is None or sites or timeout:
            raise ConfigError("name the images: --source DATA, or the hospitals: --kit KIT")
        result = _on_this_machine(model, source, split, as_json)
        _keep_and_show(model, result, as_json)
        return
    if kit is not None and source is not None:
        raise ConfigError("--source is for images on this machine, --kit for those of hospitals; give one")
    data = expanded(source) if source else None
    _at_sites(model, split, Judges(data, kit, study, names(sites), timeout, as_json))


def _on_this_machine(model: Path, source: str, split: str, quiet: bool) -> "Evaluation":
    from pneumonia_fl.cli.views.progress_bars import progress_bars
    from pneumonia_fl.evaluation.evaluate import evaluate_source

    with progress_bars(quiet) as progress:
        return evaluate_source(model, source, split, progress)


def _at_sites(model: Path, split: str, judges: Judges) -> None:
    from pneumonia_fl.fl.simulator.evaluation_job import evaluation_job, found_of, subject

    one = subject("model", model)
    judged = ask_sites(evaluation_job("evaluate", [one], split, intervals=True), [one], judges)
    result = found_of(one, judged.events)
    if result is not None:
        _keep_and_show(model, result, judges.quiet)
    judged.check()


def _keep_and_show(model: Path, result: "Evaluation", as_json: bool) -> None:
    from pneumonia_fl.errors import OutputError
    from pneumonia_fl.evaluation.evaluate import keep

    try:
        times = keep(model, result)
    except OutputError as error:
        times = None
        echo(f"warning: this evaluation is not kept: {error}", err=True)
    if as_json:
        echo(json.dumps(result.to_dict(), indent=2))
    else:
        _show(result, times)
    if times:
        _renew_report(model, as_json)


def _renew_report(model: Path, as_json: bool) -> None:
    """Rebuild an existing report with the new evaluation; without a report, print how to make one."""
    import shlex

    from pneumonia_fl.cli.commands.report import refresh
    from pneumonia_fl.evaluation.evaluate import run_of

    run = run_of(model)
    if run is None:
        return
    if report := refresh(run.path):
        said = f"report: {report} (made again with this evaluation)"
    else:
        said = f"- on one page with everything else: pneumonia-fl report {shlex.quote(str(run.path))}"
    if not as_json:
        echo(said)


def _show(result: "Evaluation", times: int | None) -> None:
    from pneumonia_fl.cli.views.terminal_tables import evaluation_table, sites_table
    from pneumonia_fl.metrics.calibration import shift_notes

    terminal().print(evaluation_table(result))
    if result.sites:
        terminal().print(sites_table(result))
    for site, values in result.sites.items():
        if values["readings"] > 1:
            echo(f"- {site} has had its split {result.split} read {values['readings']} times by now")
    for site, reason in result.missing.items():
        echo(f"- {site}: {reason}")
    for note in shift_notes(result.to_dict()):
        echo(f"- {note}")
    if times:
        often = "for the first time" if times == 1 else f"{times} times now"
        echo(f"- this run has read split {result.split} of {result.source} {often}")
