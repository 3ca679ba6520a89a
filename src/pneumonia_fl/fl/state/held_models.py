"""Sites' own models on the server's disk while they wait for their turn, in a file without a name.

All of them would not fit into memory. Nobody can open the file, and it is gone with the process, however that ends.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load, save

from pneumonia_fl.files import output_errors

Parameters = dict[str, Any]


class HeldModels:
    """Models by name; `close` frees their space.

    Args:
        folder: lies on the disk that takes them; it is made when it is missing.

    Raises:
        OutputError: there is no room for a model, or the folder cannot be written to.
    """

    def __init__(self, folder: Path) -> None:
        self._folder, self._places = folder, dict[str, tuple[int, int]]()
        with output_errors(folder):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 (held open until `close`)

    def put(self, name: str, model: Parameters) -> None:
        """Write a model to the end of the file."""
        content = save({key: np.asarray(value, order="C") for key, value in model.items()})
        with output_errors(self._folder):
            place = self._file.seek(0, 2)
            self._file.write(content)
        self._places[name] = (place, len(content))

    def each(self) -> Iterator[tuple[str, Parameters]]:
        """Load the models one after the other, in the order of their names."""
        for name, (place, size) in sorted(self._places.items()):
            self._file.seek(place)
            yield name, load(self._file.read(size))

    def close(self) -> None:
        """Delete the models."""
        self._file.close()
