"""Read NVFlare's logs and its restart loop's output: the errors, the starts, the end of each.

A line of a log is `TIME - COMPONENT - LEVEL - [CONTEXT] - TEXT`, on the console without the component; the context is
left out where there is none.
"""

import re
from collections.abc import Iterator
from pathlib import Path

LOG_FILE = "log.txt"
ATTEMPT = "new pid "
"""The restart loop prints it each time it starts the server or site."""
GAVE_UP = "System is in trouble"
LOOP = (ATTEMPT, GAVE_UP, "WORKSPACE set to", "PYTHONPATH is", "start fl because", "Gracefully shutdown")
"""What the restart loop itself says."""
TOO_EARLY = "RuntimeError: Login failed."
"""NVFlare's server opens its port a tenth of a second before it can check anybody; the loop starts that site again."""
READY = {"server": "Server started", "site": "Successfully registered client:"}
NO_CONNECTION = "Not Connected] is closed"
_LOGGED = re.compile(r" - (?:ERROR|CRITICAL) - (?:\[[^]]*\] - )?(?P<text>.+)")
_RAISED = re.compile(r"(?:\w+\.)*(?P<text>\w*(?:Error|Exception|NotAuthenticated): .+)")


def first_error(logs: Path) -> str:
    """Return the first error in the logs below a folder, "" when there is none."""
    # A line begins with its time, so the smallest line is the earliest.
    return error_in(min((line for line, _ in lines_with(" - ERROR - ", logs)), default=""))


def last_error(text: str) -> str:
    """Return the last error in a log or in what a process printed, "" when there is none."""
    return next(filter(None, map(error_in, reversed(text.splitlines()))), "")


def error_in(line: str) -> str:
    """Return the error that a line tells, without its time and origin; "" when it tells none."""
    found = _LOGGED.search(line) or _RAISED.match(line)
    return found["text"].strip() if found else ""


def last_words(text: str) -> str:
    """Return the last line that the restart loop did not write, "" when there is none."""
    said = [line.strip() for line in text.splitlines() if not line.startswith(LOOP)]
    return next((line for line in reversed(said) if line), "")


def attempts(text: str) -> list[str]:
    """Return what each start printed, from its process id on; a first one that came too early does not count."""
    found = text.split(ATTEMPT)[1:]
    return found[1:] if found and TOO_EARLY in found[0] else found


def lines_with(text: str, logs: Path) -> Iterator[tuple[str, Path]]:
    """Yield the lines that contain `text` in the logs below a folder, with their files."""
    for log in logs.rglob(LOG_FILE):
        for line in read(log).splitlines():
            if text in line:
                yield line, log


def read(file: Path) -> str:
    """Return what a log says so far, "" before there is one."""
    try:
        return file.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return ""
