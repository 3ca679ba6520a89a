"""One labelled image of a source before it is read, and the protocol every source follows."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from pneumonia_fl.data.store import Pixels

UNKNOWN_LICENCE = "unknown; ask the owner of the data"


@dataclass(frozen=True, slots=True)
class Item:
    """One image of a source before it is read.

    Attributes:
        name: its name inside the source.
        label: NORMAL or PNEUMONIA.
        patient: key that is the same for all pictures of one person.
        subtype: "normal", "bacterial", "viral" or "unknown".
        official_split: "train", "val", "test", or "" when the source has no splits.
        known: whether the source tells the patient; if not, the image counts as a patient of its own.
    """

    name: str
    label: int
    patient: str
    subtype: str
    official_split: str
    known: bool = True


LeftOut = Sequence[tuple[str, str]]
"""Names of files that are no images of a class, each with the reason."""


@dataclass(frozen=True, slots=True)
class Contents:
    """Everything that a source holds: images of a class, and what is left out."""

    items: list[Item]
    left_out: LeftOut


class Source(Protocol):
    """Labelled X-rays. A source can be pickled, so that processes read side by side."""

    kind: str
    """What sort of source this is; never a path."""
    licence: str
    """Licence of the images."""
    credit: str
    """Whom to credit wherever results are shown."""
    contents: Contents
    """What the source holds, listed once when it is opened, by name and never in the file system's order."""

    @property
    def left_out(self) -> LeftOut:
        """Count the files of the source that are not images to use."""
        return self.contents.left_out

    def items(self) -> list[Item]:
        """Return all images sorted by name."""
        return self.contents.items

    def read(self, item: Item) -> bytes | Pixels:
        """Return the encoded file, or uint8 pixels (H,W).

        Raises:
            DataError, OSError: it cannot be read.
        """

    def hospital(self, item: Item) -> int | None:
        """Return the number of the hospital that took the image, or None when the source does not know."""
        return None
