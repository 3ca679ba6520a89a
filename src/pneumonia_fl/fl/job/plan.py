"""Bringing a job and a data set together: what will run, on which sites, with which input."""

from dataclasses import dataclass

from pneumonia_fl.config.job import JobConfig
from pneumonia_fl.data.manifest import DatasetInfo
from pneumonia_fl.errors import ConfigError

FEW_PER_CORE = 4
"""Up to so many simulated sites per core all train at once; more would only fill the memory."""


@dataclass(frozen=True)
class Plan:
    """A job with nothing left open, and the sites that take part."""

    job: JobConfig
    sites: tuple[str, ...]
    images: dict[str, int]
    """Training images of each site."""


def plan(job: JobConfig, info: DatasetInfo, clients: int | None = None) -> Plan:
    """Fill in what the data decides, and refuse what cannot work.

    Args:
        job: the job as its file and the overrides say.
        info: the prepared data set.
        clients: use only the first N sites; None: all.

    Raises:
        ConfigError: more sites wanted than there are, or data prepared for another input.
    """
    sites = choose_sites(job, info.sites, clients)
    job.check_sites(sites)
    images = {site: sum(info.counts[site].get("train", {}).values()) for site in sites}
    return Plan(job.model_copy(update={"preprocess": _input(job, info)}), sites, images)


def choose_sites(job: JobConfig, there: tuple[str, ...], clients: int | None) -> tuple[str, ...]:
    """Return the sites that take part: all that are there, or the first `clients`.

    Raises:
        ConfigError: there are fewer than `clients` or than the job's `min_sites`.
    """
    if clients is not None and not 1 <= clients <= len(there):
        raise ConfigError(f"{clients} clients wanted, but the data has {len(there)}: {', '.join(there)}")
    sites = there[:clients]
    if job.min_sites > len(sites):
        raise ConfigError(
            f"min_sites is {job.min_sites}, but {len(sites)} sites take part; "
            "lower min_sites or prepare the data for more sites"
        )
    return sites


def share_cores(images: dict[str, int], cores: int) -> dict[str, int]:
    """Divide threads among sites that train in parallel on one machine, by images, at least one each.

    Equal sites on two cores get one thread each. A site with most of the images gets both: the others are
    done soon, and a round lasts as long as its slowest site. Sites that take turns have a core to themselves.
    """
    if sites_at_once(len(images), cores) < len(images):
        return dict.fromkeys(images, 1)
    total = max(1, sum(images.values()))
    return {site: max(1, round(cores * count / total)) for site, count in images.items()}


def sites_at_once(sites: int, cores: int) -> int:
    """Return how many simulated sites work at the same time: all of a few, of many as many as there are cores."""
    return sites if sites <= FEW_PER_CORE * cores else cores


def _input(job: JobConfig, info: DatasetInfo) -> object:
    """Return the job's preprocessing; what decoding has fixed comes from the data and must agree."""
    if job.preprocess is None:
        return info.preprocess
    wanted = job.preprocess
    for key in ("size", "mode", "interpolation"):
        have, want = getattr(info.preprocess, key), getattr(wanted, key)
        if key in wanted.model_fields_set and have != want:
            raise ConfigError(
                f"the job wants preprocess.{key} {want}, but the data is prepared with {have}; "
                f"prepare it again{f' with --size {want}' if key == 'size' else ''}"
            )
    decoding = {key: getattr(info.preprocess, key) for key in ("size", "mode", "interpolation")}
    return wanted.model_copy(update=decoding)
