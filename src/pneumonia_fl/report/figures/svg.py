"""Figures as inline SVG: no file, no font, no colour of its own where the page's will do.

Text stays text in the page's font, black becomes the page's text colour (so dark mode works), and equal figures
give equal bytes.
"""

import io
import re
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from pneumonia_fl.report.figures.canvas import GREY

WIDTH = 4.4
"""Inches: a figure fills a phone's screen, and two or three fit side by side on a desk."""
_STYLE: Any = {
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
_HEAD = re.compile(r'<svg .*?viewBox="([^"]+)"[^>]*>', re.DOTALL)
_DROPPED = re.compile(r"<metadata>.*?</metadata>|<defs>\s*<style.*?</style>\s*</defs>|<!--.*?-->", re.DOTALL)
_FONT = re.compile(r"font: ((?:\w+ )*)([\d.]+)px [^;\"]*")
_NAMED = re.compile(r' id="([^"]+)"')


@dataclass(frozen=True)
class Svg:
    """An inline drawing and what it shows, for those who cannot see it."""

    text: str
    label: str
    ratio: float


def style() -> AbstractContextManager[None]:
    """The look of all figures, for a `with` block around making and drawing one."""
    return mpl.rc_context(_STYLE)


def panel(height: float = 3.1, left: float = 0.62, bottom: float = 0.52) -> tuple[Figure, Axes]:
    """Return an empty figure `WIDTH` x `height` inches with one pair of axes.

    Margins in inches are given: letting matplotlib find them doubles the time that a report takes.
    """
    figure = Figure(figsize=(WIDTH, height))
    width, tall = WIDTH - left - 0.12, height - bottom - 0.32
    return figure, figure.add_axes((left / WIDTH, bottom / height, width / WIDTH, tall / height))


def whole_numbers(axes: Axes, values: list[int], label: str) -> None:
    """Make the x axis one of whole numbers such as rounds."""
    axes.set_xlabel(label)
    axes.set_xlim(min(values) - 0.5, max(values) + 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def to_svg(figure: Figure, name: str, label: str) -> Svg:
    """Return `figure` for the middle of a page; `name` is unique on the page, `label` describes it."""
    buffer = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": name, **_STYLE}):
        figure.savefig(buffer, format="svg", metadata={"Date": None}, transparent=True)
    text = buffer.getvalue()
    head = _HEAD.search(text)
    assert head is not None
    body = _DROPPED.sub("", text[head.end() :])
    width, height = (float(word) for word in head[1].split()[2:])
    start = f'<svg viewBox="{head[1]}" role="img">'
    return Svg(start + _page_colours(_without_unused_names(body)), label, width / height)


def _without_unused_names(text: str) -> str:
    """Ids such as `axes_1` come in every figure, and a page must hold each once."""
    used = set(re.findall(r"#([\w-]+)[\")]", text))
    return _NAMED.sub(lambda found: found[0] if found[1] in used else "", text)


def _page_colours(text: str) -> str:
    text = _FONT.sub(r"font: \1\2px var(--sans)", text)
    text = re.sub(r"(fill|stroke): #000000", r"\1: currentColor", text)
    text = re.sub(r"(fill|stroke): #0072b2", r"\1: var(--blue)", text)
    # Without a fill of its own a letter is black.
    return re.sub(r"\n\s*", "\n", text).replace("<text ", '<text fill="currentColor" ')
