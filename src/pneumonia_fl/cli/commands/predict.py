"""`pneumonia-fl predict`: classify single images with a saved model."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pneumonia_fl import DISCLAIMER
from pneumonia_fl.cli.options import Json, Model
from pneumonia_fl.cli.views.terminal import echo, terminal
from pneumonia_fl.inputs.text import escaped

if TYPE_CHECKING:
    from pneumonia_fl.evaluation.predict import Prediction
    from pneumonia_fl.models.checkpoint import ModelCard

Images = Annotated[list[Path], typer.Argument(help="X-ray files: JPEG, PNG, TIFF, BMP, GIF, WebP or PNM.")]


def predict(model: Model, images: Images, as_json: Json = False) -> None:
    """Print the calibrated probability of pneumonia for each image, and the decision at the model's threshold.

    Exit code 1 when an image cannot be read; the others are still classified. Example:

        pneumonia-fl predict runs/demo xray-1.png xray-2.jpeg
    """
    from pneumonia_fl.cli.views.progress_bars import progress_bars
    from pneumonia_fl.evaluation.evaluate import model_folder
    from pneumonia_fl.evaluation.predict import predict
    from pneumonia_fl.models.checkpoint import load_model

    network, card = load_model(model_folder(model))
    with progress_bars(as_json or len(images) == 1) as progress:
        answers = list(predict(network, card, images, progress))
    if as_json:
        echo(json.dumps(_to_dict(card, answers), indent=2))
    else:
        _show(card, answers)
    failed = [answer for answer in answers if answer.error]
    for answer in failed:
        echo(f"error: {escaped(answer.image)}: {answer.error}", err=True)
    if failed:
        raise typer.Exit(1)


def _to_dict(card: "ModelCard", answers: "list[Prediction]") -> dict[str, object]:
    shared = card.model_dump(
        include={"job", "round", "threshold", "temperature", "offset", "operating_point"}
    )
    images = [
        {"image": escaped(a.image), "probability": a.probability, "answer": a.answer, "error": a.error}
        for a in answers
    ]
    return {**shared, "disclaimer": DISCLAIMER, "images": images}


def _show(card: "ModelCard", answers: "list[Prediction]") -> None:
    from pneumonia_fl.cli.views.fitting import FittingTable

    table = FittingTable(title=f"{card.job}, round {card.round}")
    table.add_column("Image")
    table.add_column("P(pneumonia)", justify="right")
    table.add_column("Answer")
    for one in answers:
        known = one.probability is not None
        table.add_row(
            escaped(one.image), f"{one.probability:.3f}" if known else "–", one.answer or "cannot be read"
        )
    rule = card.operating_point or "as the model card says"
    table.caption = f"Pneumonia from {card.threshold:.3f} on ({rule}). {DISCLAIMER}"
    terminal().print(table)
