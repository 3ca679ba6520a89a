"""project.yml, checked before NVFlare sees it: every error names its line.

NVFlare itself accepts much of what is wrong (an unknown key, the scheme http, GPUs outside `capacity:`) and
answers the rest with a pattern.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from nvflare.apis.utils.format_check import name_check
from pydantic import Field, ValidationError, model_validator

from pneumonia_fl.errors import ConfigError
from pneumonia_fl.fl.provision.project_file.builders import check_builders
from pneumonia_fl.fl.provision.project_file.entries import (
    Builder,
    Mistake,
    Part,
    Participant,
    ProjectName,
    Security,
    Study,
    Truth,
    Version,
)
from pneumonia_fl.inputs.yaml_files import Place, read_yaml_lines

__all__ = ["Participant", "Project", "load_project"]

_SENTENCES = {
    "string_type": "text is expected here, not {0!r}; put it in quotes",
    "tuple_type": "a list is expected here (lines that begin with `- `)",
    "dict_type": "{1} must hold `key: value` lines",
}
"""Of Pydantic's own errors, by type."""


class _File(Part):
    """Schema of project.yml."""

    what = "project.yml"
    api_version: Version
    name: ProjectName
    description: str = ""
    participants: tuple[Participant, ...]
    builders: tuple[Builder, ...]
    studies: dict[str, Study | None] = Field(default_factory=dict)
    connection_security: Security = "mtls"
    allow_log_streaming: Truth = False

    @model_validator(mode="after")
    def _holds_together(self) -> Self:
        if "studies" in self.model_fields_set and self.api_version != 4:
            raise Mistake("`studies:` needs api_version 4", "api_version")
        _check_distinct(self.participants)
        _check_types(self.participants)
        _check_studies(self.studies, self.participants)
        check_builders(self.builders)
        return self


@dataclass(frozen=True)
class Project:
    """A project.yml that holds together."""

    file: Path
    name: str
    participants: tuple[Participant, ...]
    values: dict[str, Any] = field(repr=False)
    """All that the file says, for NVFlare: what was checked, and not what the file may say a moment later."""
    lines: tuple[int, ...]
    """Line of project.yml on which each participant begins, from 1."""

    @property
    def server(self) -> Participant:
        """Return the only server."""
        return self.of_type("server")[0]

    def of_type(self, kind: str) -> list[Participant]:
        """Return participants of one type, in the file's order."""
        return [participant for participant in self.participants if participant.type == kind]


def load_project(file: Path) -> Project:
    """Read and check project.yml.

    Raises:
        ConfigError: something in it is wrong; the message names the line.
    """
    values, lines = read_yaml_lines(file)
    try:
        said = _File.model_validate(values)
    except ValidationError as error:
        raise ConfigError(f"{file}:{_described(error, lines)}") from None
    starts = tuple(lines["participants", number] for number in range(len(said.participants)))
    return Project(file, said.name, said.participants, values, starts)


def _described(error: ValidationError, lines: Mapping[Place, int]) -> str:
    """Return the first problem as `LINE: what is wrong`."""
    problem: Any = error.errors(include_url=False)[0]
    cause = problem.get("ctx", {}).get("error")
    place = (*problem["loc"], *getattr(cause, "place", ()))
    while place not in lines:  # a key that is missing, or Pydantic's mark of a fault in the key itself
        place = place[:-1]
    if problem["type"] in _SENTENCES:
        sentence = _SENTENCES[problem["type"]].format(problem["input"], place[-1])
        return f"{lines[place]}: {sentence}"
    text = f"{lines[place]}: {problem['msg'].removeprefix('Value error, ')}"
    twin = getattr(cause, "twin", None)
    return f"{text} (the first on line {lines[twin]})" if twin else text


def _check_distinct(people: tuple[Participant, ...]) -> None:
    seen: dict[str, int] = {}
    for number, one in enumerate(people):
        first = seen.setdefault(one.name.lower(), number)
        if first != number:
            text = f"there are two participants called {one.name!r}"
            raise Mistake(text, "participants", number, "name", twin=("participants", first, "name"))


def _check_types(people: tuple[Participant, ...]) -> None:
    """Require one server, and a site."""
    types = [one.type for one in people]
    if "server" not in types:
        raise Mistake("there is no server: add a participant with `type: server`", "participants")
    if types.count("server") > 1:
        second = types.index("server", types.index("server") + 1)
        text = f"a second server, {people[second].name}: a federation has one"
        raise Mistake(text, "participants", second, "name")
    if "client" not in types:
        raise Mistake("there is no site: add a participant with `type: client`", "participants")


def _check_studies(studies: Mapping[str, Study | None], people: tuple[Participant, ...]) -> None:
    """Refuse a study's sites and people that the project does not have."""
    orgs = {one.name: one.org for one in people if one.type == "client"}
    persons = {one.name for one in people if one.type == "admin"}
    for name, study in studies.items():
        if name_check(name, "study")[0] or name == "default":
            raise Mistake(
                f"a study cannot be called {name!r}: lower-case letters, digits, - and _; not default",
                *("studies", name),
            )
        for org, sites in study.site_orgs.items() if study else ():
            for number, site in enumerate(sites):
                if orgs.get(site) != org:
                    text = f"the project has no site {site!r} of org {org!r}"
                    raise Mistake(text, "studies", name, "site_orgs", org, number)
        for number, person in enumerate(study.admins if study else ()):
            if person not in persons:
                raise Mistake(f"the project has no person {person!r}", "studies", name, "admins", number)
