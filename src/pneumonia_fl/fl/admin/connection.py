"""NVFlare's login without what it waits for and loads in vain: a session is open as soon as the server answers."""

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

from nvflare.fuel.f3 import communicator
from nvflare.fuel.f3.cellnet.fqcn import FQCN
from nvflare.fuel.f3.drivers.grpc_driver import GrpcDriver
from nvflare.fuel.hci.client import api
from nvflare.fuel.utils.log_utils import get_obj_logger
from nvflare.private.fed.authenticator import Authenticator

CONNECTED_SECONDS = 5.0
"""How long to wait for the connection before NVFlare asks anyway, and repeats that in its own way."""


class PromptAuthenticator(Authenticator):
    """Ask the server who it is when the connection is there.

    NVFlare's own (`nvflare/private/fed/authenticator.py`, `authenticate`) asks at once, while gRPC still shakes hands,
    and then sleeps for its `retry_interval`, a second: half of what a command like `jobs` took.
    """

    def authenticate(self, *arguments: Any, **named: Any) -> Any:
        """Wait for the connection, then authenticate as NVFlare does."""
        self.logger = get_obj_logger(Authenticator)  # what it says stays NVFlare's, which `session` silences
        connected, core = threading.Event(), self.cell.core_cell
        core.set_cell_connected_cb(lambda agent: connected.set())
        if not core.is_cell_connected(FQCN.ROOT_SERVER):  # it may have been there before the callback
            connected.wait(CONNECTED_SECONDS)
        return super().authenticate(*arguments, **named)


@contextlib.contextmanager
def prompt_login() -> Iterator[None]:
    """Make a login inside the block prompt: with `PromptAuthenticator`, and without drivers that no kit uses."""
    # `AdminAPI.connect` takes the class from its own module's names (`nvflare/fuel/hci/client/api.py`).
    own, api.Authenticator = api.Authenticator, PromptAuthenticator
    try:
        with _only_grpc():
            yield
    finally:
        api.Authenticator = own


@contextlib.contextmanager
def _only_grpc() -> Iterator[None]:
    """Keep NVFlare from loading every driver there is, an HTTP server among them, to find that of gRPC.

    `load_comm_drivers` (`nvflare/fuel/f3/communicator.py`) imports all modules of its folder. A kit is for gRPC
    (`fl/provision/project_file/builders.py`). After the block NVFlare finds the others as ever.
    """
    manager, loaded = communicator.driver_mgr, communicator.driver_loaded
    if not loaded and GrpcDriver.__name__ not in manager.class_cache:
        manager.class_cache.add(GrpcDriver.__name__)
        manager.register(GrpcDriver)
    communicator.driver_loaded = bool(manager.find_driver_class("grpc"))
    try:
        yield
    finally:
        communicator.driver_loaded = loaded
