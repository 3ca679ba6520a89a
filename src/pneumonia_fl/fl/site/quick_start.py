"""Short waits while a forked job process starts.

NVFlare 2.9 sleeps for half a second before it looks for the server's job, before it tells its parent once more that it
is there, and for its listener: together longer than everything else that a forked process has to do.
"""

import time
from types import SimpleNamespace

from nvflare.fuel.f3.cellnet import connector_manager
from nvflare.private.fed.client import client_app_runner, client_runner

STOCK_SECONDS, SECONDS = 0.5, 0.05
MODULES = (connector_manager, client_app_runner, client_runner)


def wait_briefly() -> None:
    """Shorten these waits in this process, until `wait_as_ever`."""
    for module in MODULES:
        module.time = SimpleNamespace(sleep=_sleep, time=time.time)


def wait_as_ever() -> None:
    """Let NVFlare wait as it does: the process has started, and must not ask a server that is away all the time."""
    for module in MODULES:
        module.time = time


def _sleep(seconds: float) -> None:
    time.sleep(SECONDS if seconds == STOCK_SECONDS else seconds)
