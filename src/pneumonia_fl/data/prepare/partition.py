"""Assign patients to sites, then to training and validation inside a site.

Everything deals out whole patients, is drawn from the seed alone, and does not depend on the order of its
input.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Literal, cast

import numpy as np
from numpy.typing import NDArray

from pneumonia_fl.errors import ConfigError, DataError
from pneumonia_fl.inputs.names import site_problem

MIN_PATIENTS = 2
"""Patients a site needs: one to train on, one to validate with."""
# A site of two patients among thousands would be no hospital: ask for this share of an equal part, limited.
_SMALLEST_SHARE = 0.1
_SMALLEST_LIMIT = 20
_REDRAWS = 100
# Subtype skew: the first site's share of the bacterial patients that the last one does not have.
_SUBTYPE_SKEW = (0.9, 0.1)

Kind = Literal["iid", "dirichlet", "quantity", "subtype", "natural"]
Weights = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Partition:
    """Kind of partition; `values` are Dirichlet's alpha, or each site's relative quantity."""

    kind: Kind
    values: tuple[float, ...] = ()

    def __str__(self) -> str:
        return ":".join(filter(None, (self.kind, ",".join(f"{value:g}" for value in self.values))))


@dataclass(frozen=True, slots=True)
class PatientGroup:
    """All pictures of one person: how many, whether any shows pneumonia, its subtype, its own hospital."""

    patient: str
    images: int
    label: int
    subtype: str
    hospital: int | None = None


def parse_partition(text: str) -> Partition:
    """Read `iid`, `dirichlet:ALPHA`, `quantity:A,B,C`, `subtype` or `natural`.

    Raises:
        ConfigError: anything else, or a number that is not positive.
    """
    kind, _, numbers = text.partition(":")
    try:
        values = tuple(float(number) for number in numbers.split(",")) if numbers else ()
    except ValueError:
        values = (float("nan"),)
    wanted = {"iid": not values, "subtype": not values, "natural": not values}
    wanted |= {"dirichlet": len(values) == 1, "quantity": bool(values)}
    if not wanted.get(kind) or not all(0 < value < 1e6 for value in values):
        raise ConfigError(
            f"--partition {text!r}: write iid, dirichlet:ALPHA, quantity:A,B,C, subtype or natural, "
            "with positive numbers"
        )
    return Partition(cast(Kind, kind), values)


def parse_sites(text: str) -> tuple[str, ...]:
    """Read a number of sites (`3` is site-1,site-2,site-3) or their names, separated by commas.

    Raises:
        ConfigError: see `check_sites`.
    """
    if re.fullmatch(r"\d+", text.strip()):
        names = tuple(f"site-{index + 1}" for index in range(int(text)))
    else:
        names = tuple(name.strip() for name in text.split(","))
    check_sites(names)
    return names


def check_sites(names: Sequence[str]) -> None:
    """Refuse names that cannot be folders or clients.

    Raises:
        ConfigError: no site, a reserved or repeated name, or one that `names.site_problem` refuses.
    """
    if not names:
        raise ConfigError("--sites: at least one site is needed")
    lowered = [name.lower() for name in names]
    for name in names:
        if problem := site_problem(name):
            raise ConfigError(f"--sites: a site cannot be called {name!r}: {problem}")
        if lowered.count(name.lower()) > 1:
            raise ConfigError(f"--sites: {name!r} is named twice")


def assign_sites(
    patients: Iterable[PatientGroup], sites: Sequence[str], partition: Partition, seed: int
) -> dict[str, str]:
    """Assign every patient to exactly one site.

    Returns:
        Site by patient. Every site has at least `MIN_PATIENTS` patients, and more in large data sets.

    Raises:
        ConfigError: the partition does not fit the number of sites or the source.
        DataError: there are too few patients for this number of sites.
    """
    people = sorted(patients, key=lambda group: group.patient)
    smallest = _smallest(len(people), len(sites))
    _check_fit(people, sites, partition)
    rng = np.random.default_rng([seed, 0])
    chosen = _deal_out(people, len(sites), partition, rng)
    for _ in range(_REDRAWS):
        if partition.kind != "dirichlet" or np.bincount(chosen, minlength=len(sites)).min() >= smallest:
            break
        chosen = _deal_out(people, len(sites), partition, rng)
    _fill_up(chosen, len(sites), smallest, rng)
    return {group.patient: sites[index] for group, index in zip(people, chosen, strict=True)}


def split_train_val(patients: Iterable[PatientGroup], val_fraction: float, seed: int, site: int) -> set[str]:
    """Choose one site's validation patients, for each class its share.

    A class with two patients or more has at least one on either side; so has the site as a whole.

    Args:
        patients: all patients of the site.
        val_fraction: share of the patients, between 0 and 0.5.
        seed: of the whole preparation.
        site: number of the site, which has its own random stream.

    Raises:
        ConfigError: `val_fraction` is out of range.
        DataError: the site has fewer than `MIN_PATIENTS` patients.
    """
    if not 0 < val_fraction <= 0.5:
        raise ConfigError(f"--val-fraction {val_fraction:g}: give a share above 0 and up to 0.5")
    people = sorted(patients, key=lambda group: (group.label, group.patient))
    if len(people) < MIN_PATIENTS:
        raise DataError(f"a site with {len(people)} patients cannot both train and validate; it needs two")
    rng = np.random.default_rng([seed, 1, site])
    chosen: set[str] = set()
    for _, same in groupby(people, key=lambda group: group.label):
        names = [group.patient for group in same]
        count = min(max(1, round(val_fraction * len(names))), len(names) - 1)
        chosen.update(names[index] for index in rng.permutation(len(names))[:count])
    return chosen or {people[-1].patient}


def _smallest(patients: int, sites: int) -> int:
    if patients < MIN_PATIENTS * sites:
        raise DataError(
            f"{patients} patients are too few for {sites} sites; "
            f"each needs {MIN_PATIENTS}, one to train on and one to validate with"
        )
    return max(MIN_PATIENTS, min(_SMALLEST_LIMIT, int(_SMALLEST_SHARE * patients / sites)))


def _check_fit(people: Sequence[PatientGroup], sites: Sequence[str], partition: Partition) -> None:
    if partition.kind == "quantity" and len(partition.values) != len(sites):
        raise ConfigError(f"--partition {partition}: {len(partition.values)} numbers for {len(sites)} sites")
    if partition.kind == "subtype" and not {"bacterial", "viral"} <= {group.subtype for group in people}:
        raise ConfigError("--partition subtype: the source does not name bacterial and viral pneumonia")
    if partition.kind == "natural":
        hospitals = {group.hospital for group in people}
        if None in hospitals:
            raise ConfigError(
                "--partition natural: the source does not name hospitals; choose iid or dirichlet"
            )
        if len(hospitals) < len(sites):
            raise DataError(f"the source has {len(hospitals)} hospitals, too few for {len(sites)} sites")


def _deal_out(
    people: Sequence[PatientGroup], sites: int, partition: Partition, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Return each patient's site number, stratum by stratum."""
    if partition.kind == "natural":
        return np.array([(group.hospital or 0) % sites for group in people], dtype=np.int64)
    by_label = [_label_weights(partition, sites, rng) for _ in range(2)]
    chosen = np.empty(len(people), dtype=np.int64)
    strata = sorted({(group.label, group.subtype) for group in people})
    for label, subtype in strata:
        members = [i for i, group in enumerate(people) if (group.label, group.subtype) == (label, subtype)]
        weights = _subtype_weights(subtype, sites) if partition.kind == "subtype" else by_label[label]
        order = rng.permutation(members)
        chosen[order] = deal([people[index].images for index in order], weights)
    return chosen


def _label_weights(partition: Partition, sites: int, rng: np.random.Generator) -> Weights:
    """Return the sites' shares of one class; Dirichlet label skew as in Hsu et al., arXiv:1909.06335."""
    if partition.kind == "dirichlet":
        return rng.dirichlet(np.full(sites, partition.values[0]))
    if partition.kind == "quantity":
        return np.array(partition.values) / sum(partition.values)
    return np.full(sites, 1 / sites)


def _subtype_weights(subtype: str, sites: int) -> Weights:
    skew = np.linspace(*_SUBTYPE_SKEW, sites)
    weights = {"bacterial": skew, "viral": skew[::-1]}.get(subtype, np.ones(sites))
    shares: Weights = weights / weights.sum()
    return shares


def deal(images: Sequence[int], weights: Weights) -> list[int]:
    """Assign each patient, given their images, to the site that lacks most of its share `weights`."""
    lacking = weights * sum(images)
    chosen: list[int] = []
    for count in images:
        site = int(lacking.argmax())
        lacking[site] -= count
        chosen.append(site)
    return chosen


def _fill_up(chosen: NDArray[np.int64], sites: int, smallest: int, rng: np.random.Generator) -> None:
    """Move patients from the largest site to those below `smallest`, in place."""
    order = rng.permutation(len(chosen))
    sizes = np.bincount(chosen, minlength=sites)
    while sizes.min() < smallest:
        poor, rich = int(sizes.argmin()), int(sizes.argmax())
        chosen[next(index for index in order if chosen[index] == rich)] = poor
        sizes = np.bincount(chosen, minlength=sites)
