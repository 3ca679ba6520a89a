"""`build_report`: from a folder to one HTML page that needs nothing else, and a model card."""

from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from pneumonia_fl import DISCLAIMER, __version__
from pneumonia_fl.data.files import write_atomic
from pneumonia_fl.report import REPORT
from pneumonia_fl.report.blocks import Page, Section
from pneumonia_fl.report.reading import read_run
from pneumonia_fl.report.run_page import run_page

_STROKES = {"--": "7 4", "-.": "8 3 2 3", ":": "2 3"}


def build_report(folder: Path, out: Path | None = None, gallery: Section | None = None) -> Path:
    """Write the report of a run or comparison folder, and `model_card.md` beside it.

    Only files of the folder are read. What is missing, damaged or of another version is named in the report.

    Args:
        folder: a run folder, or a folder that `pneumonia-fl compare` wrote.
        out: the HTML file; default: `report.html` in the folder.
        gallery: images to show; the page then says in red that it must not leave the site.

    Raises:
        RunError: the folder is neither.
        OutputError: `out` cannot be written.
    """
    page = run_page(read_run(folder), gallery)
    target = out or folder / REPORT
    write_atomic(target, render(page).encode())
    return target


def render(page: Page) -> str:
    """The page as HTML; equal pages give equal text."""
    style = files("pneumonia_fl.report").joinpath("templates/style.css").read_text(encoding="utf-8")
    return (
        _environment()
        .get_template("report.html.j2")
        .render(page=page, style=style, disclaimer=DISCLAIMER, version=__version__, strokes=_STROKES)
    )


def _environment() -> Environment:
    settings: dict[str, Any] = {"trim_blocks": False, "keep_trailing_newline": True}
    return Environment(
        loader=PackageLoader("pneumonia_fl.report"),
        autoescape=select_autoescape(enabled_extensions=("html.j2",)),
        undefined=StrictUndefined,
        **settings,
    )
