"""What tests of refusals share: the server's audit log, and proof that nobody was harmed."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from speed import scaled

from federation import SERVER, SITES, Federation, until
from pneumonia_fl.fl.services.status import status


@dataclass(frozen=True)
class Audit:
    """The server's audit log from some moment on."""

    file: Path
    start: int

    def refusals(self) -> list[str]:
        """The lines about what was refused."""
        text = self.file.read_bytes()[self.start :].decode()
        return [line for line in text.splitlines() if "refused: " in line]

    def tells(self, *parts: str) -> str:
        """Wait for the line with all these parts."""
        return str(until(lambda: self._find(parts), 10, f"a refusal with {parts} in {self.file}"))

    def _find(self, parts: tuple[str, ...]) -> str:
        return next((line for line in self.refusals() if all(part in line for part in parts)), "")


def audit_from_now(federation: Federation) -> Audit:
    """What the audit log says from here on."""
    file = federation.kit(SERVER) / "audit.log"
    return Audit(file, file.stat().st_size)


@contextmanager
def nobody_harmed(federation: Federation) -> Iterator[None]:
    """Afterwards the server and its sites are the same processes as before."""
    before = ready(federation)
    assert len(before) == 1 + len(SITES)
    yield
    assert ready(federation) == before


def ready(federation: Federation) -> dict[str, int]:
    """Process ids of the server and of the sites that are registered."""
    return {entry["name"]: entry["pid"] for entry in status(federation.kits) if entry["ready"]}


@pytest.fixture
def audit(federation: Federation) -> Audit:
    """What the audit log says from here on."""
    return audit_from_now(federation)


@pytest.fixture
def harmless(federation: Federation) -> Iterator[None]:
    """Fail a test that leaves another server or site running than it found."""
    with nobody_harmed(federation):
        yield


COMMANDS = """
import sys
from nvflare.fuel.flare_api.flare_api import new_secure_session
session = new_secure_session(sys.argv[1], sys.argv[2], timeout=10)
for command in sys.argv[3:]:
    reply = session.api.server_execute(command)
    print("answer:", reply["meta"].get("status"), *(item.get("data") for item in reply.get("data", [])))
session.close()
"""


def say(federation: Federation, person: str, *commands: str) -> list[str]:
    """NVFlare's answers to commands as they are, one a line."""
    words = [sys.executable, "-c", COMMANDS, person, str(federation.kit(person)), *commands]
    done = subprocess.run(words, capture_output=True, text=True, timeout=scaled(90), check=True)
    return [line.removeprefix("answer: ") for line in done.stdout.splitlines() if line.startswith("answer: ")]
