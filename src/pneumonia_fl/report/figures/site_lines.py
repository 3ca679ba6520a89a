"""Many lines in one chart: one for each site, or of many sites how their values are distributed."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from pneumonia_fl.inputs.text import printable
from pneumonia_fl.report.figures.canvas import BLUE, GREY, SITE_COLOURS

NAMED_SITES = 12
"""Up to this many sites have distinct lines; more are thin grey lines."""
MANY_SITES = 30
"""More sites than these are shown as a distribution: in charts, in tables and in warnings."""
MAX_POINTS, NAME_LENGTH = 5000, 40
"""How many points of a line, and characters of a name, are drawn."""
DASHES = ("-", "--", "-.", ":")

Series = Sequence[tuple[Sequence[float], Sequence[float]]]
"""The x and y values of each site's line; a y that is not known is NaN."""


def site_looks(sites: Sequence[str]) -> list[tuple[str, str, str]]:
    """Return colour and dashes of the sites' lines, and whose they are, for a legend."""
    if len(sites) > MANY_SITES:
        return [(BLUE, "-", f"median of the {len(sites):,} sites; bands: the middle half, and all of them")]
    if len(sites) > NAMED_SITES:
        return [(GREY, "-", f"each of the {len(sites)} sites")]
    return [(*_look(index, sites), printable(site, NAME_LENGTH)) for index, site in enumerate(sites)]


def draw_sites(axes: Axes, sites: Sequence[str], series: Series, marker: str, width: float) -> None:
    """Draw a line per site, or of many sites two bands and their median."""
    if len(sites) > MANY_SITES:
        _draw_bands(axes, series)
        return
    for index, (x, y) in enumerate(series):
        colour, dashes = _look(index, sites)
        mark = marker if len(sites) <= NAMED_SITES else ""
        axes.plot(x, y, dashes, color=colour, linewidth=width, marker=mark, markersize=4, alpha=0.9)


def by_entry(
    entries: Sequence[Mapping[str, Any]], sites: Sequence[str], key: str, x: Sequence[int]
) -> Series:
    """Return one value of each site in each entry of `metrics.json`."""
    told = [entry.get("sites") or {} for entry in entries]
    return [(x, [number_of(one.get(site), key) for one in told]) for site in sites]


def number_of(values: Mapping[str, Any] | None, key: str) -> float:
    """Return a number, NaN where it is not known."""
    value = (values or {}).get(key)
    return float("nan") if value is None else float(value)


def _look(index: int, sites: Sequence[str]) -> tuple[str, str]:
    if len(sites) > NAMED_SITES:
        return GREY, "-"
    return SITE_COLOURS[index % len(SITE_COLOURS)], DASHES[index // len(SITE_COLOURS) % len(DASHES)]


def _draw_bands(axes: Axes, series: Series) -> None:
    """Draw the k-th values of all lines together, where lines may be of different lengths and have their own steps."""
    most = max((len(x) for x, _ in series), default=0)
    across, values = np.full((2, len(series), most), np.nan)
    for index, (x, y) in enumerate(series):
        across[index, : len(x)], values[index, : len(y)] = x, y
    kept = np.isfinite(values).any(0)
    if not kept.any():
        return
    middle = np.nanmedian(across[:, kept], 0)
    lowest, low, median, high, highest = np.nanquantile(values[:, kept], (0, 0.25, 0.5, 0.75, 1), axis=0)
    axes.fill_between(middle, lowest, highest, color=GREY, alpha=0.2, linewidth=0)
    axes.fill_between(middle, low, high, color=BLUE, alpha=0.3, linewidth=0)
    axes.plot(middle, median, color=BLUE, linewidth=1.6)
