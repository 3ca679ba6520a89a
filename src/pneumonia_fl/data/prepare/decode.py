"""Decode a whole source side by side, straight into one file of pixels.

Workers write to their own part of the file, so that no array travels through a pipe, and by `write` rather
than through a map, so that a full disk is an error and not a signal. Memory does not grow with the number of
images.
"""

import hashlib
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Generator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from pneumonia_fl.config.environment import cpu_count
from pneumonia_fl.config.sections import Preprocess
from pneumonia_fl.data.pixels import BYTE
from pneumonia_fl.data.sources.labelled_item import Item, Source
from pneumonia_fl.data.sources.open_source import read_image
from pneumonia_fl.errors import DataError
from pneumonia_fl.files import private
from pneumonia_fl.inputs.text import printable
from pneumonia_fl.progress import Progress

STAGE = "decode"
# 32 images keep a worker busy for about 30 ms; a result is a few kB.
_CHUNK = 32
# Starting workers takes about a second, in which one process decodes two thousand small images.
_WORTH_WORKERS_SECONDS = 3.0


_Chunks = dict[int, Sequence[Item]]
"""Items to decode, by the place of the first one."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """Result of decoding one image: hash, original size in pixels and bits of a gray level, or its `problem`."""

    sha256: str = ""
    width: int = 0
    height: int = 0
    problem: str = ""
    bits: int = BYTE


@dataclass(frozen=True)
class Decoder:
    """Images to decode, the raw file of uint8 (N,S,S) they go to, and their scaling."""

    source: Source
    pixels: Path
    spec: Preprocess

    def chunk(self, start: int, items: Sequence[Item]) -> list[Outcome]:
        """Decode `items` to their places in the file, from place `start` on."""
        outcomes: list[Outcome] = []
        with self.pixels.open("r+b") as file:
            file.seek(start * self.spec.size**2)
            for item in items:
                outcome, image = self._one(item)
                file.write(image)
                outcomes.append(outcome)
        return outcomes

    def _one(self, item: Item) -> tuple[Outcome, bytes]:
        try:
            decoded, content = read_image(self.source, item, self.spec)
        except DataError as error:
            return Outcome(problem=printable(error)), bytes(self.spec.size**2)
        sha256 = hashlib.sha256(content).hexdigest()
        outcome = Outcome(sha256, decoded.width, decoded.height, bits=decoded.bits)
        return outcome, decoded.pixels.tobytes()


def decode_all(
    decoder: Decoder, items: Sequence[Item], workers: int | None, progress: Progress
) -> list[Outcome]:
    """Write image i of `items` to place i of the decoder's file, which is created; a broken one leaves zeros.

    Args:
        decoder: is pickled to each worker.
        items: in the order of the file.
        workers: processes; None takes every processor core this process may use, where that is worth it.
        progress: told after every chunk.

    Raises:
        OSError: the file cannot be written.
        DataError: a worker was killed.
        StorageError, MemoryError: images cannot be read for reasons that are not theirs.
    """
    with open(decoder.pixels, "wb", opener=private) as file:
        file.truncate(len(items) * decoder.spec.size**2)
    chunks = {start: items[start : start + _CHUNK] for start in range(0, len(items), _CHUNK)}
    begun = time.perf_counter()
    results = dict(_decode_here(decoder, dict(list(chunks.items())[:1])))
    seconds = (time.perf_counter() - begun) * (len(chunks) - 1)
    rest = {start: chunk for start, chunk in chunks.items() if start not in results}
    alone = workers == 1 or len(rest) < 2 or (workers is None and seconds < _WORTH_WORKERS_SECONDS)
    count = min(workers or cpu_count(), len(rest))
    with closing(_decode_here(decoder, rest) if alone else _decode_apart(decoder, rest, count)) as run:
        for start, outcomes in run:
            results[start] = outcomes
            progress(STAGE, min(len(results) * _CHUNK, len(items)), len(items))
    return [outcome for start in chunks for outcome in results[start]]


def _decode_here(decoder: Decoder, chunks: _Chunks) -> Generator[tuple[int, list[Outcome]]]:
    for start, items in chunks.items():
        yield start, decoder.chunk(start, items)


def _decode_apart(decoder: Decoder, chunks: _Chunks, workers: int) -> Generator[tuple[int, list[Outcome]]]:
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _start_worker, (decoder,))
    try:
        futures = {pool.submit(_work, start, items): start for start, items in chunks.items()}
        for future in as_completed(futures):
            yield futures[future], future.result()
    except BrokenProcessPool:
        raise DataError("a decoding process was killed; run again with fewer --workers") from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


_decoder: Decoder | None = None


def _start_worker(decoder: Decoder) -> None:
    global _decoder  # noqa: PLW0603 - a pool hands state to its workers in no other way.
    _decoder = decoder
    # Ctrl-C reaches the whole process group; the parent alone decides what to do about it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_follow_parent, daemon=True).start()


def _follow_parent() -> None:
    """End with the parent, even where it was killed and could not say so."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _work(start: int, items: Sequence[Item]) -> list[Outcome]:
    assert _decoder is not None
    return _decoder.chunk(start, items)
