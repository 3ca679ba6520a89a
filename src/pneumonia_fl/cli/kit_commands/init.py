"""`pneumonia-fl init`: six questions, and a project.yml."""

import shlex
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pneumonia_fl.cli.views.terminal import echo
from pneumonia_fl.errors import ConfigError

if TYPE_CHECKING:
    from pneumonia_fl.fl.provision.project_file.new_project import Answers

File = Annotated[Path, typer.Argument(metavar="[FILE]", help="File to write; it must not exist.")]
Given = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=ANSWER",
        help="Answer a question in advance: name, server, port, sites, lead_it or lead; repeatable.",
    ),
]
Yes = Annotated[
    bool,
    typer.Option("--yes", "-y", help="Ask nothing; questions that --set does not answer get their default."),
]


def init(file: File = Path("project.yml"), given: Given = None, yes: Yes = False) -> None:
    """Write a project.yml for a new federation from the answers to six questions.

    Example:

        pneumonia-fl init --set server=fl.example.org --set sites=north-hospital,south-hospital
    """
    from pneumonia_fl.fl.provision.project_file.new_project import Answers, write_project

    if file.exists():
        raise ConfigError(f"{file} exists; edit it, or name another file")
    answers = _with_given(Answers(), given or [])
    if not yes:
        answers = _ask(answers, {word.partition("=")[0] for word in given or []})
    write_project(file, answers)
    echo(f"{file.absolute()} is written; `pneumonia-fl provision {shlex.quote(str(file))}` makes the kits.")
    echo(
        "Add a hospital's own people with --add-user EMAIL:ORG:org_admin (its IT) or :member (its researcher)."
    )


def _with_given(answers: "Answers", given: list[str]) -> "Answers":
    from pneumonia_fl.fl.provision.project_file.new_project import QUESTIONS

    for word in given:
        key, equals, value = word.partition("=")
        if not equals or key not in QUESTIONS:
            raise ConfigError(f"--set {word}: write KEY=ANSWER; the keys are {', '.join(QUESTIONS)}")
        answers = replace(answers, **{key: value})
    return answers


def _ask(answers: "Answers", known: set[str]) -> "Answers":
    from pneumonia_fl.fl.provision.project_file.new_project import QUESTIONS, problem_of

    for key, question in QUESTIONS.items():
        problem = "" if key in known else "not asked yet"
        while problem:
            words = {key: typer.prompt(question, default=getattr(answers, key), err=True)}
            problem = problem_of(replace(answers, **words))
            if problem:
                echo(problem, err=True)
            else:
                answers = replace(answers, **words)
    return answers
