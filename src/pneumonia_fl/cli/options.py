"""Options of more than one command."""

from pathlib import Path
from typing import Annotated

import typer

Kit = Annotated[
    Path | None,
    typer.Option("--kit", help="Your startup kit: at the hospitals of its project.", show_default=False),
]
Study = Annotated[str, typer.Option("--study", help="NVFlare study.")]
Sites = Annotated[
    str | None,
    typer.Option(
        "--sites", help="Names with commas between; default: all that are there.", show_default=False
    ),
]
Timeout = Annotated[
    float | None,
    typer.Option("--timeout", min=0, help="Minutes after which to stop watching; the job goes on."),
]


def names(text: str | None) -> tuple[str, ...]:
    """Names that stand in one option with commas between."""
    return tuple(name for part in (text or "").split(",") if (name := part.strip()))
