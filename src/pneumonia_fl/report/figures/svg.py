"""Figures as inline SVG: no file, no font, no colour of its own where the page's will do.

Text stays text in the page's font, black becomes the page's text colour (so dark mode works), and equal figures
give equal bytes.
"""

import io
import re

import matplotlib as mpl
from markupsafe import Markup
from matplotlib.figure import Figure

from pneumonia_fl.report.figures.canvas import BLUE, STYLE

_HEAD = re.compile(r'<svg .*?viewBox="([^"]+)"[^>]*>', re.DOTALL)
_DROPPED = re.compile(r"<metadata>.*?</metadata>|<defs>\s*<style.*?</style>\s*</defs>|<!--.*?-->", re.DOTALL)
_FONT = re.compile(r"font: ((?:\w+ )*)([\d.]+)px [^;\"]*")
_NAMED = re.compile(r' id="([^"]+)"')


def to_svg(figure: Figure) -> Markup:
    """Return `figure` for the middle of a page; its label is its title there, and unique on the page."""
    buffer, label = io.StringIO(), str(figure.get_label())
    with mpl.rc_context({"svg.hashsalt": label, **STYLE}):
        figure.savefig(buffer, format="svg", metadata={"Date": None}, transparent=True)
    text = buffer.getvalue()
    head = _HEAD.search(text)
    assert head is not None
    body = _page_colours(_without_unused_names(_DROPPED.sub("", text[head.end() :])))
    start = Markup('<svg viewBox="{}" role="img"><title>{}</title>').format(head[1], label)
    return start + Markup(body)  # noqa: S704 - matplotlib has escaped all text in it


def page_colour(colour: str) -> str:
    """Return a colour as the page has it: blue is lighter on a dark page."""
    return "var(--blue)" if colour == BLUE else colour


def _without_unused_names(text: str) -> str:
    """Remove unused ids such as `axes_1`, which every figure has: an id must be unique in a page."""
    used = set(re.findall(r"#([\w-]+)[\")]", text))
    return _NAMED.sub(lambda found: found[0] if found[1] in used else "", text)


def _page_colours(text: str) -> str:
    text = _FONT.sub(r"font: \1\2px var(--sans)", text)
    text = re.sub(r"(fill|stroke): #000000", r"\1: currentColor", text)
    text = re.sub(r"(fill|stroke): #0072b2", r"\1: var(--blue)", text)
    # Without a fill of its own a letter is black.
    return re.sub(r"\n\s*", "\n", text).replace("<text ", '<text fill="currentColor" ')
