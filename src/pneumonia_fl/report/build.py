"""`build_report`: from a folder to one HTML page that needs nothing else, and a model card."""

from pathlib import Path

from pneumonia_fl.errors import RunError
from pneumonia_fl.evaluation.comparison import SUMMARY
from pneumonia_fl.files import write_atomic
from pneumonia_fl.inputs.paths import missing
from pneumonia_fl.report.comparison.comparison_page import compare_page
from pneumonia_fl.report.run.card_page import card, comparison_card, run_card
from pneumonia_fl.report.run.page import run_page
from pneumonia_fl.report.run_folder_reader import read_comparison
from pneumonia_fl.report.view.rendering import Page, Values, render, render_page
from pneumonia_fl.runs.folder import MODEL_CARD, REPORT, RunFolder
from pneumonia_fl.runs.record import RunRecord


def build_report(
    folder: Path, out: Path | None = None, gallery: Values | None = None, record: RunRecord | None = None
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
    if (folder / SUMMARY).is_file():
        page, values = _compared(folder)
    else:
        page, values = _run(record or RunRecord.read(RunFolder(folder)), gallery)
    target = out or folder / REPORT
    write_atomic(target, render_page(page).encode())
    if gallery is None:
        write_atomic(folder / MODEL_CARD, render("model_card.md.j2", **values).encode())
    return target


def _run(run: RunRecord, gallery: Values | None) -> tuple[Page, Values]:
    page = run_page(run, gallery)
    try:
        return page, run_card(run, page)
    except Exception:  # metadata of another version: the page's own words are left
        return page, card(page, {}, {})


def _compared(folder: Path) -> tuple[Page, Values]:
    compared = read_comparison(folder)
    page = compare_page(compared)
    return page, comparison_card(compared, page)
