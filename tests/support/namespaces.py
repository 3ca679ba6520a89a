"""Machines for tests: network namespaces with a cable from each to the server's; the host's own network is not touched.

Needs root and `ip` (iproute2).
"""

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from speed import scaled

from conftest import CLI

HOSTS = Path("/etc/netns")
"""`ip netns exec NAME` puts the files of the folder NAME in here over those in /etc."""


@dataclass(frozen=True)
class Machine:
    """A namespace; on the server's end its cable has the machine's own name."""

    name: str
    server: "Machine | None" = None

    def start(self, *words: object) -> "subprocess.Popen[str]":
        """Begin a `pneumonia-fl` command on this machine."""
        command = ["ip", "netns", "exec", self.name, str(CLI), *map(str, words)]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def run(self, *words: object, timeout: float = 60) -> "subprocess.CompletedProcess[str]":
        """Run a `pneumonia-fl` command on this machine."""
        process = self.start(*words)
        out, err = process.communicate(timeout=scaled(timeout))
        return subprocess.CompletedProcess(words, process.returncode, out, err)

    def cable(self, state: str) -> None:
        """Pull it out at the server's end (down), or put it in again (up)."""
        assert self.server is not None
        ip("-n", self.server.name, "link", "set", self.name, state)

    def processes(self) -> list[int]:
        """Ids of the processes in here."""
        return [int(word) for word in ip("netns", "pids", self.name).split()]


def ip(*words: str) -> str:
    done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False, timeout=scaled(20))
    assert done.returncode == 0, f"ip {' '.join(words)}: {done.stderr}"
    return done.stdout


def obstacle() -> str:
    """Why there can be no namespaces here; "" when there can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    if shutil.which("ip") is None:
        return "network namespaces need the command ip (package iproute2)"
    name = f"pfl{os.getpid()}"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True, check=False)
    if made.returncode:
        return f"this machine does not allow network namespaces: {made.stderr.strip()}"
    ip("netns", "delete", name)
    return ""


@contextmanager
def machines(host: str, sites: tuple[str, ...]) -> Iterator[dict[str, Machine]]:
    """A machine that the others know as `host`, and one with a cable to it for each of `sites`; then all is removed."""
    prefix = f"pfl{os.getpid()}"
    server = Machine(f"{prefix}s")
    found = {host: server, **{site: Machine(f"{prefix}c{n}", server) for n, site in enumerate(sites)}}
    existed = HOSTS.exists()
    try:
        for number, machine in enumerate(found.values()):
            _make(machine, number, host)
        yield found
    finally:
        for machine in found.values():
            _remove(machine)
        if not existed and HOSTS.exists():
            HOSTS.rmdir()


def _make(machine: Machine, number: int, host: str) -> None:
    """Every cable is a network of its own, in which the server has the first address."""
    ip("netns", "add", machine.name)
    ip("-n", machine.name, "link", "set", "lo", "up")
    folder = HOSTS / machine.name
    folder.mkdir(parents=True)
    address = f"10.87.{number}.1" if machine.server else "127.0.0.1"
    (folder / "hosts").write_text(f"127.0.0.1 localhost\n{address} {host}\n")
    if machine.server is None:
        return
    there = machine.server.name
    ip("link", "add", "eth0", "netns", machine.name, "type", "veth", "peer", machine.name, "netns", there)
    ip("-n", machine.name, "address", "add", f"10.87.{number}.2/24", "dev", "eth0")
    ip("-n", there, "address", "add", f"{address}/24", "dev", machine.name)
    ip("-n", machine.name, "link", "set", "eth0", "up")
    ip("-n", there, "link", "set", machine.name, "up")


def _remove(machine: Machine) -> None:
    """Whatever is left of it; cables go with their ends."""
    if Path("/run/netns", machine.name).exists():
        for process in machine.processes():
            os.kill(process, signal.SIGKILL)
        ip("netns", "delete", machine.name)
    shutil.rmtree(HOSTS / machine.name, ignore_errors=True)
