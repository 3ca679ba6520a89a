"""Calls the simulated sites when there may be a task for them, as many at a time as the machine has room for.

Each site waits at its bell, one end of a pair of sockets, and costs nothing meanwhile. It hears one byte, fetches its
task and does it, and answers one byte when it is done. So no site asks again and again, and a model is in the
memory of those sites only whose turn it is.
"""

import contextlib
import selectors
import socket
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

AGAIN_SECONDS = 2.0
"""After this time idle sites are called all the same: a task may have come that nobody told of."""
BYTE = b"."


@dataclass(frozen=True)
class Seat:
    """A site: its bell's other end, and what becomes readable when its process ends."""

    site: str
    bell: socket.socket
    sentinel: int


class Turns:
    """Gives turns to sites, in the order in which they are due.

    Args:
        at_once: how many may work at the same time.
        ended: called with the name of a site whose process has ended.
    """

    def __init__(self, at_once: int, ended: Callable[[str], None]) -> None:
        self._at_once, self._ended = at_once, ended
        self._seats: dict[str, Seat] = {}
        self._due: deque[str] = deque()
        self._working: set[str] = set()
        self._lock = threading.Lock()
        self._selector = selectors.DefaultSelector()

    @property
    def working(self) -> bool:
        """Return True while a site has its turn."""
        return bool(self._working)

    def seat(self, seat: Seat) -> None:
        """Add a site, and give it a turn as soon as there is room."""
        with self._lock:
            self._seats[seat.site] = seat
            self._due.append(seat.site)
        self._selector.register(seat.bell, selectors.EVENT_READ, seat.site)
        self._selector.register(seat.sentinel, selectors.EVENT_READ, seat.site)

    def call(self) -> None:
        """Let all sites have a look, in any thread: there may be a task for them."""
        with self._lock:
            self._due.extend(site for site in self._seats if site not in self._due)
            self._fill()

    def run(self) -> None:
        """Give turns for as long as there are sites."""
        self.call()
        while self._seats:
            ready = self._selector.select(AGAIN_SECONDS)
            for key, _ in ready:
                self._hear(self._seats.get(key.data), key.fd)
            if not ready and len(self._working) < self._at_once:
                self.call()

    def _hear(self, seat: Seat | None, handle: int) -> None:
        """Take note that a site is done with its turn, or has ended."""
        if seat is None:
            return
        if handle != seat.sentinel and seat.bell.recv(len(BYTE)):
            with self._lock:
                self._working.discard(seat.site)
                self._fill()
            return
        if handle != seat.sentinel:  # its end is closed: the process will be over in a moment
            self._selector.unregister(seat.bell)
            return
        self._remove(seat)
        self._ended(seat.site)

    def _remove(self, seat: Seat) -> None:
        with self._lock:
            del self._seats[seat.site]
            self._working.discard(seat.site)
        for handle in (seat.bell, seat.sentinel):
            if handle in self._selector.get_map():
                self._selector.unregister(handle)
        seat.bell.close()

    def _fill(self) -> None:
        """Ring for those who are due and do not work, as long as there is room."""
        waiting = [site for site in self._due if site in self._seats and site not in self._working]
        for site in waiting[: max(0, self._at_once - len(self._working))]:
            self._due.remove(site)
            self._working.add(site)
            with contextlib.suppress(OSError):  # it has ended; `run` will hear of it
                self._seats[site].bell.send(BYTE)
