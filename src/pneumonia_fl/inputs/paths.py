"""Paths: as a person writes them, and what is said of one that leads nowhere."""

from collections.abc import Callable
from pathlib import Path

from pneumonia_fl.errors import ConfigError
from pneumonia_fl.inputs.names import nearest

LINKS = "pneumonia-fl-"
"""Begins the name of a temporary folder with links; see `without_spaces`."""
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


def missing(path: Path, advice: str = "") -> str:
    """Return `PATH does not exist`, with the path that was probably meant, or with `advice`.

    What was meant is the nearest name beside the first part of the path that leads nowhere.
    """
    first = next((one for one in reversed(path.parents) if not one.exists()), path)
    near = nearest(first.name, _names_in(first.parent))
    if near:
        return f"{path} does not exist; did you mean {first.parent / near / path.relative_to(first)}?"
    return f"{path} does not exist" + (f"; {advice}" if advice else "")


def without_spaces(folder: Path, name: str, home: Callable[[], Path]) -> Path:
    """Return a path to `folder` that holds no space: itself, or a link `name` in the folder that `home` gives."""
    if not any(character.isspace() for character in str(folder)):
        return folder
    link = home() / name
    link.unlink(missing_ok=True)
    link.symlink_to(folder, target_is_directory=True)
    return link


def _names_in(folder: Path) -> list[str]:
    try:
        return [one.name for one, _ in zip(folder.iterdir(), range(MOST_NAMES), strict=False)]
    except OSError:
        return []
