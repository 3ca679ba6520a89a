"""The one way to a person's terminal.

Names, reasons and file names come from others. So what is printed is text: nothing in it is markup, and what a terminal
would obey instead of showing (escape sequences, marks that turn the direction of text) becomes a space.
"""

import io
import sys
from typing import IO, TYPE_CHECKING, Any

import typer
from rich.console import Console
from rich.text import Text

from pneumonia_fl.inputs.text import escaped

if TYPE_CHECKING:
    from rich.progress import TextColumn


def printed(text: object) -> str:
    """Return `text` with a space for everything that is neither printable nor a line break.

    Bytes of a file name that are no UTF-8 are escaped: a reader has to recognise the file.
    """
    return "".join(char if char.isprintable() or char == "\n" else _shown(char) for char in str(text))


def _shown(char: str) -> str:
    return escaped(char) if "\ud800" <= char <= "\udfff" else " "


def replace_what_a_terminal_lacks() -> None:
    """Print `?` on stdout and stderr for a character that their encoding lacks, in place of an error."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def echo(text: object, err: bool = False, nl: bool = True) -> None:
    """Print a line of text to stdout, or to stderr."""
    # These very streams: of its own, Click would take one in UTF-8 where Python's is in ASCII.
    typer.echo(printed(text), file=sys.stderr if err else sys.stdout, nl=nl)


def terminal(stderr: bool = False, quiet: bool = False, file: IO[str] | None = None) -> Console:
    """Return a console for tables and coloured lines; colours come by `style=`, never by markup."""
    return _Terminal(stderr=stderr, quiet=quiet, file=file, markup=False, emoji=False, highlight=False)


def text_column(field: str) -> "TextColumn":
    """Return a column of progress bars that shows a field of the task as it is."""
    from rich.progress import TextColumn

    return TextColumn(field, markup=False)


class _Terminal(Console):
    def print(self, *objects: Any, crop: bool = False, **options: Any) -> None:
        """Print; what is wider than the window is not cut."""
        super().print(*objects, crop=crop, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(printed(text), **options)
