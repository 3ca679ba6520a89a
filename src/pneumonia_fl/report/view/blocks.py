"""What a report is made of: sections of a few kinds of blocks, which the template knows how to show."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from pneumonia_fl.report.figures.svg import Svg


@dataclass(frozen=True)
class Cell:
    """One cell; `shade` from 0 to 1 colours it."""

    text: str
    shade: float | None = None
    strong: bool = False


@dataclass(frozen=True)
class Text:
    """Paragraphs; `tone`: "" or "small"."""

    kind: ClassVar[str] = "text"
    paragraphs: tuple[str, ...]
    tone: str = ""


@dataclass(frozen=True)
class Table:
    """A table whose first column names the row; a cell may be a plain string."""

    kind: ClassVar[str] = "table"
    head: tuple[str, ...]
    rows: list[list[Cell | str]]
    caption: str = ""
    note: str = ""


@dataclass(frozen=True)
class Facts:
    """Names and values."""

    kind: ClassVar[str] = "facts"
    items: list[tuple[str, str]]


@dataclass(frozen=True)
class Figure:
    """One drawing with its caption."""

    svg: Svg
    caption: str = ""


@dataclass(frozen=True)
class Figures:
    """Drawings side by side where there is room, with one legend of (colour, dashes, text)."""

    kind: ClassVar[str] = "figures"
    items: list[Figure]
    legend: list[tuple[str, str, str]] = field(default_factory=list)


@dataclass(frozen=True)
class Notes:
    """Warnings: (level, sentence), level "serious", "caution" or "note"."""

    kind: ClassVar[str] = "notes"
    items: list[tuple[str, str]]


@dataclass(frozen=True)
class Tiles:
    """The few numbers that matter: (name, value, what it says)."""

    kind: ClassVar[str] = "tiles"
    items: list[tuple[str, str, str]]


@dataclass(frozen=True)
class Voices:
    """The same result for two readers: (who, sentences)."""

    kind: ClassVar[str] = "voices"
    items: list[tuple[str, list[str]]]


@dataclass(frozen=True)
class Commands:
    """Commands to type, with what each does."""

    kind: ClassVar[str] = "commands"
    items: list[tuple[str, str]]


@dataclass(frozen=True)
class Folded:
    """Long text behind a line that opens it; printed open."""

    kind: ClassVar[str] = "folded"
    title: str
    text: str


@dataclass(frozen=True)
class Pictures:
    """Images of patients: (data URI, caption)."""

    kind: ClassVar[str] = "pictures"
    title: str
    items: list[tuple[str, str]]


@dataclass(frozen=True)
class Columns:
    """Blocks side by side where there is room, each column from top to bottom."""

    kind: ClassVar[str] = "columns"
    items: list[list["Block"]]


Block = Columns | Text | Table | Facts | Figures | Notes | Tiles | Voices | Commands | Folded | Pictures


@dataclass(frozen=True)
class Section:
    """A heading, a sentence that says what is to be seen, and the blocks below it."""

    key: str
    title: str
    lead: str
    blocks: list[Block]


@dataclass(frozen=True)
class Page:
    """A whole report."""

    title: str
    subtitle: str
    state: str
    sections: list[Section]
    holds_images: bool = False


def flattened(blocks: Iterable[Block]) -> Iterator[Block]:
    """All blocks, those in columns one after the other."""
    for block in blocks:
        if isinstance(block, Columns):
            yield from flattened(one for column in block.items for one in column)
        else:
            yield block


def serious_first(sections: Iterable[Section | None]) -> list[Section]:
    """Leave out what there is not, and move serious warnings above the big numbers: nobody may miss them.

    They stand in the section `warnings`, and go to the top of `summary`.
    """
    made = [section for section in sections if section is not None]
    notes = [
        block for one in made if one.key == "warnings" for block in one.blocks if isinstance(block, Notes)
    ]
    serious = [item for block in notes for item in block.items if item[0] == "serious"]
    rest = [item for block in notes for item in block.items if item[0] != "serious"]
    if not serious:
        return made
    others = Notes(rest or [("note", "Nothing else stood out.")])
    return [_with_warnings(section, Notes(serious), others) for section in made]


def _with_warnings(section: Section, serious: Notes, others: Notes) -> Section:
    if section.key == "summary":
        return replace(section, blocks=[serious, *section.blocks])
    return replace(section, blocks=[others]) if section.key == "warnings" else section


def guarded(key: str, title: str, make: Callable[[], Section | None]) -> Section | None:
    """Make a section; one whose data is of an unknown shape says so in place of its content."""
    try:
        return make()
    except Exception as error:  # an older or newer version's file: any of its values may be of another kind
        reason = f"{type(error).__name__}: {error}"[:120]
        text = f"This part could not be made: its data is damaged or of another version ({reason})."
        return Section(key, title, "", [Notes([("caution", text)])])


def worded(make: Callable[[], str]) -> str:
    """Words, or none where what they are made of is of an unknown shape."""
    try:
        return make()
    except (TypeError, ValueError, AttributeError, KeyError):
        return ""


def number(value: Any, digits: int = 3) -> str:
    """A metric for a table; "n/a" when there is none."""
    return "n/a" if value is None else f"{float(value):.{digits}f}"


def interval(ends: Iterable[float] | None, digits: int = 3) -> str:
    """An interval for a table; empty when there is none."""
    if ends is None:
        return ""
    low, high = ends
    return f"{low:.{digits}f} to {high:.{digits}f}"


def out_of_hundred(share: float) -> str:
    """A share as a count of 100, never rounded to all or nothing when it is neither."""
    if 0.995 <= share < 1:
        return "more than 99"
    return "fewer than 1" if 0 < share < 0.005 else str(round(100 * share))


def plural(count: int, word: str) -> str:
    """`1 site`, `2 sites`, `1,000 images`."""
    return f"{count:,} {word}{'' if count == 1 else 's'}"


def listed(words: Iterable[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    found = list(words)
    return " and ".join([", ".join(found[:-1]), found[-1]] if len(found) > 1 else found)


def flat(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested settings as `section.key`, value."""
    items: list[tuple[str, str]] = []
    for key, value in values.items():
        items += (
            flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else [(prefix + key, str(value))]
        )
    return items
