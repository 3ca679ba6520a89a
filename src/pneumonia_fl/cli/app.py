"""Parts of every command: paths with `~`, a message when it is interrupted."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import typer
from typer.core import TyperCommand

from pneumonia_fl.cli.views.terminal import echo
from pneumonia_fl.inputs.paths import expanded

INTERRUPTED = 130
Function = TypeVar("Function", bound=Callable[..., Any])


class Command(TyperCommand):
    """A command; its arguments and options that are paths come expanded."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read what was typed; the mark that Pydantic puts before an error is not for people."""
        try:
            return super().parse_args(ctx, args)
        except typer.BadParameter as error:
            error.message = error.message.removeprefix("Value error, ")
            raise

    def invoke(self, ctx: Any) -> Any:
        """Run it; Ctrl-C ends it with a word, which Typer would not say."""
        ctx.params = {name: _expanded(value) for name, value in ctx.params.items()}
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            echo("interrupted", err=True)
            raise typer.Exit(INTERRUPTED) from None


class App(typer.Typer):
    """A group of such commands."""

    def command(self, name: str | None = None, **options: Any) -> Callable[[Function], Function]:
        """Register a function as a command, as Typer does."""
        return super().command(name, cls=Command, **options)


def _expanded(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return type(value)(map(_expanded, value))
    return expanded(value) if isinstance(value, Path) else value
