"""Settings of a job that have an option of their own, for `run`, `submit` and `resume`."""

import json
from typing import Annotated

import typer

InitFrom = Annotated[
    str | None,
    typer.Option(
        "--init-from",
        metavar="MODEL",
        help="Start from a saved model's weights: a run folder, a model folder or file, or "
        "mlflow:models:/NAME/VERSION.",
        show_default=False,
    ),
]


def all_overrides(given: list[str] | None, **options: object) -> list[str]:
    """Return every setting that the user changes, as `key=value`; in an option's name `__` replaces the dot."""
    # As JSON, which is YAML too: a path may hold what YAML would take for its own.
    extra = {key.replace("__", "."): value for key, value in options.items() if value is not None}
    return [
        *(given or []),
        *(f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in extra.items()),
    ]
