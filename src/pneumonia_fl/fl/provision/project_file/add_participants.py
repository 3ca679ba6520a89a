"""Add participants to project.yml without changing any other line.

(NVFlare's `--add_client FILE` leaves project.yml as it is, so that the next provisioning without that file would
drop the site again.)
"""

import contextlib
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

from pneumonia_fl.errors import ConfigError
from pneumonia_fl.files import write_atomic
from pneumonia_fl.fl.provision.project_file.project import Project, load_project
from pneumonia_fl.inputs.yaml_files import quoted


@contextlib.contextmanager
def added(file: Path, sites: list[str], users: list[str]) -> Iterator[None]:
    """Write participants into project.yml; when what follows in the block fails, take them out again."""
    if not sites and not users:
        yield
        return
    before = file.read_bytes() if file.is_file() else b""
    add_participants(file, sites, users)
    try:
        yield
    except BaseException:
        write_atomic(file, before, _mode(file))
        raise


def add_participants(file: Path, sites: list[str], users: list[str]) -> None:
    """Write `sites` (NAME:ORG) and `users` (EMAIL:ORG:ROLE) into project.yml.

    Raises:
        ConfigError: a text is malformed, a name is taken, or the project would not hold together; then nothing is
            written.
    """
    load_project(file)
    draft = file.with_name(f".{file.name}.draft")
    try:
        shutil.copyfile(file, draft)
        for option, text in [*(("site", site) for site in sites), *(("user", user) for user in users)]:
            _add(draft, option, text)
        write_atomic(file, draft.read_bytes(), _mode(file))
    except ConfigError as error:
        raise ConfigError(str(error).replace(str(draft), str(file))) from None
    finally:
        draft.unlink(missing_ok=True)


def _add(draft: Path, option: str, text: str) -> None:
    project = load_project(draft)
    entry = _entry(option, text)
    if entry["name"] in {participant.name for participant in project.participants}:
        raise ConfigError(f"--add-{option} {text}: {entry['name']} is in {draft} already")
    draft.write_bytes(_insert(project, entry).encode())
    try:
        load_project(draft)
    except ConfigError as error:
        reason = str(error).partition(": ")[2]
        raise ConfigError(f"--add-{option} {text}: {reason}") from None


def _mode(file: Path) -> int:
    return stat.S_IMODE(file.stat().st_mode)


def _entry(option: str, text: str) -> dict[str, str]:
    shape, kind = ("NAME:ORG", "client") if option == "site" else ("EMAIL:ORG:ROLE", "admin")
    words = text.split(":")
    if len(words) != shape.count(":") + 1 or not all(words):
        raise ConfigError(f"--add-{option} {text!r}: write {shape}")
    values = dict(zip(("name", "org", "role"), words, strict=False))
    return {"name": values.pop("name"), "type": kind, **values}


def _insert(project: Project, entry: dict[str, str]) -> str:
    """Return the file's text with `entry` after the last participant of its type."""
    types = [participant.type for participant in project.participants]
    last = max((number for number, kind in enumerate(types) if kind == entry["type"]), default=len(types) - 1)
    lines = project.file.read_bytes().decode().splitlines(keepends=True)
    first = project.lines[last] - 1
    if not lines[first].lstrip().startswith("- "):
        raise ConfigError(
            f"{project.file}: the participants are not lines that begin with `- `; add it by hand"
        )
    column, end = _column(lines[first]), first + 1
    while end < len(lines) and (_says_nothing(lines[end]) or _column(lines[end]) > column):
        end += 1
    while _says_nothing(lines[end - 1]):
        end -= 1
    while end < len(lines) and lines[end].lstrip().startswith("#") and _column(lines[end]) > column:
        end += 1  # a comment right below the entry, and as deep, belongs to it
    line_end = "\r\n" if lines[0].endswith("\r\n") else "\n"
    if not lines[end - 1].endswith(("\n", "\r")):
        lines[end - 1] += line_end
    new = [
        f"{' ' * column}{'- ' if key == 'name' else '  '}{key}: {quoted(value)}{line_end}"
        for key, value in entry.items()
    ]
    return "".join([*lines[:end], *new, *lines[end:]])


def _column(line: str) -> int:
    return len(line) - len(line.lstrip())


def _says_nothing(line: str) -> bool:
    return line.lstrip()[:1] in ("", "#")
