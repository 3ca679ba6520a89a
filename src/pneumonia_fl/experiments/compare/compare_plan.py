"""Plan the trainings of a comparison, and check that they can run."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pneumonia_fl.config.job import JobConfig, load_job
from pneumonia_fl.config.job_files import find_job
from pneumonia_fl.data.manifest import CLASS_NAMES, INFO, TEST, DatasetInfo, read_info
from pneumonia_fl.errors import ConfigError, DataError, RefusedError
from pneumonia_fl.evaluation.comparison import CENTRAL
from pneumonia_fl.fl.job.plan import plan as plan_run
from pneumonia_fl.training.baseline import federated_steps

Kind = Literal["central", "alone", "federated"]
MAX_SEEDS = 20


@dataclass(frozen=True)
class Arm:
    """One way to train; `sites` are those whose images it sees, `skipped` says why it is left out."""

    name: str
    kind: Kind
    sites: tuple[str, ...]
    skipped: str | None = None


@dataclass(frozen=True)
class ComparePlan:
    """All that a comparison does: each arm with each seed. `steps` are the baselines' optimiser steps per round."""

    data: Path
    info: DatasetInfo
    jobs: dict[str, JobConfig]
    files: dict[str, str]
    arms: tuple[Arm, ...]
    seeds: tuple[int, ...]
    steps: int

    @property
    def base(self) -> JobConfig:
        """Return the job whose model, training and rounds the baselines share: the first."""
        return next(iter(self.jobs.values()))

    def settings(self) -> dict[str, Any]:
        """Return what a resumed comparison may not change: data and settings, without job names and seeds."""
        return {
            "manifest_sha256": self.info.manifest_sha256,
            "base": self.base.model_dump(mode="json", exclude={"description", "tracking", "mlflow"}),
        }


def plan_comparison(
    data: Path, jobs: Sequence[str], seeds: int, overrides: list[str], alone: bool = True
) -> ComparePlan:
    """Check everything before anything is trained.

    Raises:
        RefusedError: the data may not be brought together.
        ConfigError: a job is unknown or named twice, or its settings do not fit the data.
        DataError: the data is not prepared or has no official test split.
    """
    if not 1 <= seeds <= MAX_SEEDS:
        raise ConfigError(f"--seeds {seeds}: give a number from 1 to {MAX_SEEDS}")
    info = read_info(data)
    _check_poolable(data, info)
    if TEST not in info.counts:
        raise DataError(
            f"{data} has no official test split to compare on; prepare a source that has one "
            "(folders train and test), or use `pneumonia-fl run`"
        )
    loaded = [(name, plan_run(load_job(find_job(name), overrides), info).job) for name in jobs]
    if begun := [job.name for _, job in loaded if job.init_from is not None]:
        raise ConfigError(
            f"{begun[0]} has init_from; a comparison needs arms that all begin alike, so take it out"
        )
    planned = {job.name: job for _, job in loaded}
    if not planned or len(planned) < len(loaded):
        raise ConfigError(f"--jobs {','.join(jobs)}: name at least one job, and each once")
    base = next(iter(planned.values()))
    images = {site: sum(info.counts[site].get("train", {}).values()) for site in info.sites}
    settings = base.site_settings()
    return ComparePlan(
        data=data,
        info=info,
        jobs=planned,
        files={job.name: name for name, job in loaded},
        arms=(Arm(CENTRAL, "central", info.sites), *_alone(info, alone), *_federated(info, planned)),
        seeds=tuple(range(base.train.seed, base.train.seed + seeds)),
        steps=sum(federated_steps([images[site]], settings.at(site, {}).train) for site in images),
    )


def _check_poolable(data: Path, info: DatasetInfo) -> None:
    folders = [data, *(data / site for site in info.sites if (data / site / INFO).is_file())]
    private = [folder.name for folder in folders if not read_info(folder).poolable]
    if private:
        raise RefusedError(
            f"these images may be private ({private[0]}), so they are not brought together for central training; "
            "if their owner allows it, prepare them with --poolable"
        )


def _alone(info: DatasetInfo, wanted: bool) -> list[Arm]:
    return [Arm(f"{site} alone", "alone", (site,), _problem(info, site)) for site in info.sites if wanted]


def _federated(info: DatasetInfo, jobs: dict[str, JobConfig]) -> list[Arm]:
    return [Arm(name, "federated", info.sites) for name in jobs]


def _problem(info: DatasetInfo, site: str) -> str | None:
    """Return the reason why a site cannot train a classifier alone; None when it can."""
    there = info.counts.get(site, {}).get("train", {})
    missing = [name for name in CLASS_NAMES if not there.get(name)]
    return f"no {missing[0]} images to learn from" if missing else None
