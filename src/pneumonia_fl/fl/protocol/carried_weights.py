"""Models that travel with a job: weights as safetensors in the server's half, whose SHA-256 the configuration names.

Data, not code: only `carried_models.py` reads them, and compares them with the network before it uses a number.
This module holds what a parent process, which has no PyTorch, must know of them.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path

from pneumonia_fl.inputs.names import SITE_NAME

FOLDER = "config/weights"
"""Below a deployed app."""
INITIAL = "initial"
"""Name of the model with which the training begins."""
MODEL_NAME = SITE_NAME
"""A model may be a site's own."""
MOST_BYTES = 1_000_000_000
"""All models of a job together; the largest network here has 100 MB."""


def weights_file(app: Path, name: str) -> Path:
    """Return the path of a model's weights in a deployed app."""
    return app / FOLDER / f"{name}.safetensors"


def is_weights(app: Path, path: Path) -> bool:
    """Return True when a path in a deployed app is the place of a model's weights."""
    return MODEL_NAME.fullmatch(path.stem) is not None and path == weights_file(app, path.stem)


def weights_problem(app: Path, models: Mapping[str, str], needed: bool) -> str:
    """Return why an app's weights are not those of its configuration, or "" when they are.

    Args:
        app: the folder of a deployed app.
        models: SHA-256 of each model's file, by its name.
        needed: whether the files must be there; a site gets weights from the server, as it gets any global model.
    """
    there = {file.stem: file for file in (app / FOLDER).glob("*.safetensors")}
    if unnamed := sorted(there.keys() - models.keys()):
        return f"its configuration does not name {unnamed[0]!r}"
    if needed and (missing := sorted(models.keys() - there.keys())):
        return f"{missing[0]!r} is missing"
    if sum(file.stat().st_size for file in there.values()) > MOST_BYTES:
        return f"they have more than {MOST_BYTES} bytes"
    changed = (name for name, file in there.items() if sha256_of(file) != models[name])
    return next((f"{name!r} is not what its configuration names" for name in changed), "")


def sha256_of(file: Path) -> str:
    """Return the SHA-256 of a file's content, in the form of `names.WEIGHTS_HASH`."""
    with file.open("rb") as content:
        return f"sha256:{hashlib.file_digest(content, 'sha256').hexdigest()}"
