"""What a result costs the server: seconds to add it to the average, and the memory that all of them take.

Against what the server did before: keep every result until the round closes, then add them in the order of names.
Results are models that moved a little from a common one, as a federation sends them.
"""

import time
import tracemalloc
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from bench.options import Options
from pneumonia_fl.fl.algorithms.exact_sum import ExactSum

PARAMETERS = 25_783_554
"""Of `pneumonia_network` at 224 px."""
SITES, KEPT_SITES = 100, 8
"""Sites whose results are added, and those whose results are kept: a hundred of those would need 10 GB."""
Model = NDArray[np.float32]


def run(options: Options) -> None:
    """Print CPU seconds for each result and peak memory in models, the result that arrives aside."""
    print(f"{PARAMETERS:,} parameters ({PARAMETERS * 4 / 1e6:.0f} MB in float32)")
    for name, sites, seconds, models in (("added exactly", SITES, *_added()), ("kept", KEPT_SITES, *_kept())):
        print(
            f"{name}: {sites} sites, {seconds / sites:.3f} CPU s per result, {models:.2f} models at the peak"
        )


def _results(sites: int) -> Iterator[tuple[float, Model]]:
    start = np.random.default_rng(0).standard_normal(PARAMETERS, dtype=np.float32)
    for number in range(sites):
        moved = np.random.default_rng(number + 1).standard_normal(PARAMETERS, dtype=np.float32)
        moved *= np.float32(0.01)
        moved += start
        yield float(3000 + number), moved


def _added() -> tuple[float, float]:
    total, seconds, most = ExactSum(), 0.0, 0
    for weight, moved in _results(SITES):
        began = time.process_time()
        tracemalloc.start() if not total.weight else tracemalloc.reset_peak()
        total.add({"w": moved}, weight)
        seconds += time.process_time() - began
        most = max(most, tracemalloc.get_traced_memory()[1] - (moved.nbytes if total.weight > weight else 0))
        del moved
    began = time.process_time()
    tracemalloc.reset_peak()
    total.mean()
    most = max(most, tracemalloc.get_traced_memory()[1])
    tracemalloc.stop()
    return seconds + time.process_time() - began, most / (4 * PARAMETERS)


def _kept() -> tuple[float, float]:
    kept = list(_results(KEPT_SITES))
    began, weights = time.process_time(), sum(weight for weight, _ in kept)
    tracemalloc.start()
    np.asarray(sum(moved.astype(np.float64) * (weight / weights) for weight, moved in kept), np.float32)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return time.process_time() - began, KEPT_SITES + most / (4 * PARAMETERS)
