"""The process that runs one job in NVFlare's simulator: `python -m pneumonia_fl.fl.simulator.worker …`.

It is a process of its own because NVFlare changes the working directory and because the command line must
stay able to end it.
"""

import argparse
import os
import sys
import threading
import time
from pathlib import Path

from nvflare.recipe import SimEnv

from pneumonia_fl.config.job import load_job
from pneumonia_fl.errors import PneumoniaFLError
from pneumonia_fl.fl.job.recipe import recipe_for
from pneumonia_fl.fl.protocol.messages import RUN_ERROR
from pneumonia_fl.runs.folder import RunFolder
from pneumonia_fl.runs.process_group import end_marked


def main() -> None:
    """Run the job; a known error becomes one marked line for the command line that waits."""
    options = _options()
    _end_with_parent(options.parent, options.mark)
    try:
        _run(options)
    except PneumoniaFLError as error:
        sys.exit(f"{RUN_ERROR} {error}")


def _run(options: argparse.Namespace) -> None:
    """Build the recipe from the run's `config.yml`, keep a copy of the job, run it."""
    run = RunFolder(options.run)
    sites = options.sites.split(",")
    weights = run.initial.read_bytes() if run.initial.is_file() else None
    models = {file.stem: file.read_bytes() for file in sorted(run.weights.glob("*.safetensors"))}
    job = load_job(run.config)
    with recipe_for(job, tuple(sites), "simulator", weights=weights, models=models) as recipe:
        recipe.export(str(run.job))
        environment = SimEnv(
            clients=sites,
            num_threads=len(sites),
            workspace_root=options.workspace,
            log_config=options.log_config,
        )
        recipe.execute(environment)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--workspace", required=True)
    parser.add_argument("--sites", required=True)
    parser.add_argument("--mark", required=True)
    parser.add_argument("--parent", type=int, required=True)
    parser.add_argument("--log-config")
    return parser.parse_args()


def _end_with_parent(parent: int, mark: str) -> None:
    """End the whole run when the command line is killed without a chance to do it itself.

    It says who it is, for it may be gone before this process has loaded its modules.
    """
    if os.getppid() != parent:
        sys.exit("the command line that started this is gone")

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        end_marked(mark)
        os._exit(1)  # the main thread waits in NVFlare and would not hear an exception

    threading.Thread(target=watch, daemon=True).start()


if __name__ == "__main__":
    main()
