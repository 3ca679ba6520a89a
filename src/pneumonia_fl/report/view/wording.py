"""Numbers and lists in words, for Python and, as filters, for the templates."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any


def text_or_empty(make: Callable[[], str]) -> str:
    """Return a text, or an empty one where what it is made of is of an unknown shape."""
    try:
        return make()
    except (TypeError, ValueError, AttributeError, KeyError):
        return ""


def number(value: Any, digits: int = 3) -> str:
    """Return a metric for a table; "n/a" when there is none."""
    return "n/a" if value is None else f"{float(value):.{digits}f}"


def short(value: float) -> str:
    """Return a rate as a paper has it: `.93`."""
    return f"{value:.2f}".removeprefix("0")


def interval(ends: Iterable[float] | None, digits: int = 3) -> str:
    """Return an interval for a table; empty when there is none."""
    if ends is None:
        return ""
    low, high = ends
    return f"{low:.{digits}f} to {high:.{digits}f}"


def out_of_hundred(share: float) -> str:
    """Return a share as a count of 100, never rounded to all or nothing when it is neither."""
    if 0.995 <= share < 1:
        return "more than 99"
    return "fewer than 1" if 0 < share < 0.005 else str(round(100 * share))


def plural(count: int, word: str) -> str:
    """Return `1 site`, `2 sites`, `1,000 images`."""
    return f"{count:,} {word}{'' if count == 1 else 's'}"


def join_and(words: Iterable[str]) -> str:
    """Return `a`, `a and b`, `a, b and c`."""
    found = list(words)
    return " and ".join([", ".join(found[:-1]), found[-1]] if len(found) > 1 else found)


def duration(seconds: float) -> str:
    """Return seconds, minutes or hours."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def size(count: float) -> str:
    """Return bytes as MB or GB, powers of ten."""
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


def flatten_settings(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Return nested settings as `section.key`, value."""
    items: list[tuple[str, str]] = []
    for key, value in values.items():
        nested = isinstance(value, Mapping)
        items += flatten_settings(value, f"{prefix}{key}.") if nested else [(prefix + key, str(value))]
    return items


FILTERS: Mapping[str, Callable[..., str]] = {
    make.__name__: make
    for make in (number, short, interval, out_of_hundred, plural, join_and, duration, size)
}
