"""What the fork server of a simulation has imported before it forks the server and the sites.

Nothing here imports any of it: the command line starts that process first, and checks what the user wants meanwhile.
"""

from pneumonia_fl.config.environment import QUIET, SHARED_CORES
from pneumonia_fl.runs.warm import warm_up

MODULES = (
    "torch",
    "pneumonia_fl.fl.simulator.worker",
    "pneumonia_fl.fl.simulator.site_process",
    "pneumonia_fl.fl.site.client",
)


def begin_loading() -> None:
    """Start loading what a run's processes need, unless that has begun; returns at once."""
    warm_up(MODULES, None, **QUIET, **SHARED_CORES)
