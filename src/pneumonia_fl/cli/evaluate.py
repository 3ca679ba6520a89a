"""`pneumonia-fl evaluate`: how good is a model on a data source?"""

import json
from pathlib import Path
from typing import Annotated

import typer

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

    Read the test split once, at the end. Example:

        pneumonia-fl evaluate runs/demo --source data/demo --split test
    """
    from pneumonia_fl.cli.progress import progress_bars
    from pneumonia_fl.evaluation import evaluate_source

    with progress_bars(as_json) as progress:
        result = evaluate_source(model, source, split, progress)
    if as_json:
        typer.echo(json.dumps(result.to_dict(), indent=2))
        return
    from rich.console import Console

    from pneumonia_fl.cli.tables import evaluation_table

    Console().print(evaluation_table(result))
