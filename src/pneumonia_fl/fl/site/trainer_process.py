"""The trainer's process, forked from the server that its job process was forked from.

NVFlare's `ExternalProcessBackend` starts it with `subprocess.Popen` and has no place to say otherwise. So what it knows
as `subprocess` is replaced, in a job process that was forked.
"""

import contextlib
import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from nvflare.app_common.executors.client_api import external_process_backend

from pneumonia_fl.runs.processes.fork_server import is_forked
from pneumonia_fl.runs.processes.warm import WarmProcess

MODULE = "pneumonia_fl.fl.site.client"
GROUP_SECONDS = 0.002
"""Between two looks whether a forked process leads its group."""


class ForkedTrainer(WarmProcess):
    """A trainer's process, with the pipe from which NVFlare reads its log.

    Args:
        command: `python -m MODULE SETTINGS`.
        cwd: where it works.
        env: all of its environment.
    """

    def __init__(self, command: Sequence[str], cwd: str, env: Mapping[str, str]) -> None:
        reader, writer = os.pipe()
        try:
            super().__init__(
                "pneumonia_fl.fl.kit.start:run_program",
                (command[2:],),
                environment=env,
                folder=Path(cwd),
                streams={1: writer, 2: writer},
                words=command,
            )
        finally:
            os.close(writer)
        self.stdout = os.fdopen(reader, "rb")
        self._await_group()

    def _await_group(self) -> None:
        """Return when it leads a group, by which NVFlare knows whether it lives, or is gone."""
        with contextlib.suppress(ProcessLookupError):
            while self.poll() is None and os.getpgid(self.pid) != self.pid:
                time.sleep(GROUP_SECONDS)


def fork_trainers() -> None:
    """Have NVFlare fork the trainers of this process, if it was forked itself."""
    if is_forked():
        external_process_backend.subprocess = SimpleNamespace(
            Popen=_start,
            PIPE=subprocess.PIPE,
            STDOUT=subprocess.STDOUT,
            TimeoutExpired=subprocess.TimeoutExpired,
        )


def _start(command: Sequence[str], **options: Any) -> "ForkedTrainer | subprocess.Popen[bytes]":
    """Fork our own trainer; another program of a relaxed site's job is executed."""
    if command[1:3] == ["-m", MODULE]:
        return ForkedTrainer(command, options["cwd"], options["env"])
    return subprocess.Popen(command, **options)
