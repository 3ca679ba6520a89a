"""From a job's name to an NVFlare recipe."""

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from nvflare.app_opt.pt.recipes.fedavg import FedAvgRecipe

from pneumonia_fl.config import JobConfig, flatten
from pneumonia_fl.errors import ConfigError
from pneumonia_fl.fl.aggregator import SampleWeightedAverage
from pneumonia_fl.fl.controller import PooledFedAvg
from pneumonia_fl.fl.receivers import JournalReceiver, MLflowReceiver, TensorBoardReceiver
from pneumonia_fl.jobfiles import jobs_folder
from pneumonia_fl.model import imagenet_state

TRAINING_SCRIPT = "client.py"
INITIAL_WEIGHTS = "initial.pt"

TASK_CHECK_PERIOD = 0.1
"""Seconds between two looks of the controller at its tasks; NVFlare's 0.5 would be idle time in every round."""

TASK_REQUEST_INTERVAL = 0.2
"""Seconds after which a site asks for its next task; NVFlare's 2 would be idle time in every round."""


class PneumoniaRecipe(FedAvgRecipe):
    """NVFlare's FedAvg recipe with our controller in the place of the stock one."""

    def __init__(self, job: JobConfig, sites: int) -> None:
        pretrained = job.model.pretrained == "imagenet"
        self.fedprox_mu = job.algorithm.mu or None
        super().__init__(
            name=job.name,
            model=_model_spec(job),
            initial_ckpt=INITIAL_WEIGHTS if pretrained else None,
            min_clients=job.min_clients or sites,
            num_rounds=job.rounds,
            train_script=TRAINING_SCRIPT,
            train_args=" ".join(f"--set {word}" for word in flatten(job.site_settings())),
            aggregator=SampleWeightedAverage(),
            # Empty: no stock model selector; PooledFedAvg chooses the best model itself.
            key_metric="",
        )
        self._job.set_app_packages(["pneumonia_fl"])
        self.add_server_config({"server": {"task_request_interval": TASK_REQUEST_INTERVAL}})
        for name, receiver in _receivers(job).items():
            self._job.to_server(receiver, id=name)

    def _create_controller(
        self, persistor_id: str, model_params: dict[str, Any] | None, model_aggregator: object
    ) -> PooledFedAvg:
        return PooledFedAvg(
            # 0: every site of the job. NVFlare would take min_clients as the size of a random sample.
            num_clients=0,
            num_rounds=self.num_rounds,
            persistor_id=persistor_id,
            model=model_params,
            aggregator=model_aggregator,
            fedprox_mu=self.fedprox_mu,
            task_check_period=TASK_CHECK_PERIOD,
        )


@contextlib.contextmanager
def recipe_for(job: JobConfig, sites: int) -> Iterator[PneumoniaRecipe]:
    """Yield the recipe, inside a folder with the files that travel with the job.

    NVFlare copies a script or a checkpoint into the job only when it is named relative to the working directory;
    absolute names stay in the configuration as they are (NVFLARE-2.9 §1.7).
    """
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        shutil.copy(jobs_folder() / TRAINING_SCRIPT, folder)
        if job.model.pretrained == "imagenet":
            torch.save(_pretrained(job), INITIAL_WEIGHTS)
        yield PneumoniaRecipe(job, sites)


def _pretrained(job: JobConfig) -> dict[str, torch.Tensor]:
    """ImageNet weights enter here, on the submitter's machine, so that no site needs the internet."""
    if job.model.norm != "batch":
        raise ConfigError(
            "model.pretrained imagenet needs model.norm batch; the weights were trained with it"
        )
    return imagenet_state(job.model.name, seed=job.train.seed)


def export_job(job: JobConfig, sites: int, folder: Path) -> Path:
    """Write the NVFlare job folder below `folder` and return it."""
    folder = folder.absolute()
    with recipe_for(job, sites) as recipe:
        recipe.export(str(folder))
    return folder / job.name


def _model_spec(job: JobConfig) -> dict[str, Any]:
    settings = job.site_settings()
    return {
        "class_path": "pneumonia_fl.model.build_model",
        "args": {
            "name": job.model.name,
            "norm": job.model.norm,
            "size": settings.preprocess.size,
            "seed": job.train.seed,
        },
    }


def _receivers(job: JobConfig) -> dict[str, object]:
    receivers: dict[str, object] = {}
    if "tensorboard" in job.tracking:
        receivers["tensorboard_receiver"] = TensorBoardReceiver()
    if "mlflow" in job.tracking:
        receivers["mlflow_receiver"] = MLflowReceiver(
            tracking_uri=job.mlflow.tracking_uri, experiment=job.mlflow.experiment
        )
    # Last, because NVFlare closes them in this order and the journal's end says that the others are done.
    return {**receivers, "journal_receiver": JournalReceiver()}
