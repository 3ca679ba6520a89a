"""Read YAML that somebody else may have written: the only YAML reader of this package.

Plain values only, no anchors, aliases, tags or merge keys, no key twice, at most `MAX_BYTES` and `MAX_DEPTH`: so a
file costs no more time and memory than its size suggests, and means what a reader sees. Errors are one line that
names the file and the line.
"""

import json
import re
from collections.abc import Hashable, Iterable, Iterator
from pathlib import Path
from typing import Any

import yaml

from pneumonia_fl.errors import ConfigError
from pneumonia_fl.inputs.json_files import MAX_DEPTH
from pneumonia_fl.inputs.text import no_utf8

MAX_BYTES = 250_000
"""Of a file: a project of a thousand hospitals has about 70,000; PyYAML needs up to 13 µs for each."""
MAX_NUMBER = 40
"""Characters of a number."""
MAX_PROBLEM = 200
"""Characters of an error, which may quote the file."""
_ANOTHER_BASE = re.compile(r"[-+]?(0[0-9_]+|[^.]*:.*)")
"""`010`, which would be 8, and `1:30`, which would be 90."""
_PLAIN_TEXT = re.compile(r"[A-Za-z][A-Za-z0-9_.@-]+")
"""What needs no quotes, unless YAML has another meaning for it."""
Place = tuple[str | int, ...]
"""Keys and numbers of items on the way from a file's value to one inside it."""
_TAG = "tag:yaml.org,2002:"
_NUMBERS = {f"{_TAG}int", f"{_TAG}float"}
_PLAIN = {*_NUMBERS, f"{_TAG}null", f"{_TAG}bool"}


# Without dates (`2026-13-01` is an error in them), `=` and `<<`: all of them are text here.
_RESOLVERS = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag in _PLAIN]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader within the limits of this module."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.yaml_implicit_resolvers = _RESOLVERS
        self._depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """Refuse what makes a small file large before it is expanded."""
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent) or event.anchor:
            raise _refusal("anchors and aliases (& and *) are not allowed", event)
        if event.tag:
            raise _refusal("tags (!) are not allowed", event)
        if self._depth == MAX_DEPTH:
            raise _refusal(f"nested deeper than {MAX_DEPTH} levels", event)
        self._depth += 1
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def compose_scalar_node(self, anchor: Any) -> yaml.ScalarNode:
        """Refuse numbers that take long to read, or are others than a reader sees."""
        node = super().compose_scalar_node(anchor)
        if node.tag in _NUMBERS and len(node.value) > MAX_NUMBER:
            raise _refusal(f"a number of more than {MAX_NUMBER} characters", node)
        if node.tag in _NUMBERS and _ANOTHER_BASE.fullmatch(node.value):
            raise _refusal(
                f"YAML would read {node.value} to the base 8 or 60; write a number without a leading zero and "
                "without colons, or a text in quotes",
                node,
            )
        return node

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """Refuse keys that hide others."""
        node = super().compose_mapping_node(anchor)
        seen: set[Hashable] = set()
        for key, _ in node.value:
            value = self.construct_object(key, deep=True) if isinstance(key, yaml.ScalarNode) else None
            if value is None or value == "<<":
                raise _refusal("a key must be a word, and not <<", key)
            if value in seen:
                raise _refusal(f"{value!r} occurs twice in one mapping", key)
            seen.add(value)
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """Name the line of a value like `0b_`, which looks like a number and is none."""
        try:
            return super().construct_object(node, deep)
        except ValueError:
            raise _refusal("not a number", node) from None


def parse_yaml(text: str, source: str) -> Any:
    """Return the value of a YAML text; None when it is empty.

    Raises:
        ConfigError: it is not YAML, or exceeds a limit of this module; the message begins with `source` and the line.
    """
    node = _compose(text, source)
    return None if node is None else _value_of(node, source)


def _compose(text: str, source: str) -> yaml.Node | None:
    if len(text) > MAX_BYTES:
        raise _too_large(source)
    try:
        return _Loader(text).get_single_node()
    except yaml.YAMLError as error:
        raise ConfigError(f"{source}:{_problem(text, error)}") from None


def _value_of(node: yaml.Node, source: str) -> Any:
    try:
        return _Loader("").construct_document(node)
    except yaml.YAMLError as error:
        raise ConfigError(f"{source}:{_problem('', error)}") from None


def _lines(node: yaml.Node, value: Any, place: Place = ()) -> Iterator[tuple[Place, int]]:
    yield place, node.start_mark.line + 1
    parts: Iterable[tuple[str | int, yaml.Node, yaml.Node]] = ()
    if isinstance(node, yaml.MappingNode):
        parts = ((name, key, item) for name, (key, item) in zip(value, node.value, strict=True))
    elif isinstance(node, yaml.SequenceNode):
        parts = ((number, item, item) for number, item in enumerate(node.value))
    for name, start, item in parts:
        yield from _lines(item, value[name], (*place, name))
        yield (*place, name), start.start_mark.line + 1


def read_text(path: Path) -> str:
    """Return the text of a file within `MAX_BYTES`.

    Raises:
        ConfigError: it cannot be read, is too large, or is not UTF-8.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from None
    if len(content) > MAX_BYTES:
        raise _too_large(str(path))
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text ({no_utf8(error)}); save it as UTF-8") from None


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the mapping in a YAML file.

    Raises:
        ConfigError: it is missing, broken, exceeds a limit, or holds something else.
    """
    values = parse_yaml(read_text(path), str(path))
    if not isinstance(values, dict):
        raise ConfigError(f"{path} must hold `key: value` lines")
    return values


def read_yaml_lines(path: Path) -> tuple[Any, dict[Place, int]]:
    """Return the value of a YAML file that is not empty, and the line, from 1, of every key and list item in it.

    Raises:
        ConfigError: as `read_yaml`.
    """
    node = _compose(read_text(path), str(path))
    if node is None:
        raise ConfigError(f"{path} is empty")
    value = _value_of(node, str(path))
    return value, dict(_lines(node, value))


def quoted(text: str) -> str:
    """Write a text as YAML: in quotes where it would be a word, a number or a date otherwise (`no`, `007`, `1e3`)."""
    plain = _PLAIN_TEXT.fullmatch(text) and parse_yaml(text, text) == text
    return text if plain else json.dumps(text, ensure_ascii=False)  # which is YAML too


def _refusal(text: str, where: Any) -> yaml.MarkedYAMLError:
    return yaml.composer.ComposerError(problem=text, problem_mark=where.start_mark)


def _too_large(source: str) -> ConfigError:
    return ConfigError(f"{source} is larger than {MAX_BYTES // 1000} kB, the most that a YAML file may have")


def _problem(text: str, error: yaml.YAMLError) -> str:
    """Return `LINE: what is wrong`."""
    if isinstance(error, yaml.MarkedYAMLError):
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        return f"{line}: not valid YAML: {str(error.problem)[:MAX_PROBLEM]}"
    # A character that YAML does not allow; its error has a place, and no line.
    line = text.count("\n", 0, getattr(error, "position", 0)) + 1
    return f"{line}: not valid YAML: {getattr(error, 'reason', 'unreadable')}"
