"""A first project.yml, from a few answers."""

import tempfile
from dataclasses import dataclass, fields
from pathlib import Path
from string import Template

from pneumonia_fl.errors import ConfigError
from pneumonia_fl.files import write_new
from pneumonia_fl.fl.kit.assets import provisioning_folder
from pneumonia_fl.fl.provision.project_file.project import load_project
from pneumonia_fl.inputs.yaml_files import quoted

TEMPLATE = "project.template.yml"


@dataclass(frozen=True)
class Answers:
    """Answers for a new project.yml; the defaults run everything on this machine."""

    name: str = "pneumonia_fl"
    """Name of the federation."""
    server: str = "localhost"
    """Host name or address of the server."""
    port: str = "8002"
    sites: str = "europe-hospital, asia-hospital, us-hospital"
    """Names of the hospitals' sites."""
    lead_it: str = "lead-it@consortium.org"
    """Who runs the server."""
    lead: str = "lead@consortium.org"
    """Who submits the jobs."""


QUESTIONS = {
    "name": "Name of the federation (letters, digits, - and _)",
    "server": "Host name or address under which sites and people reach the server",
    "port": "Its port",
    "sites": "The hospitals' sites, with commas between them",
    "lead_it": "E-mail address of the person who runs the server",
    "lead": "E-mail address of the lead researcher, who submits the jobs",
}


def problem_of(answers: Answers) -> str:
    """Return what is wrong with the answers, or ""."""
    with tempfile.TemporaryDirectory() as folder:
        draft = Path(folder) / "project.yml"
        draft.write_text(project_text(answers), encoding="utf-8")
        try:
            load_project(draft)
        except ConfigError as error:
            return str(error).partition(": ")[2]  # without a line of a file that the user has not seen
    return ""


def project_text(answers: Answers) -> str:
    """Return project.yml."""
    words = {one.name: quoted(getattr(answers, one.name).strip()) for one in fields(answers)}
    port = answers.port.strip()
    words["port"] = str(int(port)) if port.isdecimal() else quoted(port)
    words["sites"] = "\n".join(map(_site, filter(None, map(str.strip, answers.sites.split(",")))))
    return Template((provisioning_folder() / TEMPLATE).read_text(encoding="utf-8")).substitute(words)


def write_project(file: Path, answers: Answers) -> None:
    """Write a project.yml that is not there yet.

    Raises:
        ConfigError: an answer will not do, or the file exists.
        OutputError: it cannot be written.
    """
    if problem := problem_of(answers):
        raise ConfigError(problem)
    try:
        write_new(file, project_text(answers).encode())
    except FileExistsError:
        raise ConfigError(f"{file} exists; edit it, or name another file") from None


def _site(name: str) -> str:
    return f"  - name: {quoted(name)}\n    type: client\n    org: {quoted(name.replace('-', '_'))}"
