"""Every text that docs/troubleshooting.md is keyed by is one that this program or NVFlare really writes."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import nvflare
import pytest

import pneumonia_fl
from conftest import ROOT

PAGE = ROOT / "docs" / "troubleshooting.md"
TEXT = PAGE.read_text(encoding="utf-8")
KEYS = [match[2] for match in re.finditer(r"^### (`+)(.+)\1$", TEXT, flags=re.M)]
ENOUGH = 30
"""Keys that a page for a real federation has at least."""


@cache
def own_texts() -> tuple[str, ...]:
    """Every string in our sources, one text a function's line; `…` stands for what is filled in."""
    root = Path(pneumonia_fl.__file__).parent
    return tuple(
        text for path in sorted(root.rglob("*.py")) for text in strings(path.read_text(encoding="utf-8"))
    )


def strings(source: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.JoinedStr):
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield re.sub(r"%\w|\{\w+\}", "…", node.value)


@cache
def nvflare_sources() -> tuple[str, ...]:
    root = Path(nvflare.__file__).parent
    files = [*root.rglob("*.py"), *root.rglob("*.yml"), *root.rglob("*.sh")]
    return tuple(path.read_text(encoding="utf-8", errors="replace") for path in sorted(files))


def written_by_us(key: str) -> bool:
    return any(key in text for text in own_texts())


def written_by_nvflare(key: str) -> bool:
    """Its fixed parts, in this order and in one line of a source."""
    pattern = re.compile(".*".join(re.escape(part) for part in key.split("…")))
    return any(pattern.search(source) for source in nvflare_sources())


def test_the_page_has_keys() -> None:
    assert len(KEYS) >= ENOUGH
    assert len(set(KEYS)) == len(KEYS)


@pytest.mark.parametrize("key", KEYS)
def test_a_key_is_a_text_that_is_really_written(key: str) -> None:
    assert written_by_us(key) or written_by_nvflare(key), f"nobody writes {key!r} any more"


@pytest.mark.parametrize("key", ["the flux capacitor is empty", "refuses this cat's certificate (…)"])
def test_a_text_that_nobody_writes_is_noticed(key: str) -> None:
    assert not written_by_us(key)
    assert not written_by_nvflare(key)


@pytest.mark.parametrize("section", re.split(r"^### ", TEXT, flags=re.M)[1:], ids=lambda text: text[:40])
def test_a_section_says_what_to_do(section: str) -> None:
    prose = re.sub(r"^```.*?^```", "", section.split("\n", 1)[1], flags=re.M | re.S)
    assert len(prose.split()) > 8
