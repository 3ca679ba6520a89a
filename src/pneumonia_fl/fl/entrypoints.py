"""The names of this package that outlive its versions, one module for all of them: `pneumonia_fl.fl.entrypoints.NAME`.

Kits (`local/resources.json`, start scripts), policies and exported jobs hold paths of classes, for years and on other
people's machines. They hold these; where a class really lies may change, and is in `PATHS` only. Nothing is
imported before it is asked for, so that a parent process does not load PyTorch for its launcher.
"""

import importlib
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

MODULE = "pneumonia_fl.fl.entrypoints"
PACKAGE = "pneumonia_fl."
PATHS = {
    # In the server's half of a job.
    "Controller": "pneumonia_fl.fl.server.controller.PooledFedAvg",
    "CyclicController": "pneumonia_fl.fl.server.cyclic_controller.CyclicWeights",
    "EvaluationController": "pneumonia_fl.fl.server.evaluation_controller.SavedModelJudge",
    "Aggregator": "pneumonia_fl.fl.algorithms.weighted_average.SampleWeightedAverage",
    "Persistor": "pneumonia_fl.fl.server.persistor.GlobalModel",
    "JournalReceiver": "pneumonia_fl.fl.server.receivers.JournalReceiver",
    "MLflowReceiver": "pneumonia_fl.fl.server.receivers.MLflowReceiver",
    "TensorBoardReceiver": "pneumonia_fl.fl.server.receivers.TensorBoardReceiver",
    "SwarmJournalReceiver": "pneumonia_fl.fl.job.swarm.SwarmJournal",
    "build_model": "pneumonia_fl.models.architectures.build_model",
    # In the sites' half.
    "Trainer": "pneumonia_fl.fl.site.executor.TrainerExecutor",
    # In a server's kit.
    "ServerGuard": "pneumonia_fl.fl.guard.components.ServerGuard",
    "ServerJobLauncher": "pneumonia_fl.fl.parent.job_launcher.ServerJobLauncher",
    "ServerJobValidator": "pneumonia_fl.fl.parent.job_validator.ServerJobValidator",
    "ServerAudit": "pneumonia_fl.fl.parent.audit.RefusalLog",
    "JobMonitor": "pneumonia_fl.fl.parent.job_monitor.JobMonitor",
    "Storage": "pneumonia_fl.fl.parent.storage.KitStorage",
    # In a site's kit.
    "SiteGuard": "pneumonia_fl.fl.guard.components.SiteGuard",
    "SiteJobLauncher": "pneumonia_fl.fl.parent.job_launcher.SiteJobLauncher",
    "SiteJobValidator": "pneumonia_fl.fl.parent.job_validator.SiteJobValidator",
    "SiteAudit": "pneumonia_fl.fl.parent.audit_log.AuditLog",
    # `python -m pneumonia_fl.fl.entrypoints PROGRAM …`, in start scripts.
    "main": "pneumonia_fl.fl.kit.start.main",
}
"""Add names, never change or remove one."""
Class = TypeVar("Class", bound=type)


def path_of(name: str) -> str:
    """Return the path by which others know what has this name in `PATHS`."""
    return f"{MODULE}.{name}"


def entrypoint(name: str) -> Callable[[Class], Class]:
    """Register a class under its name in `PATHS`: NVFlare writes the class path into the job."""

    def known(kind: Class) -> Class:
        kind.__module__, kind.__name__, kind.__qualname__ = MODULE, name, name
        return kind

    return known


def old_paths(value: Any) -> Iterator[str]:
    """Yield the class paths in a configuration of NVFlare's that are ours, and of an earlier version."""
    if isinstance(value, dict):
        path = value.get("path")
        if isinstance(path, str) and path.startswith(PACKAGE) and path not in map(path_of, PATHS):
            yield path
        value = list(value.values())
    for part in value if isinstance(value, list) else ():
        yield from old_paths(part)


def __getattr__(name: str) -> Any:
    if name not in PATHS:
        raise AttributeError(f"module {MODULE!r} has no attribute {name!r}")
    module, _, attribute = PATHS[name].rpartition(".")
    return getattr(importlib.import_module(module), attribute)


if __name__ == "__main__":
    __getattr__("main")()
