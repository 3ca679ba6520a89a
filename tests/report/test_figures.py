import copy
import math
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image
from run_folders import write_comparison, write_run

from conftest import read_json
from pneumonia_fl import DISCLAIMER
from pneumonia_fl.config.sections import Preprocess
from pneumonia_fl.data.manifest import DatasetInfo, Row, count, write_info, write_manifest
from pneumonia_fl.data.prepare.pipeline import prepare
from pneumonia_fl.data.sources.synthetic.source import SyntheticSource
from pneumonia_fl.errors import DataError, OutputError
from pneumonia_fl.metrics.binary import ScoreHistogram
from pneumonia_fl.report.build import build_report
from pneumonia_fl.report.figures import canvas, charts
from pneumonia_fl.report.figures import contact_sheet as sheets
from pneumonia_fl.report.figures import png as figures
from pneumonia_fl.report.figures.forest_plot import forest
from pneumonia_fl.report.figures.site_lines import site_looks
from pneumonia_fl.report.figures.svg import to_svg
from pneumonia_fl.report.performance import Performance, of_histogram
from pneumonia_fl.runs.folder import RunFolder
from pneumonia_fl.runs.record import RunRecord

KEYS = ("auroc", "sensitivity", "specificity", "accuracy", "balanced_accuracy", "brier", "ece", "loss")
SITES = ("site-1", "site-2", "site-3")


def run_metrics(rounds: int = 3, sites: tuple[str, ...] = SITES) -> dict[str, Any]:
    def values(level: float) -> dict[str, Any]:
        return dict.fromkeys(KEYS, level) | {"n": 40}

    entries = [
        {"round": r, "global": values(0.5 + r / 20), "sites": {site: values(0.4 + r / 20) for site in sites}}
        for r in range(rounds)
    ]
    return {"rounds": entries, "best_round": rounds - 1, "sites": list(sites)}


def check_png(path: Path, min_width: int = 700, min_height: int = 250) -> np.ndarray:
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        pixels = np.asarray(picture.convert("L"))
    assert pixels.shape[0] >= min_height
    assert min_width <= pixels.shape[1] <= 2500
    assert pixels.std() > 5
    return pixels


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that were saved during the test."""
    saved: list[Figure] = []
    original = Figure.savefig

    def keep(self: Figure, *args: Any, **settings: Any) -> None:
        saved.append(self)
        original(self, *args, **settings)

    monkeypatch.setattr(Figure, "savefig", keep)
    return saved


def texts(figure: Figure) -> list[str]:
    return [artist.get_text() for artist in figure.findobj(Text)]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "prepared"
    prepare(SyntheticSource(60, 32, 7, 3), folder, SITES, "natural", Preprocess(size=32), seed=7, workers=1)
    return folder


@pytest.fixture
def one_class_site(tmp_path: Path) -> Path:
    folder = tmp_path / "lone"
    folder.mkdir()
    rows = [
        Row(f"a{i}.png", 1, f"p{i}", "viral", "", "lone", "train", "0" * 64, 32, 32, "folder")
        for i in range(3)
    ]
    np.save(folder / "images.npy", np.arange(3 * 32 * 32, dtype=np.uint8).reshape(3, 32, 32))
    info = DatasetInfo(
        source="folder",
        licence="CC0-1.0",
        credit="nobody",
        seed=1,
        partition="iid",
        preprocess=Preprocess(size=32),
        sites=("lone",),
        counts=count(rows),
        quarantined=0,
        duplicates=0,
        patient_overlap_with_test=0,
        manifest_sha256=write_manifest(folder, rows),
        poolable=False,
    )
    write_info(folder, info)
    return folder


def test_a_contact_sheet_for_every_site(prepared: Path, tmp_path: Path) -> None:
    made = sheets.contact_sheet(prepared, tmp_path)
    assert [sheet.name for sheet in made] == [f"contact_sheet_{site}.png" for site in SITES]
    for sheet in made:
        check_png(sheet)


def test_one_sheet_with_all_sites_is_taller_than_a_single_one(prepared: Path, tmp_path: Path) -> None:
    whole = check_png(sheets.contact_sheet_all(prepared, tmp_path / "all.png"))
    single = check_png(sheets.contact_sheet(prepared, tmp_path)[0])
    assert len(whole) > 2 * len(single)


def test_class_balance_gives_the_numbers_of_the_data_set(
    prepared: Path, tmp_path: Path, drawn: list[Figure]
) -> None:
    check_png(sheets.class_balance(prepared, tmp_path / "balance.png"))
    said = texts(drawn[0])
    assert {"site-1 – train", "site-3 – val", "test", "NORMAL", "PNEUMONIA"} <= set(said)
    assert sum(" + " in text for text in said) == 7


def test_no_figure_of_the_data_names_a_patient_or_an_image(
    prepared: Path, tmp_path: Path, drawn: list[Figure]
) -> None:
    sheets.contact_sheet(prepared, tmp_path)
    sheets.contact_sheet_all(prepared, tmp_path / "all.png")
    sheets.class_balance(prepared, tmp_path / "balance.png")
    assert not [text for figure in drawn for text in texts(figure) if "person" in text or "IM-" in text]


def test_a_site_with_one_class_and_one_folder_can_be_shown(one_class_site: Path, tmp_path: Path) -> None:
    for sheet in sheets.contact_sheet(one_class_site, tmp_path):
        check_png(sheet)
    check_png(sheets.contact_sheet_all(one_class_site, tmp_path / "all.png"))
    check_png(sheets.class_balance(one_class_site, tmp_path / "balance.png"), min_height=150)


def test_a_folder_without_data_is_refused_with_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="data prepare"):
        sheets.contact_sheet(tmp_path, tmp_path)


@pytest.mark.parametrize(
    ("rounds", "sites"),
    [(1, SITES[:1]), (2, SITES), (30, tuple(f"site-{number}" for number in range(20)))],
    ids=["smallest", "small", "many"],
)
def test_curves_of_any_number_of_rounds_and_sites(
    rounds: int, sites: tuple[str, ...], tmp_path: Path
) -> None:
    check_png(figures.learning_curves(run_metrics(rounds, sites), tmp_path / "curves.png"), min_height=500)


def test_missing_values_are_gaps_and_not_zeros(tmp_path: Path, drawn: list[Figure]) -> None:
    metrics = run_metrics()
    metrics["rounds"][1]["sites"]["site-1"]["auroc"] = None
    metrics["rounds"][1]["global"] = None
    del metrics["rounds"][2]["sites"]["site-2"]
    metrics["best_round"] = None
    check_png(figures.learning_curves(metrics, tmp_path / "curves.png"), min_height=500)
    lines = [[float(y) for y in line.get_ydata()] for line in drawn[0].axes[0].lines]
    assert [[math.isnan(y) for y in line] for line in lines] == [
        [False, True, False],
        [False, False, True],
        [False, False, False],
        [False, True, False],
    ]


def test_a_run_in_which_nothing_could_be_measured_still_gives_a_figure(tmp_path: Path) -> None:
    metrics = run_metrics(1, ("only",))
    metrics["rounds"][0]["global"] = dict.fromkeys(KEYS)
    metrics["rounds"][0]["sites"]["only"] = dict.fromkeys(KEYS)
    check_png(figures.learning_curves(metrics, tmp_path / "curves.png"), min_height=500)


def test_drawing_does_not_change_the_metrics_and_is_repeatable(tmp_path: Path) -> None:
    metrics = run_metrics()
    before = copy.deepcopy(metrics)
    first = figures.learning_curves(metrics, tmp_path / "a.png").read_bytes()
    assert figures.learning_curves(metrics, tmp_path / "b.png").read_bytes() == first
    assert metrics == before


def test_a_run_without_rounds_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no finished round"):
        figures.learning_curves({"rounds": [], "best_round": None, "sites": []}, tmp_path / "curves.png")


def measured(margins: list[float], labels: list[int], **card: float) -> Performance:
    return of_histogram(ScoreHistogram.from_scores(margins, labels).to_dict(), card)


def test_the_roc_curve_passes_through_sensitivity_and_specificity_at_the_saved_threshold(
    tmp_path: Path, drawn: list[Figure]
) -> None:
    margins, labels = [-2.0, -1.0, 0.5, 1.0, 2.0, -0.5, 3.0, 1.5], [0, 0, 0, 0, 1, 1, 1, 1]
    points = []
    for threshold in (0.5, 0.8):
        figures.roc_and_calibration(measured(margins, labels, threshold=threshold), tmp_path / "roc.png")
        points.append(tuple(values[0] for values in drawn[-1].axes[0].lines[-1].get_data()))
    check_png(tmp_path / "roc.png")
    assert drawn[0].get_suptitle().startswith("AUROC 0.875, ECE ")
    assert drawn[0].get_suptitle().endswith(" – 8 validation images, 4 with pneumonia")
    assert points == [(0.5, 0.75), (0.0, 0.75)]


@pytest.mark.parametrize("label", [0, 1])
def test_a_missing_class_has_no_roc_curve_but_a_figure(
    label: int, tmp_path: Path, drawn: list[Figure]
) -> None:
    check_png(figures.roc_and_calibration(measured([0.3, -0.2], [label, label]), tmp_path / "roc.png"))
    assert "n/a" in drawn[0].get_suptitle()
    assert "n/a (a class is missing)" in texts(drawn[0])


def points(figure: Figure) -> dict[str, list[list[list[float]]]]:
    """All lines of a figure by the title of their axes."""
    return {
        axes.get_title(): [np.asarray(line.get_xydata()).tolist() for line in axes.lines]
        for axes in figure.axes
    }


def test_the_run_folder_and_the_report_show_the_same_values(tmp_path: Path, drawn: list[Figure]) -> None:
    run = write_run(tmp_path / "run")
    card = read_json(run / "model" / "model_card.json")
    assert card["threshold"] != 0.5
    assert (card["temperature"], card["offset"]) != (1, 0)
    figures.draw_figures(RunRecord.read(RunFolder(run)), run / "curves.png", run / "roc.png")
    kept = [points(figure) for figure in drawn]
    build_report(run)
    shown = {title: lines for figure in drawn[2:] for title, lines in points(figure).items()}
    titles = [*charts.BY_ROUND.values(), "ROC curve", "Do the probabilities hold?"]
    assert [title for figure in kept for title in figure] == titles
    for figure in kept:
        for title, lines in figure.items():
            np.testing.assert_equal(lines, shown[title])


def test_a_comparison_folder_and_its_report_show_the_same_values(tmp_path: Path, drawn: list[Figure]) -> None:
    folder = write_comparison(tmp_path / "compared")
    forest(read_json(folder / "summary.json"), tmp_path / "comparison.png")
    check_png(tmp_path / "comparison.png")
    build_report(folder)
    kept, *shown = [list(points(figure).values()) for figure in drawn]
    assert [one for figure in shown for one in figure] == kept
    assert len(kept) == 2


def test_a_comparison_without_a_trained_model_is_not_drawn(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no trained model"):
        forest({"arms": [{"name": "central", "pooled": None}]}, tmp_path / "comparison.png")


def test_what_a_file_gives_is_drawn_up_to_a_limit() -> None:
    rows = [charts.Estimate(f"a name without an end {'x' * 900}", 0.5)] * 1000
    figure = charts.estimates(rows, "Many", zero=False)
    assert len(figure.axes[0].lines) == 2 * charts.MAX_ROWS
    assert figure.get_size_inches()[1] < 25
    assert figure.axes[0].get_title() == "Many (first 60 of 1000)"
    assert len(to_svg(figure)) < 100_000
    curve = {"fpr": [0.0] * 5001, "tpr": [0.0] * 5001}
    with pytest.raises(DataError, match="too many to draw"):
        charts.roc([("Test", replace(measured([0.3, -0.2], [0, 1]), roc=curve))])
    sites = [f"site-{number}" for number in range(300)]
    losses = {site: [(step, 0.5) for step in range(20_000)] for site in sites[:1]}
    axes = charts.training_loss(losses, sites).axes[0]
    (median,) = axes.lines
    assert (len(median.get_xdata()), len(axes.collections)) == (4000, 2)
    assert site_looks(sites)[0][2] == "median of the 300 sites; bands: the middle half, and all of them"


def test_a_figure_inside_a_page_keeps_its_text_and_asks_for_nothing() -> None:
    rows = [charts.Estimate("<b> & $x$", 0.5, 0.4, 0.6, (0.45, 0.55)), charts.Estimate("none", None)]
    first, second = (to_svg(charts.estimates(rows, "A <title>", zero=True)) for _ in range(2))
    assert first == second
    assert first.startswith("<svg viewBox=")
    assert "<title>A &lt;title&gt;: &lt;b&gt; &amp; $x$ 0.500; none n/a</title>" in first
    assert "&lt;b&gt; &amp; $x$</text>" in first
    assert "currentColor" in first
    assert not re.search(
        r"#000000|http:|url\((?!#)|<script|<metadata|<style", first.replace("xlink:href", "")
    )


def test_every_figure_says_that_it_is_not_a_medical_device(
    prepared: Path, tmp_path: Path, drawn: list[Figure]
) -> None:
    sheets.contact_sheet(prepared, tmp_path)
    sheets.contact_sheet_all(prepared, tmp_path / "all.png")
    sheets.class_balance(prepared, tmp_path / "balance.png")
    figures.learning_curves(run_metrics(), tmp_path / "curves.png")
    figures.roc_and_calibration(measured([1.0, -1.0], [1, 0]), tmp_path / "roc.png")
    assert len(drawn) == 7
    assert all(DISCLAIMER in texts(figure) for figure in drawn)


def test_a_missing_output_folder_is_an_output_error(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="nowhere"):
        canvas.save(canvas.new_figure(2, 2), tmp_path / "nowhere" / "a.png")


def test_pyplot_with_its_global_state_is_not_loaded() -> None:
    code = "import sys, pneumonia_fl.report.figures.png; print('matplotlib.pyplot' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
