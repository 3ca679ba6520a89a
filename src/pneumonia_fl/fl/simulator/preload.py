"""What the fork server of a simulation has imported before it forks the server and the sites.

Nothing here imports any of it: the command line starts that process first, and checks what the user wants meanwhile.
"""

import uuid

from pneumonia_fl.config.environment import RUN_VARIABLE, SHARED_CORES, child_environment
from pneumonia_fl.runs.processes.fork_server import warm_up

MODULES = (
    "torch",
    "pneumonia_fl.fl.simulator.worker",
    "pneumonia_fl.fl.simulator.site_process:load",
    "pneumonia_fl.fl.site.client",
    # Without their being named, each site would import these at its first connection and its first optimiser step.
    *(
        f"nvflare.fuel.f3.drivers.{name}_driver"
        for name in ("aio_grpc", "aio_http", "aio_tcp", "file", "grpc", "tcp")
    ),
    "torch._dynamo",
)


def begin_loading() -> None:
    """Start loading what a run's processes need, unless that has begun; returns at once."""
    warm_up(MODULES, child_environment(**SHARED_CORES, **{RUN_VARIABLE: uuid.uuid4().hex}))
