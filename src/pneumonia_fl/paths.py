"""Paths: as a person writes them, and what is said of one that leads nowhere."""

from pathlib import Path

from pneumonia_fl.errors import ConfigError
from pneumonia_fl.names import did_you_mean

MOST_NAMES = 1000
"""Of a folder that are compared with a mistyped one."""


def expanded(path: str | Path) -> Path:
    """Return a path that a person has written, with `~` and `~user` replaced by the home folder.

    A shell leaves the `~` of `--out=~/x` and of a file's text as it is.

    Raises:
        ConfigError: there is no such user, or no home folder.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise ConfigError(
            f"{path}: no home folder is known for {Path(path).parts[0]}; write the whole path"
        ) from None


def missing(path: Path) -> str:
    """Return `PATH does not exist`, with the nearest name that does: of its first part that leads nowhere."""
    first = next((one for one in reversed(path.parents) if not one.exists()), path)
    near = did_you_mean(first.name, _names_in(first.parent))
    if not near:
        return f"{path} does not exist"
    name = near.removeprefix("; did you mean ").removesuffix("?")
    return f"{path} does not exist; did you mean {first.parent / name / path.relative_to(first)}?"


def _names_in(folder: Path) -> list[str]:
    try:
        return [one.name for one, _ in zip(folder.iterdir(), range(MOST_NAMES), strict=False)]
    except OSError:
        return []
