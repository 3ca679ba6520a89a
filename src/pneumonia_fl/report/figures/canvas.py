"""Common parts of all charts: colours, look, an empty figure of each kind, and saving as a PNG file."""

import io
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from pneumonia_fl import DISCLAIMER
from pneumonia_fl.files import write_atomic

BLACK, GREY = "#000000", "#767676"
BLUE, ORANGE = "#0072B2", "#E69F00"
SITE_COLOURS = (BLUE, "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#B59A00")
DPI = 110
WIDTH = 4.4
"""Inches of one chart: it fills a phone's screen, and two or three fit side by side on a desk."""
STYLE: Any = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.labelsize": 10,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GREY,
    "grid.alpha": 0.25,
    "grid.linewidth": 0.6,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "legend.fontsize": 9,
    "legend.frameon": False,
}
"""The look of all charts, for `matplotlib.rc_context` around drawing and saving one."""


def panel(height: float = 3.1, left: float = 0.62, bottom: float = 0.52) -> Axes:
    """Return one pair of axes in an empty figure of `WIDTH` x `height` inches.

    Margins in inches are given: letting matplotlib find them doubles the time that a report takes.
    """
    figure = Figure(figsize=(WIDTH, height))
    width, tall = WIDTH - left - 0.12, height - bottom - 0.32
    return figure.add_axes((left / WIDTH, bottom / height, width / WIDTH, tall / height))


def described(axes: Axes, label: str) -> Figure:
    """Return the figure of `axes`, which says `label` to those who cannot see it."""
    figure = axes.figure
    assert isinstance(figure, Figure)
    figure.set_label(label)
    return figure


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure of width x height inches that carries the disclaimer and no global state."""
    layout = ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.08)
    figure = Figure(figsize=(width, height), dpi=DPI, layout=layout, facecolor="white")
    figure.supxlabel(DISCLAIMER, fontsize=7, color=GREY)
    return figure


def save(figure: Figure, out: Path) -> Path:
    """Write `figure` as the PNG `out` in one step; equal figures give equal bytes.

    Raises:
        OutputError: the folder is missing, full or not writable.
    """
    buffer = io.BytesIO()
    with mpl.rc_context(STYLE):
        figure.savefig(buffer, format="png", metadata={"Software": "pneumonia-fl"})
    write_atomic(out, buffer.getvalue())
    return out
