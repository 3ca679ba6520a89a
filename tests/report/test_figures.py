import copy
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from pneumonia_fl import DISCLAIMER
from pneumonia_fl.config.sections import Preprocess
from pneumonia_fl.data.manifest import DatasetInfo, Row, count, write_info, write_manifest
from pneumonia_fl.data.prepare.pipeline import prepare
from pneumonia_fl.data.sources.synthetic.source import SyntheticSource
from pneumonia_fl.errors import DataError, OutputError
from pneumonia_fl.metrics.binary import ScoreHistogram
from pneumonia_fl.report.figures import canvas
from pneumonia_fl.report.figures import png as figures

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
    sheets = figures.contact_sheet(prepared, tmp_path)
    assert [sheet.name for sheet in sheets] == [f"contact_sheet_{site}.png" for site in SITES]
    for sheet in sheets:
        check_png(sheet)


def test_one_sheet_with_all_sites_is_taller_than_a_single_one(prepared: Path, tmp_path: Path) -> None:
    whole = check_png(figures.contact_sheet_all(prepared, tmp_path / "all.png"))
    single = check_png(figures.contact_sheet(prepared, tmp_path)[0])
    assert len(whole) > 2 * len(single)


def test_class_balance_gives_the_numbers_of_the_data_set(
    prepared: Path, tmp_path: Path, drawn: list[Figure]
) -> None:
    check_png(figures.class_balance(prepared, tmp_path / "balance.png"))
    said = texts(drawn[0])
    assert {"site-1 – train", "site-3 – val", "test", "NORMAL", "PNEUMONIA"} <= set(said)
    assert sum(" + " in text for text in said) == 7


def test_no_figure_of_the_data_names_a_patient_or_an_image(
    prepared: Path, tmp_path: Path, drawn: list[Figure]
) -> None:
    figures.contact_sheet(prepared, tmp_path)
    figures.contact_sheet_all(prepared, tmp_path / "all.png")
    figures.class_balance(prepared, tmp_path / "balance.png")
    assert not [text for figure in drawn for text in texts(figure) if "person" in text or "IM-" in text]


def test_a_site_with_one_class_and_one_folder_can_be_shown(one_class_site: Path, tmp_path: Path) -> None:
    for sheet in figures.contact_sheet(one_class_site, tmp_path):
        check_png(sheet)
    check_png(figures.contact_sheet_all(one_class_site, tmp_path / "all.png"))
    check_png(figures.class_balance(one_class_site, tmp_path / "balance.png"), min_height=150)


def test_a_folder_without_data_is_refused_with_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="data prepare"):
        figures.contact_sheet(tmp_path, tmp_path)


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


def test_the_roc_curve_passes_through_sensitivity_and_specificity(
    tmp_path: Path, drawn: list[Figure]
) -> None:
    margins, labels = [-2.0, -1.0, 0.5, 1.0, 2.0, -0.5, 3.0, 1.5], [0, 0, 0, 0, 1, 1, 1, 1]
    hist = ScoreHistogram.from_scores(margins, labels)
    check_png(figures.roc_and_calibration(hist, tmp_path / "roc.png"))
    assert drawn[0].get_suptitle().startswith("AUROC 0.875 – 8 images, 4 with pneumonia")
    false, true = (values[0] for values in drawn[0].axes[0].lines[-1].get_data())
    assert (false, true) == (0.5, 0.75)


def test_calibration_bins_give_mean_prediction_and_observed_share() -> None:
    margins = np.array([-3.0, -3.0, -3.0, -3.0, 3.0, 3.0])
    hist = ScoreHistogram.from_scores(margins, [0, 0, 0, 1, 1, 1])
    predicted, observed, share = figures._reliability(hist)
    assert predicted == pytest.approx(1 / (1 + np.exp([3.0, -3.0])), abs=0.004)
    assert observed.tolist() == [0.25, 1.0]
    assert share.tolist() == pytest.approx([4 / 6, 0, 0, 0, 0, 0, 0, 0, 0, 2 / 6])


@pytest.mark.parametrize("label", [0, 1])
def test_a_missing_class_has_no_roc_curve_but_a_figure(
    label: int, tmp_path: Path, drawn: list[Figure]
) -> None:
    hist = ScoreHistogram.from_scores([0.3, -0.2], [label, label])
    check_png(figures.roc_and_calibration(hist, tmp_path / "roc.png"))
    assert "n/a" in drawn[0].get_suptitle()


def test_an_empty_histogram_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no images"):
        figures.roc_and_calibration(ScoreHistogram.empty(), tmp_path / "roc.png")


def test_every_figure_says_that_it_is_not_a_medical_device(
    prepared: Path, tmp_path: Path, drawn: list[Figure]
) -> None:
    figures.contact_sheet(prepared, tmp_path)
    figures.contact_sheet_all(prepared, tmp_path / "all.png")
    figures.class_balance(prepared, tmp_path / "balance.png")
    figures.learning_curves(run_metrics(), tmp_path / "curves.png")
    figures.roc_and_calibration(ScoreHistogram.from_scores([1.0, -1.0], [1, 0]), tmp_path / "roc.png")
    assert len(drawn) == 7
    assert all(DISCLAIMER in texts(figure) for figure in drawn)


def test_a_missing_output_folder_is_an_output_error(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="nowhere"):
        canvas.save(canvas.new_figure(2, 2), tmp_path / "nowhere" / "a.png")


def test_pyplot_with_its_global_state_is_not_loaded() -> None:
    code = "import sys, pneumonia_fl.report.figures.png; print('matplotlib.pyplot' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
