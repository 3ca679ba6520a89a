"""The process that runs one job in NVFlare's simulator: the server, and the parent of the sites' processes.

It is a process of its own because NVFlare changes the working directory and because the command line must
stay able to end it.
"""

import math
import os
import sys
import tempfile

from nvflare.fuel.utils.log_utils import FL_LOG_LEVEL, LogMode
from nvflare.recipe import SimEnv

from pneumonia_fl.config.environment import cpu_count, named_environment
from pneumonia_fl.config.job import JobConfig, load_job
from pneumonia_fl.errors import PneumoniaFLError
from pneumonia_fl.fl.job.plan import sites_at_once
from pneumonia_fl.fl.job.recipe import recipe_for
from pneumonia_fl.fl.kit.start import number_streams_anew
from pneumonia_fl.fl.protocol.messages import RUN_ERROR
from pneumonia_fl.fl.simulator.runner import WarmSimulator
from pneumonia_fl.fl.simulator.supervisor import Simulation
from pneumonia_fl.runs.folder import RunFolder
from pneumonia_fl.runs.machine import machine


def main(simulation: Simulation) -> None:
    """Run the job; a known error becomes one marked line for the command line that waits."""
    tempfile.tempdir = str(simulation.temporary)  # it is removed whatever becomes of this process
    number_streams_anew()
    try:
        ran = _run(simulation)
    except PneumoniaFLError as error:
        sys.exit(f"{RUN_ERROR} {error}")
    sys.stdout.flush()
    os._exit(0 if ran else 1)  # NVFlare's threads would be waited for


def _run(simulation: Simulation) -> bool:
    """Build the recipe from the run's `config.yml`, keep the job, run it."""
    run = RunFolder(simulation.run)
    run.update_state(machine=machine())
    weights = run.initial.read_bytes() if run.initial.is_file() else None
    models = {file.stem: file.read_bytes() for file in sorted(run.weights.glob("*.safetensors"))}
    job = load_job(run.config)
    # The sites of a swarm send their models to one another: none can wait until another is done.
    count = len(simulation.sites)
    at_once = count if job.algorithm.name == "swarm" else sites_at_once(count, cpu_count())
    job = with_patience(job, math.ceil(count / at_once))
    with recipe_for(job, simulation.sites, "simulator", weights=weights, models=models) as recipe:
        recipe.export(str(run.job))
    workspace = run.workspace / job.name
    SimEnv._ensure_default_component_policy(str(workspace))
    log_config = simulation.log_config or _log_level()
    return WarmSimulator(
        run.job / job.name, workspace, simulation.sites, at_once, simulation.mark, log_config
    ).run()


def with_patience(job: JobConfig, turns: int) -> JobConfig:
    """Return the job with the limits of a round for sites that take turns: a site that waits is not late."""
    return job.model_copy(update={"round_timeout": job.round_timeout * turns, "grace": job.grace * turns})


def _log_level() -> str:
    return named_environment((FL_LOG_LEVEL,)).get(FL_LOG_LEVEL) or str(LogMode.CONCISE)
