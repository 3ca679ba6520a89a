"""The commands of a page, and the real command line that reads them."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from pneumonia_fl.cli.main import app

BLOCK = re.compile(r"^```(?:bash|sh|shell)[^\n]*\n(.*?)^```", flags=re.M | re.S)
# What these words start, said in our own command's words.
SCRIPTS = {"jobs/job.py": ["run"], "scripts/prepare_data.py": ["data", "prepare"]}


@dataclass(frozen=True)
class Line:
    """One command of a page, without prompt, comment and environment."""

    page: str
    words: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.page}: {shlex.join(self.words)}"

    def own(self) -> list[str] | None:
        """The words after `pneumonia-fl`; None for any other program."""
        program = Path(self.words[0]).name
        if program == "pneumonia-fl":
            return list(self.words[1:])
        if program.startswith("python") and len(self.words) > 1 and self.words[1] in SCRIPTS:
            return [*SCRIPTS[self.words[1]], *self.words[2:]]
        return None


def lines_of(page: Path) -> Iterator[Line]:
    for block in BLOCK.findall(page.read_text(encoding="utf-8")):
        for text in block.replace("\\\n", " ").splitlines():
            yield from _commands(text, page.name)


def _commands(text: str, page: str) -> Iterator[Line]:
    lexer = shlex.shlex(text.strip().removeprefix("$ "), posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    words: list[str] = []
    for word in [*lexer, ";"]:
        if set(word) <= set(";|&()<>"):  # what stands behind < or > is no program, and so no line of ours
            while words and re.fullmatch(r"\w+=.*", words[0]):
                words.pop(0)
            if words:
                yield Line(page, tuple(words))
            words = []
        else:
            words.append(word)


def parse_line(words: list[str]) -> tuple[str, dict[str, Any]]:
    """Let the real command line read its words; return the command's name and its values, and run nothing."""
    command: Any = typer.main.get_command(app)
    name: list[str] = []
    only_help, words = "--help" in words, [word for word in words if word != "--help"]
    while hasattr(command, "commands"):
        while words and words[0].startswith("-"):
            assert words[0] in {option for parameter in command.params for option in parameter.opts}, words[0]
            words = words[1:]
        if not words:
            return " ".join(name), {}
        assert words[0] in command.commands, f"there is no command {words[0]}"
        command, name, words = command.commands[words[0]], [*name, words[0]], words[1:]
    if only_help:
        return " ".join(name), {}
    with command.make_context(" ".join(name), list(words)) as context:
        return " ".join(name), dict(context.params)
