"""`pneumonia-fl report`: one page about a run or a comparison."""

import json
from pathlib import Path
from typing import Annotated

import typer

from pneumonia_fl.cli.options import Json
from pneumonia_fl.cli.views.terminal import echo, terminal

Folder = Annotated[Path, typer.Argument(metavar="RUN|COMPARE", help="A run folder or a comparison folder.")]
Out = Annotated[
    Path | None,
    typer.Option("--out", help="HTML file to write; default: report.html in the folder.", show_default=False),
]
Gallery = Annotated[
    str | None,
    typer.Option(
        "--gallery",
        metavar="SOURCE",
        help="Also show the model's most confident mistakes on this local data (prepared data, a zip, …). The page "
        "then contains patients' images and must not leave the site.",
        show_default=False,
    ),
]
GallerySplit = Annotated[
    str, typer.Option("--split", help="With --gallery: split to read, train, val or test.")
]


def report(
    folder: Folder,
    out: Out = None,
    gallery: Gallery = None,
    split: GallerySplit = "val",
    as_json: Json = False,
) -> None:
    """Write an HTML report about a run or a comparison, and the model card of a run beside it.

    The page needs no network and contains no image of a patient unless --gallery is given. It lists missing files.

        pneumonia-fl report runs/demo
    """
    from pneumonia_fl import DISCLAIMER
    from pneumonia_fl.cli.views.progress_bars import progress_bars
    from pneumonia_fl.report.build import build_report

    shown = None
    if gallery is not None:
        from pneumonia_fl.report.run.gallery import GALLERY_REPORT, gallery_values

        with progress_bars(as_json) as progress:
            shown = gallery_values(folder, gallery, split, progress)
        out = out or folder / GALLERY_REPORT
    written = build_report(folder, out, shown).absolute()
    logged = gallery is None and out is None and _log(folder)
    if as_json:
        echo(json.dumps({"report": str(written), "holds_images": gallery is not None, "mlflow": logged}))
        return
    echo(f"report: {written}")
    if gallery is not None:
        terminal().print("It holds images of patients and must not leave this site.", style="bold red")
    if logged:
        echo("also in the run's MLflow records")
    echo(DISCLAIMER)


def refresh(folder: Path) -> Path | None:
    """Make the report that a run has once more, also where MLflow shows it; None: it has none, or it cannot be made."""
    from pneumonia_fl.errors import PneumoniaFLError
    from pneumonia_fl.runs.folder import RunFolder

    if not (report := RunFolder(folder).report).is_file():
        return None
    from pneumonia_fl.report.build import build_report

    try:
        build_report(folder)
    except (PneumoniaFLError, OSError) as error:
        echo(f"warning: the report is not made again: {error}", err=True)
        return None
    _log(folder)
    return report


def _log(folder: Path) -> bool:
    """Add the new report to the run's own MLflow records, when it has some."""
    from pneumonia_fl.runs.folder import RunFolder
    from pneumonia_fl.tracking.mlflow_run import log_report

    return log_report(RunFolder(folder))
