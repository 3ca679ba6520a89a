"""Which algorithm does what at the server, by its name in a job."""

from collections.abc import Callable, Set

from pneumonia_fl.fl.algorithms.fedopt import FedAdam, FedAvgM, FedYogi
from pneumonia_fl.fl.algorithms.server import ServerAlgorithm
from pneumonia_fl.learning import Algorithm

AT_THE_SERVER: dict[str, Callable[[Algorithm, Set[str]], ServerAlgorithm]] = {
    "fedavgm": FedAvgM,
    "fedadam": FedAdam,
    "fedyogi": FedYogi,
}
"""Those that do more than average; each is given its settings and the names of the trainable parameters."""


def server_algorithm(settings: Algorithm, trainable: Set[str]) -> ServerAlgorithm:
    """The server's part of an algorithm.

    Args:
        settings: the job's `algorithm` section.
        trainable: names of the model's parameters; everything else in it is a buffer.
    """
    make = AT_THE_SERVER.get(settings.name)
    return make(settings, trainable) if make else ServerAlgorithm()
