"""One labelled image of a source before it is read, and the protocol every source follows."""

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
    """

    name: str
    label: int
    patient: str
    subtype: str
    official_split: str


class Source(Protocol):
    """Labelled X-rays. A source can be pickled, so that processes read side by side."""

    @property
    def kind(self) -> str:
        """What sort of source this is; never a path."""

    @property
    def licence(self) -> str:
        """Licence of the images."""

    @property
    def credit(self) -> str:
        """Whom to credit wherever results are shown."""

    def items(self) -> list[Item]:
        """List all images sorted by name, never in the file system's order.

        Raises:
            DataError: the source is missing, damaged or holds no images.
        """

    def read(self, item: Item) -> bytes | Pixels:
        """Return the encoded file, or uint8 pixels (H,W).

        Raises:
            DataError, OSError: it cannot be read.
        """

    def hospital(self, item: Item) -> int | None:
        """Return the number of the hospital that took the image, or None when the source does not know."""
