"""Text of others becomes one bounded line without anything that acts on a terminal."""

import os
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pneumonia_fl.inputs.text import TEXT_LIMIT, escaped, plain_cell, printable


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("MemoryError: 3 GB", "MemoryError: 3 GB"),
        ("Röntgen 胸部 ü", "Röntgen 胸部 ü"),
        ("two\nlines\r\n\tand more", "two lines and more"),
        ("\x1b]0;title\x07\x1b[2Jgone", "]0;title [2Jgone"),
        ("\u202eesrever\u2066x\u200b", "esrever x"),
        ("half \ud800 pair", "half pair"),
        ("", ""),
        (None, "None"),
        (ValueError("a\x00b"), "a b"),
    ],
)
def test_what_is_not_printable_becomes_a_space(text: object, line: str) -> None:
    assert printable(text) == line


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Röntgen 胸部.png", "Röntgen 胸部.png"),
        (os.fsdecode(b"M\xfcller.jpeg"), r"M\xfcller.jpeg"),
        ("a\r\nb\x1b[31m", r"a\r\nb\x1b[31m"),
        ("\u202e\ud800", r"\u202e\ud800"),
        (Path("x/y"), "x/y"),
    ],
)
def test_what_is_not_printable_in_a_file_name_is_escaped(text: object, shown: str) -> None:
    assert escaped(text) == shown


def test_long_text_is_cut_and_says_so() -> None:
    assert printable("x" * 200) == "x" * 200
    assert printable("x" * 201) == "x" * 199 + "…"
    assert printable("\n" * 10**6 + "x", limit=5) == "…"
    assert printable("abcdef", limit=3) == "ab…"


def test_what_has_no_text_is_named_by_its_type() -> None:
    assert printable(10 ** (sys.get_int_max_str_digits() + 1)) == "int"


@given(st.text())
def test_any_text_is_one_printable_line_and_stays_the_same_the_second_time(text: str) -> None:
    line = printable(text)
    assert line.isprintable()
    assert len(line) <= TEXT_LIMIT
    assert printable(line) == line


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@x", "\tx", "\rx"])
def test_a_cell_is_no_formula(text: str) -> None:
    assert plain_cell(text) == f"'{text}"


@pytest.mark.parametrize("text", ["", "a=b", "chest_xray/train/-1.jpeg", " x"])
def test_other_cells_stay_as_they_are(text: str) -> None:
    assert plain_cell(text) == text
