"""Tells, as lines of JSON, what a Python has installed and what its torch sees.

It is run by the Python that will start the kit, which may be another one than ours: it needs the standard library
only, and imports nothing of this package to get going.
"""

import importlib
import json
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import Any

PACKAGES = ("pneumonia-fl", "nvflare", "torch")
MODULES = ("pneumonia_fl", "nvflare", "torch")


def installed() -> dict[str, Any]:
    """Return the versions by package (None: not installed), without importing them."""
    return {"python": platform.python_version(), "versions": {name: _version(name) for name in PACKAGES}}


def usable() -> dict[str, Any]:
    """Return the packages that cannot be imported, and the GPUs; it imports torch, which takes seconds."""
    errors = [error for error in map(_import_error, MODULES) if error]
    return {"errors": errors, "gpus": [] if errors else _gpus()}


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _import_error(name: str) -> str | None:
    try:
        importlib.import_module(name)
    except Exception as error:
        return f"{name}: {error}"
    return None


def _gpus() -> list[str]:
    import torch

    found = []
    for number in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(number)
        found.append(f"{properties.name} ({properties.total_memory / 2**30:.0f} GiB)")
    return found


if __name__ == "__main__":
    for part in (installed, usable):
        sys.stdout.write(json.dumps(part()) + "\n")
        sys.stdout.flush()
