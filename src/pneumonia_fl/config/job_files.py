"""Locate the job files: `jobs/` of the repository, or the copy inside an installed wheel."""

from pathlib import Path

import pneumonia_fl
from pneumonia_fl.errors import ConfigError
from pneumonia_fl.inputs.names import did_you_mean
from pneumonia_fl.inputs.paths import expanded, missing

_PACKAGE = Path(pneumonia_fl.__file__).resolve().parent


def jobs_folder() -> Path:
    """Return the folder with the shipped job files and the training script."""
    packaged = _PACKAGE / "_jobs"
    return packaged if packaged.is_dir() else _PACKAGE.parents[1] / "jobs"


def find_job(name: str) -> Path:
    """Resolve a job name or a path to a YAML file.

    Raises:
        ConfigError: there is no such job; the message lists those that exist.
    """
    as_path = expanded(name)
    if as_path.suffix in {".yml", ".yaml"} or as_path.parent != Path("."):
        if as_path.is_file():
            return as_path
        raise ConfigError(f"no job file: {missing(as_path)}")
    found = jobs_folder() / f"{name}.yml"
    if not found.is_file():
        known = f"; there are: {', '.join(job_names())}, or give a path to a YAML file"
        raise ConfigError(f"unknown job {name!r}{did_you_mean(name, job_names()) or known}")
    return found


def job_names() -> list[str]:
    """List the names of the shipped jobs."""
    return sorted(path.stem for path in jobs_folder().glob("*.yml"))
