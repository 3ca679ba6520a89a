import csv
import io
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.text import Text
from PIL import Image
from torch import Tensor, nn

from pneumonia_fl import DISCLAIMER
from pneumonia_fl.config.sections import Preprocess
from pneumonia_fl.data.store import ImageSet
from pneumonia_fl.errors import DataError
from pneumonia_fl.evaluation.cross_site_matrix import cross_site, matrix
from pneumonia_fl.evaluation.scoring import evaluate, margins
from pneumonia_fl.metrics.binary import CELL, exact_metrics, summarise
from pneumonia_fl.models.architectures import build_model
from pneumonia_fl.report.figures.canvas import save
from pneumonia_fl.report.figures.heat_map import heat_map, to_csv

SPEC = Preprocess(size=16)


def images(seed: int, n: int = 12) -> ImageSet:
    pixels = np.random.default_rng(seed).integers(0, 256, (n, 16, 16), dtype=np.uint8)
    return ImageSet(pixels, np.arange(n) % 2, [str(i) for i in range(n)], ["unknown"] * n)


class Brightness(nn.Module):
    """Calls bright images pneumonia (`sign` 1) or dark ones (-1)."""

    def __init__(self, sign: float) -> None:
        super().__init__()
        self.sign = nn.Parameter(torch.tensor(sign))

    def forward(self, x: Tensor) -> Tensor:
        level = self.sign * x.mean((1, 2, 3))
        return torch.stack((-level, level), 1)


def brightness_site(ill_are_bright: bool) -> ImageSet:
    """Six images; those with pneumonia are the bright or the dark ones."""
    levels = np.array([10, 20, 30, 200, 210, 220], np.uint8)
    labels = np.array([0, 0, 0, 1, 1, 1] if ill_are_bright else [1, 1, 1, 0, 0, 0])
    pixels = np.broadcast_to(levels[:, None, None], (6, 16, 16)).copy()
    return ImageSet(pixels, labels, list("abcdef"), ["unknown"] * 6)


def scored(models: int, sites: int) -> dict[str, Any]:
    names, rows = [f"site-{i + 1}" for i in range(sites)], ["best", "last"]
    rows += [f"site-{i + 1}" for i in range(models - 2)]
    cell = dict.fromkeys(CELL, 0.5)
    cells = {
        row: {name: {**cell, "auroc": 0.7 + (i * 7 + j) % 30 / 100, "n": 120} for j, name in enumerate(names)}
        for i, row in enumerate(rows)
    }
    return matrix("val", rows, names, cells, {})


def texts(values: dict[str, Any]) -> list[str]:
    return [artist.get_text() for artist in heat_map(values).findobj(Text)]


def test_cells_are_the_exact_metrics_of_each_model_on_each_site() -> None:
    models = {"a": (build_model(size=16, seed=1), SPEC), "b": (build_model(size=16, seed=2), SPEC)}
    sites = {"site-1": images(1), "site-2": images(2)}
    result = cross_site(models, sites, "test")
    for name, (model, spec) in models.items():
        for site, data in sites.items():
            expected = exact_metrics(margins(model, data.images, spec), data.labels)
            assert result["cells"][name][site] == {key: getattr(expected, key) for key in CELL}
            pooled = summarise(evaluate(model, data, spec))
            assert result["cells"][name][site]["sensitivity"] == pooled.sensitivity


def test_the_off_diagonal_mean_leaves_out_own_data_and_global_models() -> None:
    fixed = Preprocess(size=16, normalisation="fixed")
    models = {
        "best": (Brightness(1.0), fixed),
        "site-1": (Brightness(1.0), fixed),
        "site-2": (Brightness(-1.0), fixed),
    }
    sites = {"site-1": brightness_site(True), "site-2": brightness_site(False)}
    result = cross_site(models, sites, "val")
    assert [result["cells"][name][site]["auroc"] for name in models for site in sites] == [1, 0, 1, 0, 0, 1]
    assert result["off_diagonal_auroc"] == 0.0


def test_without_models_of_sites_there_is_no_off_diagonal_mean() -> None:
    result = cross_site({"best": (Brightness(1.0), SPEC)}, {"site-1": images(1)}, "val")
    assert result["off_diagonal_auroc"] is None


def test_a_site_of_one_class_or_without_images_is_said_to_be_so() -> None:
    lone = images(3)
    lone.labels[:] = 1
    sites = {"site-1": lone, "site-2": images(4, 0)}
    result = cross_site({"best": (Brightness(1.0), SPEC)}, sites, "test")
    assert result["cells"]["best"]["site-1"]["auroc"] is None
    assert result["cells"]["best"]["site-1"]["n"] == 12
    assert result["missing"] == {"site-2": "no images in split test"}
    said = texts(result)
    assert "one\nclass" in said
    assert "–" in said
    assert any("incomplete: site-2" in text for text in said)


def test_a_broken_model_is_refused() -> None:
    with pytest.raises(DataError, match="not finite"):
        cross_site({"best": (Brightness(float("nan")), SPEC)}, {"site-1": images(1)}, "val")


@pytest.mark.parametrize("sites", [2, 7, 20])
def test_a_heat_map_shows_every_value_and_is_a_readable_picture(sites: int, tmp_path: Path) -> None:
    values = scored(sites + 2, sites)
    with Image.open(save(heat_map(values), tmp_path / "map.png")) as picture:
        assert picture.format == "PNG"
        assert 700 <= picture.width <= 2500
        assert 300 <= picture.height <= 2500
    said = texts(values)
    shown = [
        f"{values['cells'][row][site]['auroc']:.3f}" for row in values["models"] for site in values["sites"]
    ]
    assert [text for text in said if text.startswith("0.") and len(text) == 5][: len(shown)] == shown
    assert DISCLAIMER in said


def test_no_number_overlaps_its_neighbour_at_twenty_sites() -> None:
    figure = heat_map(scored(22, 20))
    figure.draw_without_rendering()
    boxes = [t.get_window_extent() for t in figure.axes[0].texts]
    row = boxes[:20]
    assert all(left.x1 < right.x0 for left, right in pairwise(row))
    assert all(above.y0 > below.y1 for above, below in pairwise(boxes[::20]))


def test_the_frame_marks_models_on_their_own_data() -> None:
    figure = heat_map(scored(4, 2))
    assert [patch.get_xy() for patch in figure.axes[0].patches] == [(-0.5, 1.5), (0.5, 2.5)]


def test_an_empty_matrix_is_not_drawn() -> None:
    with pytest.raises(DataError, match="nothing to draw"):
        heat_map(matrix("val", [], [], {}, {}))


def test_the_csv_has_a_line_per_model_and_site_with_gaps_where_nothing_is_known() -> None:
    values = scored(3, 2)
    del values["cells"]["last"]["site-2"]
    values["cells"]["last"]["site-1"]["auroc"] = None
    rows = list(csv.DictReader(io.StringIO(to_csv(values))))
    assert [(row["model"], row["site"]) for row in rows] == [
        (model, site) for model in values["models"] for site in values["sites"]
    ]
    assert float(rows[0]["auroc"]) == values["cells"]["best"]["site-1"]["auroc"]
    assert (rows[2]["auroc"], rows[2]["n"]) == ("", "120")
    assert {rows[3][key] for key in CELL} == {""}


def test_no_name_is_a_formula_in_the_csv() -> None:
    values = scored(1, 1)
    (site,) = values["sites"]
    cells = {model: {"=1+1": row[site]} for model, row in values["cells"].items()}
    rows = csv.DictReader(io.StringIO(to_csv({**values, "sites": ["=1+1"], "cells": cells})))
    assert {row["site"] for row in rows} == {"'=1+1"}
