"""Folders that all test processes of one session share."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock


def shared_folder(factory: pytest.TempPathFactory) -> Path:
    """The temporary folder that the workers of pytest-xdist have in common."""
    own = factory.getbasetemp()
    return own.parent if "PYTEST_XDIST_WORKER" in os.environ else own


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """The folder `name`, made by the first of all test processes that asks for it; nobody may change it."""
    common = shared_folder(factory)
    folder, done = common / "made-once" / name, common / f"made-once-{name.replace('/', '-')}.done"
    with FileLock(done.with_suffix(".lock")):
        if not done.exists():
            folder.parent.mkdir(parents=True, exist_ok=True)
            make(folder)
            done.touch()
    return folder
