"""Tables that fit: a name or a number is never cut, whole columns are left out."""

import copy
import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table

UNBOUNDED = 10_000
"""Characters of a line that goes to a file or another program."""


class FittingTable(Table):
    """A table that leaves out columns where the window is narrower, and says which.

    What is piped is as wide as its content, unless COLUMNS says otherwise. What does not fit even so runs over the
    edge of the window.

    Args:
        headers: titles of the columns.
        drop: titles of those that may be left out, the least important first.
        options: of rich's table.
    """

    def __init__(self, *headers: Any, drop: Sequence[str] = (), **options: Any) -> None:
        super().__init__(*headers, **options)
        self._drop = tuple(drop)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yield the lines of what fits."""
        bounded = console.is_terminal or "COLUMNS" in os.environ
        shown = self._fitting(console, options.max_width if bounded else UNBOUNDED)
        yield from Table.__rich_console__(shown, console, options)

    def _fitting(self, console: Console, room: int) -> Table:
        shown = self._without(console, ())
        for count in range(1, len(self._drop) + 1):
            if (shown.width or 0) <= room:
                break
            shown = self._without(console, self._drop[:count])
        return shown

    def _without(self, console: Console, dropped: Sequence[str]) -> Table:
        """Return the table with its other columns, each as wide as its content."""
        shown = copy.copy(self)
        kept = [column for column in self.columns if column.header not in dropped]
        shown.columns = [replace(column, _index=index, no_wrap=True) for index, column in enumerate(kept)]
        if dropped:
            note = f"Not shown in this width: {', '.join(dropped)}"
            shown.caption = f"{self.caption}\n{note}" if self.caption else note
        wide = console.options.update(max_width=UNBOUNDED)
        shown.width = Table.__rich_measure__(shown, console, wide).maximum
        return shown
