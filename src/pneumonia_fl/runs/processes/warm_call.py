"""Calling a function in a process that has its modules loaded already."""

import importlib
import pickle
import tempfile
from pathlib import Path
from typing import Any

from pneumonia_fl.config.environment import child_environment
from pneumonia_fl.errors import RunError
from pneumonia_fl.runs.processes.fork_server import can_fork
from pneumonia_fl.runs.processes.warm import WarmProcess


def call(function: str, *arguments: Any) -> Any:
    """Return what a function returns, or raise what it raises; where nothing is forked it is called here.

    Args:
        function: `package.module:name`.
        arguments: pickled; so is what comes back.

    Raises:
        RunError: its process was killed.
    """
    if not can_fork():
        return _named(function)(*arguments)
    with tempfile.TemporaryDirectory(prefix="pneumonia-fl-") as folder:
        answer = Path(folder) / "answer"
        process = WarmProcess(
            f"{__name__}:_answer", (function, arguments, answer), environment=child_environment()
        )
        try:
            process.wait()
        finally:
            process.kill()
        if not answer.is_file():
            raise RunError(f"{function.partition(':')[2]} was ended before it was done")
        value, error = pickle.loads(answer.read_bytes())  # noqa: S301 - of the process that we started
    if error is not None:
        raise error
    return value


def _answer(function: str, arguments: tuple[Any, ...], answer: Path) -> None:
    value, problem = None, None
    try:
        value = _named(function)(*arguments)
    except Exception as error:
        problem = error
    answer.write_bytes(pickle.dumps((value, problem)))


def _named(function: str) -> Any:
    module, _, name = function.partition(":")
    return getattr(importlib.import_module(module), name)
