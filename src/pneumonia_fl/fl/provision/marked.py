"""YAML values that know their line, so that an error can name it."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import yaml

from pneumonia_fl.errors import ConfigError


@dataclass(frozen=True)
class Marked:
    """One node of a YAML file."""

    node: yaml.Node
    file: Path

    @property
    def line(self) -> int:
        """Line of the file, from 1."""
        return self.node.start_mark.line + 1

    @property
    def last_line(self) -> int:
        """Line on which the node's last word stands, from 1 (YAML itself counts the comments that follow)."""
        if not isinstance(self.node, yaml.CollectionNode) or self.node.flow_style:
            return self.node.end_mark.line + 1
        parts = [part for pair in self._parts() for part in pair]
        return max((Marked(part, self.file).last_line for part in parts), default=self.line)

    def _parts(self) -> list[tuple[yaml.Node, ...]]:
        if isinstance(self.node, yaml.MappingNode):
            return list(self.node.value)
        return [(item,) for item in self.node.value]

    @property
    def value(self) -> Any:
        """The plain value."""
        return yaml.SafeLoader("").construct_object(self.node, deep=True)

    def fail(self, text: str) -> NoReturn:
        """Raise a `ConfigError` that names file and line."""
        raise ConfigError(f"{self.file}:{self.line}: {text}")

    def items(self) -> Iterator["Marked"]:
        """The items of a list."""
        if not isinstance(self.node, yaml.SequenceNode):
            self.fail("a list is expected here (lines that begin with `- `)")
        yield from (Marked(item, self.file) for item in self.node.value)

    def fields(self, allowed: set[str], what: str) -> dict[str, "Marked"]:
        """The values of a mapping by key; an unknown key or one given twice is an error."""
        if not isinstance(self.node, yaml.MappingNode):
            self.fail(f"{what} must hold `key: value` lines")
        found: dict[str, Marked] = {}
        for key_node, value in self.node.value:
            key = Marked(key_node, self.file)
            if key.value not in allowed:
                key.fail(f"unknown key {key.value!r} in {what}; known: {', '.join(sorted(allowed))}")
            if key.value in found:
                key.fail(f"{key.value!r} stands twice in {what}")
            found[key.value] = Marked(value, self.file)
        return found

    def need(self, fields: dict[str, "Marked"], key: str, what: str) -> "Marked":
        """`fields[key]`, or an error at this node's line."""
        if key not in fields or fields[key].value in (None, ""):
            self.fail(f"{what} needs `{key}:`")
        return fields[key]


def read_marked(file: Path) -> Marked:
    """Parse a YAML file.

    Raises:
        ConfigError: it is missing, empty or no YAML.
    """
    try:
        node = yaml.compose(file.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    except OSError as error:
        raise ConfigError(f"cannot read {file}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{file} is not UTF-8 text") from None
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ConfigError(f"{file}:{line}: not valid YAML: {error.problem}") from None
    if node is None:
        raise ConfigError(f"{file} is empty")
    return Marked(node, file)
