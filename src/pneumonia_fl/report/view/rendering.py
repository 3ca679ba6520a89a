"""Templates: a page of sections, each from its values and its own template, and plain sentences.

HTML templates escape every value. What comes out of a plain-text template is escaped by whoever shows it.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from pneumonia_fl import DISCLAIMER, __version__
from pneumonia_fl.report.figures.svg import page_colour
from pneumonia_fl.report.view.wording import FILTERS

Values = Mapping[str, Any]
Maker = tuple[str, str, Callable[[], Values | None]]
"""Key and title of a section, and what makes its values, or None where there is nothing to show."""

_STROKES = {"--": "7 4", "-.": "8 3 2 3", ":": "2 3"}
_MARKDOWN = str.maketrans({mark: f"\\{mark}" for mark in "\\[]|#*"} | {"<": "&lt;", ">": "&gt;", "`": "'"})
_LINK = re.compile(r"(?<=:)/(?=/)|(?<=www)\.|@", re.IGNORECASE)
_LINE_START = re.compile(r"^(?=[-+=_~])")


@dataclass(frozen=True)
class Section:
    """One part of a page; the model card reads its values, too, which are a `problem` when it could not be made."""

    key: str
    title: str
    values: Values
    html: str


@dataclass(frozen=True)
class Page:
    """A whole report."""

    title: str
    subtitle: str
    state: str
    sections: list[Section]
    holds_images: bool = False

    def of(self, key: str) -> Values:
        """Return the values of a section; empty when it is not there."""
        return next((section.values for section in self.sections if section.key == key), {})


def make_sections(folder: str, makers: Iterable[Maker]) -> list[Section]:
    """Make all sections that have something to show; their templates are in `folder`."""
    made = (section_or_error(folder, *maker) for maker in makers)
    return [section for section in made if section is not None]


def section_or_error(folder: str, key: str, title: str, make: Callable[[], Values | None]) -> Section | None:
    """Make a section; one whose data is of an unknown shape says so in place of its content."""
    try:
        values = make()
        return (
            None
            if values is None
            else Section(key, title, values, render(f"{folder}/{key}.html.j2", **values))
        )
    except Exception as error:  # an older or newer version's file: any of its values may be of another kind
        reason = f"{type(error).__name__}: {error}"[:120]
        return Section(key, title, {"problem": reason}, render("problem.html.j2", reason=reason))


def render_page(page: Page) -> str:
    """Return the page as HTML; equal pages give equal text."""
    style = files("pneumonia_fl.report").joinpath("templates/style.css").read_text(encoding="utf-8")
    return render("report.html.j2", page=page, style=style)


def sentences(template: str, **values: Any) -> list[str]:
    """Return the lines of a plain-text template, without the empty ones."""
    return [line for line in map(str.strip, render(template, **values).splitlines()) if line]


def sentence(template: str, name: str, **values: Any) -> str:
    """Return what one macro of a plain-text template says, on one line."""
    return " ".join(str(getattr(_environment().get_template(template).module, name)(**values)).split())


def markdown(text: object) -> str:
    """Return text of others for a line of Markdown, where it makes no link, picture, heading, line or table."""
    escaped = " ".join(str(text).split()).translate(_MARKDOWN)
    return _LINE_START.sub(r"\\", _LINK.sub(lambda mark: f"&#{ord(mark[0])};", escaped))


def render(template: str, **values: Any) -> str:
    """Return a template with its values."""
    return _environment().get_template(template).render(values)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("pneumonia_fl.report"),
        autoescape=select_autoescape(enabled_extensions=("html.j2",)),
        undefined=StrictUndefined,
        keep_trailing_newline=True,
    )
    environment.filters |= {**FILTERS, "md": markdown, "page_colour": page_colour}
    environment.globals |= {"disclaimer": DISCLAIMER, "version": __version__, "strokes": _STROKES}
    return environment
