"""What a line of an audit log may hold: text of others never becomes a field or a line of its own.

Every entry is written twice: to `audit.log` as NVFlare writes it, and to `audit.jsonl` beside it as one JSON object.
Needs the standard library only, because `fl/handshakes.py` uses it in a process of its own.
"""

import json
import os
import uuid
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

PRIVATE_FILE = 0o600
MOST_FIELD = 200
"""Characters of a field; an e-mail address or a command of NVFlare's (100) fits."""
MOST_MESSAGE = 1000
UNKNOWN = "?"
_BRACKETS = str.maketrans("[]", "()")


def clean(text: object, most: int = MOST_FIELD) -> str:
    """The text on one line, of at most `most` characters, without what could begin a field or change a terminal.

    What cannot be printed (control and format characters, line and paragraph separators, lone surrogates) becomes a
    space, and brackets become parentheses.
    """
    characters = str(text)[: 4 * most].translate(_BRACKETS)
    words = "".join(each if each.isprintable() else " " for each in characters).split()
    line = " ".join(words)
    return line if len(line) <= most else f"{line[: most - 3]}..."


@dataclass(frozen=True)
class Entry:
    """One event. Fields may hold any text; what `text` and `record` return is clean."""

    action: str
    user: str = ""
    message: str = ""
    ref: str = ""
    scope: str = ""
    job: str = ""
    endpoint: str = ""
    certificate: str = ""
    event: str = field(default_factory=lambda: str(uuid.uuid4()))
    time: datetime = field(default_factory=lambda: datetime.now().astimezone())

    def record(self) -> dict[str, str]:
        """The object in `audit.jsonl`: all fields but the empty ones."""
        fields = {
            "event": self.event,
            "time": self.time.isoformat(),
            "user": clean(self.user),
            "scope": clean(self.scope),
            "job": clean(self.job),
            "action": clean(self.action),
            "ref": clean(self.ref),
            "message": clean(self.message, MOST_MESSAGE),
            "endpoint": clean(self.endpoint),
            "certificate": clean(self.certificate),
        }
        return {name: value for name, value in fields.items() if value}

    def text(self) -> str:
        """The line in `audit.log`, with NVFlare's fields in NVFlare's order and its local time."""
        values = self.record() | {"time": str(self.time.replace(tzinfo=None))}
        if "job" not in values:
            values.setdefault("user", UNKNOWN)
        letters = {
            "event": "E",
            "ref": "R",
            "time": "T",
            "user": "U",
            "scope": "S",
            "job": "J",
            "action": "A",
        }
        fields = [f"[{letter}:{values[name]}]" for name, letter in letters.items() if name in values]
        return "".join(fields) + values.get("message", "")


class AuditFiles:
    """An audit log and the JSON lines beside it, both for their owner alone."""

    def __init__(self, log: Path) -> None:
        # Opened at once: NVFlare changes its working directory, and a log that cannot be written must stop the start.
        self._log, self._lines = _open(log), _open(log.with_suffix(".jsonl"))

    def write(self, entry: Entry) -> None:
        """Append the entry to both; several processes may do so, since each line is one write."""
        os.write(self._log, f"{entry.text()}\n".encode())
        os.write(self._lines, f"{json.dumps(entry.record())}\n".encode())

    def close(self) -> None:
        """Close both."""
        os.close(self._log)
        os.close(self._lines)


def _open(path: Path) -> int:
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, PRIVATE_FILE)
    os.fchmod(descriptor, PRIVATE_FILE)  # one of an earlier version, or of another umask
    return descriptor
