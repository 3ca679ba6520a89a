"""Record the machine of a run: equal records promise equal sums of floats."""

import platform
from importlib.metadata import version
from pathlib import Path

import torch

from pneumonia_fl.config.environment import cpu_count


def machine() -> dict[str, object]:
    """Describe what decides the order of float sums: processor, cores, and the libraries' versions."""
    cuda, found = torch.cuda.is_available(), torch.cpu.get_capabilities()
    return {
        "device": torch.cuda.get_device_name() if cuda else "cpu",
        "cpu": _processor(),
        "cores": cpu_count(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "bfloat16": [name for name in ("amx_bf16", "avx512_bf16", "bf16") if found.get(name)],
        **{name: version(name) for name in ("torch", "numpy")},
    }


def _processor() -> str:
    """Return the processor's name; on Linux only the kernel knows it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
