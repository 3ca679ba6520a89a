"""What a run remembers of its machine: equal records promise equal sums of floats."""

import platform
from importlib.metadata import version
from pathlib import Path

import torch

from pneumonia_fl.environment import cpu_count


def machine() -> dict[str, object]:
    """What decides in which order this machine adds floats: processor, cores, and the libraries' versions."""
    cpu, flags = _processor()
    cuda = torch.cuda.is_available()
    return {
        "device": torch.cuda.get_device_name() if cuda else "cpu",
        "cpu": cpu,
        "cores": cpu_count(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "bfloat16": sorted(flags & {"avx512_bf16", "amx_bf16", "bf16"}),
        **{name: version(name) for name in ("torch", "numpy")},
    }


def _processor() -> tuple[str, set[str]]:
    """Name and flags of the processor; Linux tells both."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor(), set()
    told = dict(reversed([line.split(":", 1) for line in lines if ":" in line]))
    values = {key.strip(): value.strip() for key, value in told.items()}
    name = values.get("model name", platform.machine())
    return name, set(values.get("flags", values.get("Features", "")).split())
