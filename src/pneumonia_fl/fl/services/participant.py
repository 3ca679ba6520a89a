"""One started kit: NVFlare's restart loop, the process that it guards, and the files that they leave in the kit.

NVFlare's `startup/start.sh` leaves a shell loop (`sub_start.sh`) that starts the server or site, looks every five
seconds whether it lives, and starts it again. `daemon_pid.fl` holds the loop's process id, `pid.fl` the other one's;
a file `shutdown.fl` ends both.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from pneumonia_fl.errors import KitError
from pneumonia_fl.fl.kit.kit_processes import LOOP_FILE, KitProcess, main_of, processes_of
from pneumonia_fl.fl.kit.nvflare_log import LOG_FILE
from pneumonia_fl.fl.kit.startup_kit import Kit, find_kits

MAIN_FILE, SHUTDOWN_FILE = "pid.fl", "shutdown.fl"
CONTROL_FILES = (LOOP_FILE, MAIN_FILE, SHUTDOWN_FILE, "restart.fl")


@dataclass(frozen=True)
class Service:
    """A server's or site's kit as a service of this machine."""

    kit: Kit
    seen: Sequence[KitProcess] | None = None
    """Processes of all kits here, of one look for many questions; None: each question looks again."""

    @property
    def name(self) -> str:
        """Return the name of the server or site."""
        return self.kit.name

    @property
    def log(self) -> Path:
        """Return the path of NVFlare's own log, which it appends to and rotates."""
        return self.kit.folder / LOG_FILE

    @property
    def startup_log(self) -> Path:
        """Return the path of the processes' output since the last start."""
        return self.kit.folder / "startup.log"

    def file(self, name: str) -> Path:
        """Return the path of one of NVFlare's control files."""
        return self.kit.folder / name

    def loop(self) -> psutil.Process | None:
        """Return the living restart loop, whoever started it."""
        return next((one.process for one in self._own() if one.is_loop), None)

    def main(self) -> psutil.Process | None:
        """Return the living server or site process."""
        return main_of(self.kit, self.seen)

    def processes(self) -> list[psutil.Process]:
        """List all living processes of this kit, oldest first."""
        return [one.process for one in self._own()]

    def running(self) -> bool:
        """Return True while a process of this kit lives: its loop, or one that outlived it."""
        return bool(self._own())

    def starting(self) -> bool:
        """Return True while the process that wrote `daemon_pid.fl` lives: faster than a scan of all."""
        try:
            return psutil.pid_exists(int(self.file(LOOP_FILE).read_text()))
        except (OSError, ValueError):
            return False

    def connected(self) -> bool:
        """Return True while the site is connected to the server's port; gRPC drops a dead connection in 20 s."""
        main = self.main()
        try:
            connections = main.net_connections("tcp") if main else []
        except psutil.Error:
            return False
        return any(
            one.status == psutil.CONN_ESTABLISHED and one.raddr and one.raddr.port == self.kit.port
            for one in connections
        )

    def jobs(self) -> list[str]:
        """List the ids of the jobs that have a process here."""
        return sorted({one.job for one in self._own()} - {""})

    def _own(self) -> list[KitProcess]:
        return processes_of(self.kit, self.seen)

    def clear(self) -> None:
        """Remove the control files of processes that are gone; a stale one would stop the next start."""
        for name in CONTROL_FILES:
            self.file(name).unlink(missing_ok=True)


def find_services(folder: Path) -> list[Service]:
    """Find the server and site kits at or directly below `folder`, servers first.

    Raises:
        KitError: there is none, or one is broken.
    """
    found = [Service(kit) for kit in find_kits(folder) if kit.kind != "admin"]
    if not found:
        raise KitError(f"{folder.absolute()} holds no server's or site's kit, only a person's")
    return sorted(found, key=lambda one: (one.kit.kind != "server", one.name))
