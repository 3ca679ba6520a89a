"""Adding participants to project.yml without touching a word of what stands there.

(NVFlare's `--add_client FILE` leaves project.yml as it is, so that the next provisioning without that file would
drop the site again.)
"""

import stat
from pathlib import Path

from pneumonia_fl.data.files import write_atomic
from pneumonia_fl.errors import ConfigError
from pneumonia_fl.fl.provision.project import Participant, Project, load_project


def add_participants(file: Path, sites: list[str], users: list[str]) -> None:
    """Write `sites` (NAME:ORG) and `users` (EMAIL:ORG:ROLE) into project.yml.

    Raises:
        ConfigError: a text is malformed, a name is taken, or the project would not hold together; then nothing is
            written.
    """
    for option, text in [*(("site", site) for site in sites), *(("user", user) for user in users)]:
        _add(file, option, text)


def _add(file: Path, option: str, text: str) -> None:
    project = load_project(file)
    entry = _entry(option, text)
    if entry["name"] in {participant.name for participant in project.participants}:
        raise ConfigError(f"--add-{option} {text}: {entry['name']} is in {file} already")
    changed = _insert(project, entry)
    draft = file.with_name(f".{file.name}.draft")
    try:
        draft.write_text(changed, encoding="utf-8")
        load_project(draft)
    except ConfigError as error:
        reason = str(error).partition(": ")[2]
        raise ConfigError(f"--add-{option} {text}: {reason}") from None
    finally:
        draft.unlink(missing_ok=True)
    write_atomic(file, changed.encode(), stat.S_IMODE(file.stat().st_mode))


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
    lines = project.file.read_text(encoding="utf-8").splitlines()
    if not lines[after.last_line - 1].strip() or lines[_first_line(lines, after)][after.indent] != "-":
        raise ConfigError(
            f"{project.file}: the participants are not written as a list with `-`; add it by hand"
        )
    place = after.last_line
    while place < len(lines) and _belongs(lines[place], after):
        place += 1
    margin = " " * after.indent
    new = [f"{margin}{'- ' if key == 'name' else '  '}{key}: {value}" for key, value in entry.items()]
    return "\n".join([*lines[:place], *new, *lines[place:]]) + "\n"


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
