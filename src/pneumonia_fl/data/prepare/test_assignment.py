"""Assign each patient of the official test set to a site, so that every site has a test split of its own.

Test patients follow the pool: where a source names hospitals they go where their hospital's other patients are, else
each class and subtype is dealt out in the sites' shares of it. The images stay in the common test folder.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from pneumonia_fl.data.prepare.partition import PatientGroup, deal

Stratum = tuple[object, ...]
_STRATA: tuple[Callable[[PatientGroup], Stratum], ...] = (
    lambda group: (group.hospital, group.label, group.subtype),
    lambda group: (group.hospital, group.label),
    lambda group: (group.label,),
    lambda group: (),
)
"""From the closest likeness to none: the first in which the pool has patients decides."""


def deal_test(
    pool: Sequence[PatientGroup],
    site_of: Mapping[str, str],
    test: Iterable[PatientGroup],
    sites: Sequence[str],
    seed: int,
) -> dict[str, str]:
    """Return a site for each test patient.

    Args:
        pool: patients for training and validation.
        site_of: site of each of those.
        test: patients of the official test set.
        sites: all sites in order.
        seed: of the whole preparation.
    """
    shares = [_shares(stratum, pool, site_of, sites) for stratum in _STRATA]
    rng = np.random.default_rng([seed, 2])
    people = sorted(test, key=lambda group: (*map(str, _STRATA[0](group)), group.patient))
    chosen: dict[str, str] = {}
    for _, same in groupby(people, key=_STRATA[0]):
        members = list(same)
        weights = next(
            by[stratum(members[0])]
            for stratum, by in zip(_STRATA, shares, strict=True)
            if stratum(members[0]) in by
        )
        order = rng.permutation(len(members))
        numbers = deal([members[index].images for index in order], weights)
        chosen |= {
            members[index].patient: sites[number] for index, number in zip(order, numbers, strict=True)
        }
    return chosen


def _shares(
    stratum: Callable[[PatientGroup], Stratum],
    pool: Sequence[PatientGroup],
    site_of: Mapping[str, str],
    sites: Sequence[str],
) -> dict[Stratum, NDArray[np.float64]]:
    """Compute each site's share of the images of every stratum."""
    counts: dict[Stratum, NDArray[np.float64]] = {}
    for group in pool:
        row = counts.setdefault(stratum(group), np.zeros(len(sites)))
        row[sites.index(site_of[group.patient])] += group.images
    return {key: row / row.sum() for key, row in counts.items()}
