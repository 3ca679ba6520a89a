"""Runs the baselines, as many side by side as there are cores: one thread each is the best use of a core."""

import shutil
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pneumonia_fl.config.environment import SHARED_CORES, child_environment, cpu_count
from pneumonia_fl.errors import RunError
from pneumonia_fl.experiments.compare.baseline_worker import ERROR, Spec
from pneumonia_fl.fl.simulator.preload import begin_loading
from pneumonia_fl.models.checkpoint import CARD
from pneumonia_fl.runs.folder import RunFolder
from pneumonia_fl.runs.journal import JournalReader
from pneumonia_fl.runs.processes.process_group import MARK_WORD, RUN_MARK, kill_marked
from pneumonia_fl.runs.processes.warm import WarmProcess

POLL_SECONDS = 0.5
LOG = "log.txt"

OnRound = Callable[[str, int, int], None]
"""Told the training's label, and the rounds done of how many."""


@dataclass(frozen=True)
class Work:
    """One baseline to train into `folder`."""

    label: str
    folder: Path
    spec: Spec
    rounds: int


@dataclass
class _Running:
    """One baseline under way."""

    work: Work
    process: WarmProcess
    journal: JournalReader


def train_all(works: Sequence[Work], on_round: OnRound) -> Iterator[Work]:
    """Train all; yield each as it is done. Whatever happens, no process stays behind.

    Raises:
        RunError: one failed; the others are ended, those that were done are kept.
    """
    begin_loading()
    mark, waiting, running = uuid.uuid4().hex, list(works), list[_Running]()
    try:
        while waiting or running:
            while waiting and len(running) < cpu_count():
                running.append(_start(waiting.pop(0), mark))
            for current in list(running):
                ended = current.process.poll() is not None
                _tell(current, on_round)
                if ended:
                    _check(current.work)
                    running.remove(current)
                    yield current.work
            time.sleep(POLL_SECONDS if running else 0)
    finally:
        kill_marked(mark)


def _start(work: Work, mark: str) -> _Running:
    # What a training that was killed has left is no part of this one.
    shutil.rmtree(work.folder, ignore_errors=True)
    work.spec.write(work.folder)
    with (work.folder / LOG).open("wb") as log:
        process = WarmProcess(
            "pneumonia_fl.experiments.compare.baseline_worker:main",
            (work.folder,),
            environment=child_environment(**{RUN_MARK: mark, **SHARED_CORES}),
            streams={1: log.fileno(), 2: log.fileno()},
            words=("pneumonia-fl", "baseline", work.label, MARK_WORD, mark),
        )
    return _Running(work, process, JournalReader(RunFolder(work.folder).journal))


def _tell(running: _Running, on_round: OnRound) -> None:
    for event in running.journal.new_events():
        on_round(running.work.label, event["round"], running.work.rounds)


def _check(work: Work) -> None:
    if (RunFolder(work.folder).model / CARD).is_file():
        return
    said = work.folder / ERROR
    reason = said.read_text(encoding="utf-8") if said.is_file() else f"it ended; see {work.folder / LOG}"
    raise RunError(f"{work.label}: {reason}")
