"""Select the server's and the sites' part of an algorithm by its name in a job."""

from collections.abc import Callable, Set

from pneumonia_fl.config.algorithm import Algorithm
from pneumonia_fl.fl.algorithms.ditto import Ditto
from pneumonia_fl.fl.algorithms.fedbn import FedBN
from pneumonia_fl.fl.algorithms.fednova import FedNova, ServerFedNova
from pneumonia_fl.fl.algorithms.fedopt import FedAdam, FedAvgM, FedYogi
from pneumonia_fl.fl.algorithms.scaffold import Scaffold, ServerScaffold
from pneumonia_fl.fl.algorithms.server_base import ServerAlgorithm
from pneumonia_fl.fl.algorithms.site_base import FedProx, SiteAlgorithm

AT_THE_SERVER: dict[str, Callable[[Algorithm, Set[str]], ServerAlgorithm]] = {
    "fedavgm": FedAvgM,
    "fedadam": FedAdam,
    "fedyogi": FedYogi,
    "scaffold": ServerScaffold,
    "fednova": ServerFedNova,
}
"""Those that do more than average; each is given its settings and the names of the trainable parameters."""

AT_A_SITE: dict[str, Callable[[str, Algorithm], SiteAlgorithm]] = {
    "fedprox": lambda site, settings: FedProx(site, settings.mu),
    "scaffold": lambda site, settings: Scaffold(site),
    "fednova": lambda site, settings: FedNova(site),
    "fedbn": lambda site, settings: FedBN(site),
    "ditto": lambda site, settings: Ditto(site, settings.mu),
}
"""Those that do more than train; each is given the site's name and its settings."""


def server_algorithm(settings: Algorithm, trainable: Set[str]) -> ServerAlgorithm:
    """Create the server's part of an algorithm.

    Args:
        settings: the job's `algorithm` section.
        trainable: names of the model's parameters; everything else in it is a buffer.
    """
    make = AT_THE_SERVER.get(settings.name)
    return make(settings, trainable) if make else ServerAlgorithm()


def site_algorithm(settings: Algorithm, site: str) -> SiteAlgorithm:
    """Create a site's part of an algorithm; `settings` is the job's `algorithm` section."""
    make = AT_A_SITE.get(settings.name)
    return make(site, settings) if make else SiteAlgorithm(site)
