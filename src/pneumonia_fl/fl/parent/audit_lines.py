"""Format lines of an audit log: foreign text never becomes a field or a line of its own.

Every entry is written twice: to `audit.log` as NVFlare writes it, and to `audit.jsonl` beside it as one JSON object.
Needs the standard library only, because `fl/parent/tls_handshakes.py` uses it in a process of its own.
"""

import errno
import json
import os
import uuid
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from pneumonia_fl.inputs.text import TEXT_LIMIT, printable

PRIVATE_FILE = 0o600
MOST_MESSAGE = 1000
UNKNOWN = "?"
_BRACKETS = str.maketrans("[]", "()")


def clean(text: object, most: int = TEXT_LIMIT) -> str:
    """Return `text` on one line of at most `most` characters, without what could begin a field."""
    return printable(text, most).translate(_BRACKETS)


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
        """Return the object in `audit.jsonl`: all fields but the empty ones."""
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
        """Return the line in `audit.log`, with NVFlare's fields in NVFlare's order and its local time."""
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
        _append(self._log, entry.text())
        _append(self._lines, json.dumps(entry.record()))

    def close(self) -> None:
        """Close both."""
        os.close(self._log)
        os.close(self._lines)


def _open(path: Path) -> int:
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, PRIVATE_FILE)
    os.fchmod(descriptor, PRIVATE_FILE)  # one of an earlier version, or of another umask
    return descriptor


def _append(descriptor: int, line: str) -> None:
    data = f"{line}\n".encode()
    if os.write(descriptor, data) < len(data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
