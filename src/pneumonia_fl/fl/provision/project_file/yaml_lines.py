"""YAML values that know their line, so that an error can name it."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import yaml

from pneumonia_fl.errors import ConfigError
from pneumonia_fl.inputs.yaml_files import compose_yaml, read_text, value_of


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
        return value_of(self.node, str(self.file))

    def text(self) -> str:
        """The value, which must be text: `on`, `12` and lists are none."""
        value = self.value
        if not isinstance(value, str):
            self.fail(f"text is expected here, not {value!r}; put it in quotes")
        return value

    def is_mapping(self) -> bool:
        """Whether it holds `key: value` lines."""
        return isinstance(self.node, yaml.MappingNode)

    def pairs(self, what: str) -> Iterator[tuple["Marked", "Marked"]]:
        """Keys and values of a mapping whose keys are names."""
        if not isinstance(self.node, yaml.MappingNode):
            self.fail(f"{what} must hold `key: value` lines")
        yield from ((Marked(key, self.file), Marked(value, self.file)) for key, value in self.node.value)

    def fail(self, text: str) -> NoReturn:
        """Raise a `ConfigError` that names file and line."""
        raise ConfigError(f"{self.file}:{self.line}: {text}")

    def items(self) -> Iterator["Marked"]:
        """The items of a list."""
        if not isinstance(self.node, yaml.SequenceNode):
            self.fail("a list is expected here (lines that begin with `- `)")
        yield from (Marked(item, self.file) for item in self.node.value)

    def fields(self, allowed: set[str], what: str) -> dict[str, "Marked"]:
        """The values of a mapping by key; an unknown key is an error."""
        found: dict[str, Marked] = {}
        for key, value in self.pairs(what):
            if key.value not in allowed:
                known = f"known: {', '.join(sorted(allowed))}" if allowed else "there are none"
                key.fail(f"unknown key {key.value!r} in {what}; {known}")
            found[key.value] = value
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
    node = compose_yaml(read_text(file), str(file))
    if node is None:
        raise ConfigError(f"{file} is empty")
    return Marked(node, file)
