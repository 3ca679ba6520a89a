"""NVFlare's exchange between a site's process and the training script in it, without its polling.

The script looks for a message each half second, and so does the process for the script's answer: up to a second
in each exchange, and work for nothing in the sites that wait. Here each is woken by what it waits for.
"""

import threading
import time
from typing import Any

from nvflare.app_common.executors.client_api import in_process_backend
from nvflare.client.in_process import api


class _Alarm:
    """Takes the place of the module `time` for one that waits; `longest`: seconds that it waits at most."""

    monotonic = staticmethod(time.monotonic)

    def __init__(self, longest: float) -> None:
        self._longest = longest
        self.rung = threading.Event()

    def sleep(self, seconds: float) -> None:
        """Wait until there is something to see, however short the caller would sleep."""
        self.rung.wait(self._longest)
        self.rung.clear()


def install() -> None:
    """Wake script and process in place of their polling, in this process, before NVFlare makes either."""
    # The process also looks whether the run is aborted; the script has nothing else to look for.
    task, answer = _Alarm(60.0), _Alarm(1.0)
    api.time, in_process_backend.time = task, answer
    for name in ("_InProcessClientAPI__receive_callback", "_InProcessClientAPI__ask_to_abort"):
        _ring_after(api.InProcessClientAPI, name, task.rung)
    for name in ("_local_result_callback", "_to_abort_callback"):
        _ring_after(in_process_backend.InProcessBackend, name, answer.rung)


def _ring_after(kind: type, name: str, rung: threading.Event) -> None:
    method = getattr(kind, name)

    def ringing(*arguments: Any) -> None:
        try:
            method(*arguments)
        finally:
            rung.set()

    setattr(kind, name, ringing)
