"""Text that comes from somebody else, made fit for a log line, a terminal and a page."""

from typing import Any

TEXT_LIMIT = 200
VALUE_LIMIT = 2000
"""For a text inside a file: an error, a licence, a sentence about the data."""
DEPTH_LIMIT = 20
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def printable(text: object, limit: int = TEXT_LIMIT) -> str:
    """Return `text` as one line of at most `limit` printable characters.

    Everything that Unicode does not call printable becomes a space: control characters (so no terminal escape
    works), line breaks, marks that change the direction of text, half surrogates; a row of spaces becomes one. What
    is cut off shows as "…". Markup is left as it is: a terminal or a page has to escape its own.
    """
    # More than `limit`, because spaces go; not all of it, because it may be huge.
    head = _as_text(text)[: 4 * limit + 1]
    line = " ".join("".join(char if char.isprintable() else " " for char in head).split())
    return line if len(line) <= limit and len(head) <= 4 * limit else line[: limit - 1] + "…"


def escaped(text: object) -> str:
    """Return `text` with a backslash escape for everything that is not printable.

    A byte of a file name that is no UTF-8 (Python's half surrogate for it) becomes `\\xfc`, a line break `\\n`.
    """
    return "".join(char if char.isprintable() else _escape(char) for char in str(text))


def _escape(char: str) -> str:
    byte = ord(char) - 0xDC00
    return f"\\x{byte:02x}" if 0x80 <= byte <= 0xFF else char.encode("unicode_escape").decode()


def plain_cell(text: str) -> str:
    """Return `text` as a cell of a CSV file that a spreadsheet does not take for a formula: after an apostrophe."""
    return f"'{text}" if text.startswith(_FORMULA) else text


def printable_values(value: Any, depth: int = DEPTH_LIMIT) -> Any:
    """Return JSON values of somebody else with every text in them, keys included, made printable.

    What lies deeper than `depth` becomes text.
    """
    if isinstance(value, list | dict) and depth:
        if isinstance(value, list):
            return [printable_values(one, depth - 1) for one in value]
        return {printable(key): printable_values(one, depth - 1) for key, one in value.items()}
    return printable(value, VALUE_LIMIT) if isinstance(value, str | list | dict) else value


def utf8(content: bytes) -> str:
    """Return the text of a file that somebody may have saved with another program: with or without a byte order mark.

    Raises:
        ValueError: it is no UTF-8; the message names the line.
    """
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(no_utf8(error)) from None


def no_utf8(error: UnicodeDecodeError) -> str:
    """Describe where a text stops being UTF-8."""
    line = error.object.count(b"\n", 0, error.start) + 1
    return f"no UTF-8, line {line}"


def _as_text(value: object) -> str:
    try:
        return str(value)
    except (ValueError, RecursionError):  # an integer of thousands of digits, a list in a list in a list
        return type(value).__name__
