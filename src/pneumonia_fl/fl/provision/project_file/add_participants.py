"""Adding participants to project.yml without touching a word of what stands there.

(NVFlare's `--add_client FILE` leaves project.yml as it is, so that the next provisioning without that file would
drop the site again.)
"""

import contextlib
import json
import re
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

from pneumonia_fl.errors import ConfigError
from pneumonia_fl.files import write_atomic
from pneumonia_fl.fl.provision.project_file.project import Participant, Project, load_project
from pneumonia_fl.inputs.yaml_files import parse_yaml

PLAIN = re.compile(r"[A-Za-z][A-Za-z0-9_.@-]+")
"""What needs no quotes, unless YAML has another meaning for it."""


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
    """The file's text with `entry` after the last participant of its type."""
    after = (project.of_type(entry["type"]) or list(project.participants))[-1]
    lines = project.file.read_bytes().decode().splitlines(keepends=True)
    if not lines[after.last_line - 1].strip() or lines[_first_line(lines, after)][after.indent] != "-":
        raise ConfigError(
            f"{project.file}: the participants are not written as a list with `-`; add it by hand"
        )
    place = after.last_line
    while place < len(lines) and _belongs(lines[place], after):
        place += 1
    end = "\r\n" if lines[0].endswith("\r\n") else "\n"
    if not lines[place - 1].endswith(("\n", "\r")):
        lines[place - 1] += end
    margin = " " * after.indent
    new = [
        f"{margin}{'- ' if key == 'name' else '  '}{key}: {_scalar(value)}{end}"
        for key, value in entry.items()
    ]
    return "".join([*lines[:place], *new, *lines[place:]])


def _scalar(text: str) -> str:
    """A text as YAML: in quotes where it would be a word, a number or a date otherwise (`no`, `007`, `1e3`)."""
    plain = PLAIN.fullmatch(text) and parse_yaml(text, text) == text
    return text if plain else json.dumps(text, ensure_ascii=False)  # which is YAML too


def _first_line(lines: list[str], participant: Participant) -> int:
    """Index of the line with the participant's `-`."""
    place = participant.last_line - 1
    while place and not lines[place].startswith(" " * participant.indent + "-"):
        place -= 1
    return place


def _belongs(line: str, participant: Participant) -> bool:
    """Whether a line is a comment inside the participant's entry."""
    text = line.lstrip()
    return text.startswith("#") and len(line) - len(text) > participant.indent
