"""Options of more than one command."""

from pathlib import Path
from typing import Annotated

import typer

Kit = Annotated[
    Path | None,
    typer.Option("--kit", help="Your startup kit: evaluate at the sites of its project.", show_default=False),
]
Study = Annotated[str, typer.Option("--study", help="Name of the NVFlare study.")]
Sites = Annotated[
    str | None,
    typer.Option("--sites", help="Site names, separated by commas; default: all sites.", show_default=False),
]
Timeout = Annotated[
    float | None,
    typer.Option("--timeout", min=0, help="Minutes after which to stop watching; the job continues."),
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON, and nothing else.")]
Data = Annotated[Path | None, typer.Option("--data", help="Prepared data (`pneumonia-fl data prepare`).")]
Force = Annotated[bool, typer.Option("--force", help="Replace an earlier run in --out.")]
Model = Annotated[Path, typer.Argument(help="A run folder, a model folder, or a .safetensors/.pt file.")]


def seconds(minutes: float | None) -> float | None:
    """Return what `--timeout` says in seconds; None: never."""
    return None if minutes is None else 60 * minutes


def names(text: str | None) -> tuple[str, ...]:
    """Split an option's value at its commas."""
    return tuple(name for part in (text or "").split(",") if (name := part.strip()))
