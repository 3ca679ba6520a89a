"""`build_report`: from a folder to one HTML page that needs nothing else, and a model card."""

import re
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from pneumonia_fl import DISCLAIMER, __version__
from pneumonia_fl.errors import RunError
from pneumonia_fl.files import write_atomic
from pneumonia_fl.inputs.paths import missing
from pneumonia_fl.report import MODEL_CARD, REPORT
from pneumonia_fl.report.comparison.comparison_page import compare_page, comparison_card
from pneumonia_fl.report.run.card_page import card, run_card
from pneumonia_fl.report.run.page import run_page
from pneumonia_fl.report.run_folder_reader import SUMMARY, RunFiles, read_comparison, read_run
from pneumonia_fl.report.view.blocks import Page, Section

_STROKES = {"--": "7 4", "-.": "8 3 2 3", ":": "2 3"}
_MARKDOWN = str.maketrans({mark: f"\\{mark}" for mark in "\\[]|#*"} | {"<": "&lt;", ">": "&gt;", "`": "'"})
_LINK = re.compile(r"(?<=:)/(?=/)|(?<=www)\.|@", re.IGNORECASE)
_LINE_START = re.compile(r"^(?=[-+=_~])")


def build_report(
    folder: Path, out: Path | None = None, gallery: Section | None = None, record: RunFiles | None = None
) -> Path:
    """Write the report of a run or comparison folder, and `model_card.md` into the folder.

    Only files of the folder are read. What is missing, damaged or of another version is named in the report.

    Args:
        folder: a run folder, or a folder that `pneumonia-fl compare` wrote.
        out: the HTML file; default: `report.html` in the folder.
        gallery: images of a run's mistakes to show; the page then says in red that it must not leave the site.
        record: what the run folder holds, when it has been read already.

    Returns:
        The HTML file.

    Raises:
        RunError: the folder is neither.
        OutputError: a file cannot be written.
    """
    if not folder.exists():
        raise RunError(missing(folder))
    page, values = (
        _compared(folder) if (folder / SUMMARY).is_file() else _run(record or read_run(folder), gallery)
    )
    target = out or folder / REPORT
    write_atomic(target, render(page).encode())
    if gallery is None:
        write_atomic(folder / MODEL_CARD, _render("model_card.md.j2", **values).encode())
    return target


def render(page: Page) -> str:
    """The page as HTML; equal pages give equal text."""
    style = files("pneumonia_fl.report").joinpath("templates/style.css").read_text(encoding="utf-8")
    return _render("report.html.j2", page=page, style=style, strokes=_STROKES)


def markdown(text: object) -> str:
    """Return text of others for a line of Markdown, where it makes no link, picture, heading, line or table."""
    escaped = " ".join(str(text).split()).translate(_MARKDOWN)
    return _LINE_START.sub(r"\\", _LINK.sub(lambda mark: f"&#{ord(mark[0])};", escaped))


def _run(run: RunFiles, gallery: Section | None) -> tuple[Page, Mapping[str, Any]]:
    page = run_page(run, gallery)
    try:
        return page, run_card(run, page)
    except Exception:  # metadata of another version: the page's own words are left
        return page, card(page, {}, {})


def _compared(folder: Path) -> tuple[Page, Mapping[str, Any]]:
    compared = read_comparison(folder)
    page = compare_page(compared)
    return page, comparison_card(compared, page)


def _render(template: str, **values: Any) -> str:
    environment = Environment(
        loader=PackageLoader("pneumonia_fl.report"),
        autoescape=select_autoescape(enabled_extensions=("html.j2",)),
        undefined=StrictUndefined,
        keep_trailing_newline=True,
    )
    environment.filters["md"] = markdown
    return environment.get_template(template).render(disclaimer=DISCLAIMER, version=__version__, **values)
