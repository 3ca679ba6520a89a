"""Tables with a row per site: of many sites the distribution, the extremes by name, and the whole table folded."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from pneumonia_fl.report.figures.site_lines import MANY_SITES
from pneumonia_fl.report.view.page_tables import Cell, Row, Table
from pneumonia_fl.report.view.wording import interval, number

QUANTILES = {"Lowest": 0.0, "Lower quarter": 0.25, "Median": 0.5, "Upper quarter": 0.75, "Highest": 1.0}
EXTREMES = 3
"""How many sites at each end are named."""

Value = float | tuple[float, float] | None
Told = Mapping[str, Sequence[Value] | str]
"""By site its values, or why there are none."""
Format = Callable[[float], Cell | str]


def site_table(
    head: tuple[str, ...],
    told: Told,
    formats: Sequence[Format],
    rank: int,
    caption: str = "",
    last: Sequence[Row] = (),
) -> Table:
    """Build a table of sites.

    Args:
        head: titles of the columns, the site's first.
        told: values of the columns after the first; a pair is an interval.
        formats: how a number of each column is written.
        rank: which value orders the sites when the extremes are named.
        caption: of the table.
        last: rows below those of the sites.
    """
    rows = [_row(site, values, formats) for site, values in told.items()]
    whole = Table(head, [*rows, *last], caption)
    if len(told) <= MANY_SITES:
        return whole
    known = {site: values for site, values in told.items() if not isinstance(values, str)}
    silent = len(told) - len(known)
    grouped: list[Row] = [
        *_distribution(list(known.values()), formats),
        *(_row(site, known[site], formats) for site in _extremes(known, rank)),
    ]
    if silent:
        grouped.append(_row(f"{silent:,} more sites", "no values", formats))
    return Table(head, [*grouped, *last], caption, more=Table(head, rows), count=len(told))


def count_table(counts: Mapping[str, Mapping[str, Mapping[str, int]]]) -> Table:
    """Build the table of images by site, split and class; the shade is the share with pneumonia."""
    ordered = sorted(counts.items(), key=lambda item: (item[0] == "test", item[0]))
    rows = [_count_row(site, split, images) for site, splits in ordered for split, images in splits.items()]
    head = ("Site and split", "Normal", "Pneumonia", "Images", "With pneumonia")
    if len(counts) <= MANY_SITES:
        return Table(head, rows)
    sites = [splits for site, splits in ordered if site != "test"]
    grouped: list[Row] = []
    for split in dict.fromkeys(split for splits in sites for split in splits):
        found = [_counted(splits[split]) for splits in sites if split in splits]
        names = (
            f"{split}, all sites",
            f"{split}, median site",
            f"{split}, smallest site",
            f"{split}, largest site",
        )
        reduced = (np.sum(found, 0), np.median(found, 0), min(found, key=sum), max(found, key=sum))
        grouped += [_shares(name, *map(int, values)) for name, values in zip(names, reduced, strict=True)]
    grouped += [_count_row("test", split, images) for split, images in (counts.get("test") or {}).items()]
    return Table(head, grouped, more=Table(head, rows), count=len(sites))


def _counted(images: Mapping[str, int]) -> tuple[int, int]:
    return int(images.get("NORMAL", 0)), int(images.get("PNEUMONIA", 0))


def _count_row(site: str, split: str, images: Mapping[str, int]) -> Row:
    return _shares("test (held out)" if site == "test" else f"{site}, {split}", *_counted(images))


def _shares(name: str, normal: int, pneumonia: int) -> Row:
    share = pneumonia / (normal + pneumonia) if normal + pneumonia else 0.0
    counts = [f"{count:,}" for count in (normal, pneumonia, normal + pneumonia)]
    return [name, *counts, Cell(f"{share:.0%}", shade=share)]


def _row(site: str, values: Sequence[Value] | str, formats: Sequence[Format]) -> Row:
    if isinstance(values, str):
        return [site, Cell(values), *[""] * (len(formats) - 1)]
    return [site, *(_cell(value, write) for value, write in zip(values, formats, strict=True))]


def _cell(value: Value, write: Format) -> Cell | str:
    if isinstance(value, tuple):
        return interval(value)
    return number(None) if value is None else write(value)


def _distribution(rows: list[Sequence[Value]], formats: Sequence[Format]) -> list[Row]:
    """Return the rows of quantiles; each column has its own order."""
    columns = [
        [value for value in column if isinstance(value, int | float)] for column in zip(*rows, strict=True)
    ]
    return [
        [
            Cell(name, strong=True),
            *(
                write(float(np.quantile(column, share))) if column else ""
                for column, write in zip(columns, formats, strict=True)
            ),
        ]
        for name, share in QUANTILES.items()
    ]


def _extremes(known: Mapping[str, Sequence[Value]], rank: int) -> list[str]:
    """Return the sites with the lowest and the highest values, lowest first."""
    ranked = {site: value for site in known if isinstance(value := known[site][rank], int | float)}
    ordered = sorted(ranked, key=lambda site: (ranked[site], site))
    return list(dict.fromkeys([*ordered[:EXTREMES], *ordered[-EXTREMES:]]))


def whole(value: float) -> str:
    """Return a count."""
    return f"{value:,.0f}"
