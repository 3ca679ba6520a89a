"""The machine: versions, GPU and free disk space."""

import json
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pneumonia_fl.config.environment import cpu_count
from pneumonia_fl.errors import KitError
from pneumonia_fl.findings import Finding
from pneumonia_fl.fl.doctor import python_probe as probe
from pneumonia_fl.fl.kit.startup_kit import Kit, kit_python

PROBE_SECONDS = 6.5
"""Importing torch takes 2 s on a warm machine and longer when its driver is in trouble."""
LOW_GB, EMPTY_GB = 5.0, 1.0
"""A job of ten rounds writes well below 1 GB at the default model, its log included."""
REQUIREMENTS = "requirements.txt"
_PIN = re.compile(r"^([A-Za-z0-9._-]+)==([^\s;#]+)")


def software(kit: Kit | None, seconds: float = PROBE_SECONDS) -> Iterator[Finding]:
    """Check the versions of the kit's Python against the kit's pins, and report the GPUs that torch sees.

    A Python that needs longer than `seconds` to import torch is told, but not called broken.
    """
    python = kit_python(kit)
    try:
        facts = _probe(python, kit.folder if kit else Path.cwd(), seconds)
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        yield Finding("fail", f"{python} does not run ({error}); make it again with the kit's install.sh")
        return
    if "versions" in facts:
        yield from versions(facts, _pins(kit), kit, python)
    if "gpus" not in facts:
        yield Finding("warn", f"{python} did not import torch in {seconds:g} s; is the machine very busy?")
    elif not facts["errors"] and (kit is None or kit.kind == "site"):
        yield _gpu(facts["gpus"])


def versions(
    facts: Mapping[str, Any], pins: Mapping[str, str], kit: Kit | None, python: Path
) -> Iterator[Finding]:
    """Check the probe's results; `pins` are the versions that the kit asks for."""
    cure = f"run {shlex.quote(str(kit.folder / 'install.sh'))}" if kit else "install the project again"
    errors = facts.get("errors", [])
    for error in errors:
        yield Finding("fail", f"{python} cannot import {error}; {cure}")
    have = {name: value for name, value in facts["versions"].items() if value}
    wrong = {name: value for name, value in have.items() if pins.get(name, value) != value}
    for name, value in wrong.items():
        yield Finding("fail", f"{name} is {value}, the kit asks for {pins[name]}; {cure}")
    if not wrong and not errors:
        listed = ", ".join(f"{name} {value}" for name, value in have.items())
        pinned = ", as the kit asks for" if pins else ""
        yield Finding("ok", f"python {facts['python']}, {listed}{pinned} ({python})")


def disk(folder: Path) -> Iterator[Finding]:
    """Free space where the jobs' results will lie."""
    yield space(shutil.disk_usage(folder).free / 1e9, folder)


def space(free: float, folder: Path) -> Finding:
    """Check `free` gigabytes below `folder`."""
    if free < EMPTY_GB:
        return Finding(
            "fail", f"{free:.1f} GB free for {folder}; a job needs {EMPTY_GB:g} GB: free some space"
        )
    if free < LOW_GB:
        return Finding("warn", f"{free:.1f} GB free for {folder}; free some space before it stops a job")
    return Finding("ok", f"{free:,.0f} GB free for {folder}")


def _probe(python: Path, folder: Path, seconds: float) -> dict[str, Any]:
    """Run the probe; return the lines that arrive within `seconds`."""
    # As text and not as a file: a script's folder would come first on its import path.
    command = [str(python), "-c", Path(probe.__file__).read_text(encoding="utf-8")]
    try:
        done = subprocess.run(command, capture_output=True, cwd=folder, timeout=seconds, check=True)
        output = done.stdout
    except subprocess.TimeoutExpired as late:
        output = late.stdout or b""
    facts: dict[str, Any] = {}
    for line in output.splitlines():
        facts |= json.loads(line)
    return facts


def _pins(kit: Kit | None) -> dict[str, str]:
    """Return the pinned versions of the kit by package; empty without a kit or without requirements."""
    file = kit.folder / REQUIREMENTS if kit else None
    if file is None or not file.is_file():
        return {}
    found = [_PIN.match(line) for line in file.read_text(encoding="utf-8").splitlines()]
    pins = {match[1].lower(): match[2] for match in found if match}
    if not pins:
        raise KitError(f"{file} names no versions; ask for a new kit")
    for wheel in file.parent.glob("pneumonia_fl-*.whl"):
        pins["pneumonia-fl"] = wheel.name.split("-")[1]
    return pins


def _gpu(gpus: list[str]) -> Finding:
    if gpus:
        return Finding("ok", f"torch sees {len(gpus)} GPU{'s' * (len(gpus) > 1)}: {', '.join(gpus)}")
    if shutil.which("nvidia-smi"):
        return Finding("warn", "a GPU driver is installed, but torch sees no GPU; compare with `nvidia-smi`")
    return Finding("ok", f"no GPU; training uses {cpu_count()} cores")
