"""Read files of a run or comparison folder leniently: what is missing or damaged is said, never fatal."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pneumonia_fl.errors import ConfigError
from pneumonia_fl.inputs.json_files import MAX_RECORD_BYTES, parse_json, read_json, read_limited
from pneumonia_fl.inputs.text import printable_values
from pneumonia_fl.inputs.yaml_files import read_yaml
from pneumonia_fl.runs.journal import Event

Values = dict[str, Any]
_SECTIONS = ("model", "train", "algorithm", "preprocess", "init_from", "sites")
SHAPES: dict[str, dict[str, type]] = {
    "run.json": {"sites": list, "data": dict, "mlflow": dict, "rounds": int},
    "config.yml": dict.fromkeys(_SECTIONS, dict),
    "metrics.json": {"best_round": int, "rounds": list, "sites": list, "problems": list, "missing": list},
    "model_card.json": {"data": dict, "preprocess": dict, "metrics": dict, "software": dict, "round": int},
    "summary.json": dict.fromkeys(("arms", "sites", "seeds", "findings"), list)
    | {"test": dict, "data": dict},
}
"""Of which kind a value must be, by file; one of another kind counts as missing."""


@dataclass
class LenientReader:
    """Reads files as plain values; an empty value means a file that is missing or damaged.

    `problems` says in one sentence each what is missing and what follows from it.
    """

    problems: list[str] = field(default_factory=list)

    def json(self, path: Path, consequence: str, quiet: bool = False) -> Values:
        """Read a JSON object; with `quiet` a missing file is no problem."""
        try:
            values = printable_values(read_json(path, MAX_RECORD_BYTES))
        except FileNotFoundError:
            if not quiet:
                self._note(path, "is missing", consequence)
            return {}
        except (OSError, ValueError, RecursionError):
            self._note(path, "cannot be read (damaged)", consequence)
            return {}
        return self._shaped(path, values)

    def yaml(self, path: Path, consequence: str) -> Values:
        """Read a mapping from a YAML file."""
        try:
            values = printable_values(read_yaml(path))
        except ConfigError:
            self._note(path, "is missing or damaged", consequence)
            return {}
        return self._shaped(path, values)

    def journal(self, path: Path, consequence: str) -> list[Event]:
        """Read all lines of a journal that can be read; damaged lines are counted."""
        try:
            lines = read_limited(path, MAX_RECORD_BYTES).splitlines()
        except (OSError, ValueError):
            self._note(path, "is missing or too large", consequence)
            return []
        events = [event for line in lines if (event := _event(line)) is not None]
        if lost := len(lines) - len(events):
            self.problems.append(f"{lost} of {len(lines)} lines of {path.name} cannot be read.")
        return events

    def _shaped(self, path: Path, values: object) -> Values:
        """Drop the values of a mapping whose type this version does not know."""
        if not isinstance(values, dict):
            self._note(path, "holds something else than expected", "it is not used")
            return {}
        kinds = SHAPES.get(path.name, {})
        strange = [key for key, kind in kinds.items() if not isinstance(values.get(key, kind()), kind | None)]
        for key in strange:
            self._note(path, f"has a {key!r} of an unknown kind", "it is not used")
        return {key: value for key, value in values.items() if key not in strange and value is not None}

    def _note(self, path: Path, what: str, consequence: str) -> None:
        self.problems.append(f"{path.name} {what}{': ' + consequence if consequence else ''}.")


def _event(line: bytes) -> Event | None:
    try:
        values = printable_values(parse_json(line, MAX_RECORD_BYTES))
    except ValueError:
        return None
    return values if isinstance(values, dict) and "event" in values else None
