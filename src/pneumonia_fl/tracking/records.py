"""What is written to MLflow, whether into a run's own database file or to a tracking server."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

KIND = {"mlflow.experimentKind": "custom_model_development"}
"""Has MLflow's pages open an experiment on its runs, and not on traces of language models."""


class Point(NamedTuple):
    """One value of a series; time in milliseconds since the epoch."""

    origin: str
    tag: str
    value: float
    step: int
    milliseconds: int


class Records(Protocol):
    """MLflow's experiments and runs; each method raises whatever the database, MLflow or its transport raises."""

    def experiment(self, name: str, artifacts: str | None) -> str:
        """Return the id of an experiment; a missing one is made, with its artifacts in the folder `artifacts`."""

    def create_run(self, experiment: str, name: str, tags: Mapping[str, str]) -> str:
        """Add a run and return its id."""

    def log_points(self, run: str, points: Sequence[Point]) -> int:
        """Add points and return how many: those that MLflow calls invalid are dropped, they would always fail."""

    def log_settings(self, run: str, settings: Mapping[str, str], tags: Mapping[str, object]) -> None:
        """Set a run's parameters and tags."""

    def add_file(self, run: str, file: Path, folder: str = "") -> None:
        """Copy a file to the run's artifacts, or to a folder of them."""

    def end(self, run: str, status: str) -> None:
        """Set a run's status: FINISHED, FAILED or KILLED."""
