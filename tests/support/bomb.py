"""A pickle that runs code when it is loaded."""

from pathlib import Path
from typing import Any


class Bomb:
    """Leaves the file `target` behind where it is loaded."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.target,))
