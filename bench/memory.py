"""Memory of all processes of a measured program while it runs. Linux only.

PSS counts a page that n processes share as 1/n in each, so the sum over all processes is what they occupy together;
USS is what would come back if the process ended.
"""

import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from types import TracebackType
from typing import Self

import psutil

PAUSE, DUTY = 0.5, 10
"""Seconds between two looks, at least, and so many times what a look takes: it holds up the process it looks at."""
IDLE = 0.05
"""A process that used less than this share of a core between two looks was waiting."""
MEGABYTE = 1024.0
"""In the kernel's kB."""


@dataclass(frozen=True)
class Reading:
    """One process at one moment: memory in MB, CPU seconds so far, and since the look before (None: it is new)."""

    role: str
    pss: float
    uss: float
    rss: float
    cpu: float
    worked: float | None

    @property
    def waits(self) -> bool:
        """Return True for a process that was there at the look before and has hardly used the processor since."""
        return self.worked is not None and self.worked < IDLE


Sample = list[Reading]


class Sampler:
    """Takes samples of all processes below this one while its `with` block runs.

    Args:
        role: names a process by its command line; None: it is not counted.
    """

    def __init__(self, role: Callable[[str], str | None]) -> None:
        self._role = role
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._before: dict[int, float] = {}
        self.samples: list[Sample] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()

    @property
    def peak(self) -> Sample:
        """Return the sample with the most memory in all."""
        return max(self.samples, key=total)

    def _watch(self) -> None:
        last, took = time.perf_counter(), 0.0
        while not self._ended.wait(max(PAUSE, DUTY * took)):
            start = time.perf_counter()
            self.samples.append(self._look(start - last))
            last, took = start, time.perf_counter() - start

    def _look(self, since: float) -> Sample:
        readings: dict[int, Reading] = {}
        for process in psutil.Process().children(recursive=True):
            try:
                reading = self._read(process, since)
            except (psutil.Error, OSError):  # it has ended meanwhile
                continue
            if reading is not None:
                readings[process.pid] = reading
        self._before = {pid: reading.cpu for pid, reading in readings.items()}
        return list(readings.values())

    def _read(self, process: psutil.Process, since: float) -> Reading | None:
        role = self._role(" ".join(process.cmdline()))
        if role is None:
            return None
        text = Path(f"/proc/{process.pid}/smaps_rollup").read_text(encoding="ascii")
        kilobytes = {
            name: int(number) for name, number in re.findall(r"^(\w+):\s+(\d+) kB", text, re.MULTILINE)
        }
        times = process.cpu_times()
        cpu, before = times.user + times.system, self._before.get(process.pid)
        return Reading(
            role,
            kilobytes["Pss"] / MEGABYTE,
            (kilobytes["Private_Clean"] + kilobytes["Private_Dirty"]) / MEGABYTE,
            kilobytes["Rss"] / MEGABYTE,
            cpu,
            None if before is None else (cpu - before) / since,
        )


def total(sample: Sample) -> float:
    """Return the memory of all processes of a sample in MB: the sum of their PSS."""
    return sum(reading.pss for reading in sample)


def waiting(samples: list[Sample], role: str) -> tuple[float, float] | None:
    """Return PSS and USS in MB of a process of this role that waits, the median; None when none was seen."""
    found = [reading for sample in samples for reading in sample if reading.role == role and reading.waits]
    if not found:
        return None
    return median(reading.pss for reading in found), median(reading.uss for reading in found)


def largest(samples: list[Sample], role: str) -> float:
    """Return the largest resident memory of a process of this role in MB; 0 when none was seen."""
    return max((reading.rss for sample in samples for reading in sample if reading.role == role), default=0.0)
