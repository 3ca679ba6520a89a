"""The names that kits, policies and exported jobs carry: all others may change, these never."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from speed import scaled

from conftest import ROOT, read_json
from pneumonia_fl.config.job import load_job
from pneumonia_fl.fl import entrypoints
from pneumonia_fl.fl.entrypoints import MODULE, PATHS, path_of
from pneumonia_fl.fl.job.recipe import export_job
from pneumonia_fl.fl.parent import expected_job

POLICIES = sorted((ROOT / "provisioning").rglob("resources.json"))
JOBS = sorted((ROOT / "jobs").glob("*.yml"))
STABLE = {path_of(name) for name in PATHS}
FOR_EVER = {
    "Aggregator", "Controller", "CyclicController", "EvaluationController", "JobMonitor", "JournalReceiver",
    "MLflowReceiver", "Persistor", "ServerAudit", "ServerGuard", "ServerJobLauncher", "ServerJobValidator", "SiteAudit",
    "SiteGuard", "SiteJobLauncher", "SiteJobValidator", "Storage", "SwarmJournalReceiver", "TensorBoardReceiver",
    "Trainer", "build_model", "main",
}  # fmt: skip


def ours(text: str) -> set[str]:
    """The dotted names of this package in a file, `pneumonia_fl.site_report` and its like aside."""
    return set(re.findall(r"pneumonia_fl\.[\w.]+\.\w+", text))


def test_no_name_that_a_kit_or_a_job_may_carry_is_gone() -> None:
    assert PATHS.keys() >= FOR_EVER


@pytest.mark.parametrize("name", PATHS)
def test_a_name_leads_to_its_class(name: str) -> None:
    found = getattr(entrypoints, name)
    assert callable(found)
    module, _, own = PATHS[name].rpartition(".")
    assert getattr(sys.modules[module], own) is found


def test_another_name_is_none() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'Command'"):
        _ = entrypoints.Command


@pytest.mark.parametrize("file", POLICIES, ids=lambda path: str(path.parent.name))
def test_a_policy_names_nothing_else_of_ours(file: Path) -> None:
    named = ours(file.read_text(encoding="utf-8"))
    assert named
    assert named <= STABLE


@pytest.mark.parametrize("file", JOBS, ids=lambda path: str(path.stem))
def test_an_exported_job_names_nothing_else_of_ours(file: Path, tmp_path: Path) -> None:
    job = load_job(file, [] if load_job(file).preprocess else ["preprocess.size=32"])
    form = "simulator" if job.algorithm.name == "swarm" else "installed"
    folder = export_job(job, ("a", "b"), tmp_path, form)
    named = {
        name for path in folder.rglob("config_*.json") for name in ours(path.read_text(encoding="utf-8"))
    }
    assert named
    assert named <= STABLE


def test_the_job_that_a_gate_expects_names_nothing_else_of_ours() -> None:
    assert not ours(Path(expected_job.__file__).read_text(encoding="utf-8")) & set(PATHS.values())


def test_a_kit_names_what_does_not_load_pytorch() -> None:
    kit = {name for file in POLICIES for name in _components(read_json(file)) if name in STABLE}
    assert kit
    names = ", ".join(name.rpartition(".")[2] for name in kit)
    code = f"import sys\nfrom {MODULE} import {names}\nprint('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=scaled(120)
    )
    assert done.stdout == "False\n"


def _components(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        yield from [value["path"]] if "path" in value else []
    for part in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _components(part)
