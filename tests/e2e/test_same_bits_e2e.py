"""The same seeds give the same numbers: every algorithm's pooled metrics, round by round, as they were recorded.

On the machine type that recorded them they are equal but for the last digits; on another, whose kernels add in
another order, they are near. Recorded before the modules were moved into rooms (commit 3d78167).
"""

import json
import os
import platform
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from conftest import read_json

pytestmark = [pytest.mark.e2e, pytest.mark.slow]
RECORD = Path(__file__).with_name("same_bits.json")
JOBS = ("smoke", "fedavg", "fedprox", "fednova", "scaffold", "fedbn", "ditto", "cyclic")
KEYS = ("auroc", "loss")
SAME, NEAR = 1e-6, 0.1
"""Relative on the recording machine type; absolute elsewhere."""


def machine() -> dict[str, Any]:
    """What decides in which order numbers are added."""
    return {
        "processor": platform.machine(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count(),
        "torch": torch.__version__,
    }


def pooled(run: Path) -> dict[str, list[float]]:
    """The global model's metrics of every round."""
    rounds = read_json(run / "metrics.json")["rounds"]
    return {key: [entry["global"][key] for entry in rounds] for key in KEYS}


def record(runs: Path) -> None:
    """Store the metrics of the runs in a folder, one for each job."""
    values = {job: pooled(runs / job) for job in JOBS}
    RECORD.write_text(json.dumps({"machine": machine(), "jobs": values}, indent=1) + "\n")


@pytest.mark.parametrize("job", JOBS)
def test_the_metrics_are_those_recorded(job: str, tiny_run: Callable[[str], Path]) -> None:
    """After a change of training that is meant, record them again, here in the folder `tests/e2e`:

    pytest test_same_bits_e2e.py -p no:xdist --basetemp /tmp/bits
    PYTHONPATH=..:../support python test_same_bits_e2e.py /tmp/bits/made-once/tiny
    """
    recorded, measured = read_json(RECORD), pooled(tiny_run(job))
    near = {"rtol": SAME} if recorded["machine"] == machine() else {"rtol": 0, "atol": NEAR}
    for key in KEYS:
        np.testing.assert_allclose(measured[key], recorded["jobs"][job][key], **near, err_msg=f"{job} {key}")


if __name__ == "__main__":
    record(Path(sys.argv[1]))
