"""`pneumonia-fl evaluate`: how good is a model on a data source?"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pneumonia_fl.cli.terminal import echo, terminal

if TYPE_CHECKING:
    from pneumonia_fl.evaluation import Evaluation

Model = Annotated[Path, typer.Argument(help="A run folder, a model folder, or a .safetensors/.pt file.")]
SourceOption = Annotated[
    str,
    typer.Option(
        "--source",
        help="Prepared data, a folder or zip in the Kaggle layout, a MedMNIST .npz, `synthetic`.",
    ),
]
SplitOption = Annotated[str, typer.Option("--split", help="train, val or test.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON, and nothing else.")]


def evaluate(model: Model, source: SourceOption, split: SplitOption = "test", as_json: Json = False) -> None:
    """Score a model on one split of a data source, with 95 % confidence intervals by patient.

    Threshold and calibration are the model's own, fitted on validation data; what becomes of them here is said
    below the table. The result is kept in the run's `evaluations/`, where everybody sees how often a split was
    read: read the test split once, at the end. Example:

        pneumonia-fl evaluate runs/demo --source data/demo --split test
    """
    from pneumonia_fl.cli.progress import progress_bars
    from pneumonia_fl.errors import OutputError
    from pneumonia_fl.evaluation import evaluate_source, keep

    with progress_bars(as_json) as progress:
        result = evaluate_source(model, source, split, progress)
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
    """A report that says what was known before is made again; where there is none, how to make it is printed."""
    import shlex

    from pneumonia_fl.cli.report import refresh
    from pneumonia_fl.evaluation import run_of
    from pneumonia_fl.report import REPORT

    run = run_of(model)
    if run is None:
        return
    if (run.path / REPORT).is_file() and refresh(run.path):
        said = f"report: {run.path / REPORT} (made again with this evaluation)"
    else:
        said = f"- on one page with everything else: pneumonia-fl report {shlex.quote(str(run.path))}"
    if not as_json:
        echo(said)


def _show(result: "Evaluation", times: int | None) -> None:
    from pneumonia_fl.calibration import shift_notes
    from pneumonia_fl.cli.tables import evaluation_table

    terminal().print(evaluation_table(result))
    for note in shift_notes(result.to_dict()):
        echo(f"- {note}")
    if times:
        often = "for the first time" if times == 1 else f"{times} times now"
        echo(f"- this run has read split {result.split} of {result.source} {often}")
