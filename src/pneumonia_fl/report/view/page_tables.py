"""Tables of a report, and those that a run and a comparison share."""

from dataclasses import dataclass

from pneumonia_fl.report.view.wording import number


@dataclass(frozen=True)
class Cell:
    """One cell; `shade` from 0 to 1 colours it."""

    text: str
    shade: float | None = None
    strong: bool = False


Row = list[Cell | str]


@dataclass(frozen=True)
class Table:
    """A table whose first column names the row; a cell may be a plain string.

    `more` is the same for each of `count` sites, when `rows` only say how they are distributed.
    """

    head: tuple[str, ...]
    rows: list[Row]
    caption: str = ""
    note: str = ""
    more: "Table | None" = None
    count: int = 0


def area_cell(value: float | None, strong: bool = False) -> Cell:
    """Build an AUROC's cell, darker further above 0.5; squared, since most values lie near 1."""
    return Cell(number(value), None if value is None else max(0.0, 2 * value - 1) ** 2, strong)
