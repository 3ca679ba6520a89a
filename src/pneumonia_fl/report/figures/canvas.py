"""What all figures share: colours, the line that says what this is not, and how a picture is saved."""

import io
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from pneumonia_fl import DISCLAIMER
from pneumonia_fl.files import write_atomic

BLACK, GREY = "#000000", "#767676"
BLUE, ORANGE = "#0072B2", "#E69F00"
SITE_COLOURS = (BLUE, "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#B59A00")
DPI = 110


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
    figure.savefig(buffer, format="png", metadata={"Software": "pneumonia-fl"})
    write_atomic(out, buffer.getvalue())
    return out
