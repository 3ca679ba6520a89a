"""From a job's name to an NVFlare recipe, in one of three forms.

simulator   the training script runs inside NVFlare's worker: fewest processes
installed   no code in the job; the sites run the package that their IT has installed
shipped     the package travels with the job; sites with a strict policy refuse it
"""

import contextlib
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import torch
from nvflare.apis.job_def import JobMetaKey
from nvflare.app_common.workflows.model_controller import ModelController
from nvflare.app_opt.pt.recipes.fedavg import FedAvgRecipe
from nvflare.recipe import set_recipe_meta
from nvflare.recipe.spec import Recipe
from safetensors.torch import load

import pneumonia_fl
from pneumonia_fl import __version__
from pneumonia_fl.config.job import JobConfig, SiteSettings
from pneumonia_fl.config.job_files import jobs_folder
from pneumonia_fl.errors import ConfigError
from pneumonia_fl.fl.algorithms.registry import server_algorithm
from pneumonia_fl.fl.algorithms.weighted_average import SampleWeightedAverage
from pneumonia_fl.fl.entrypoints import path_of
from pneumonia_fl.fl.job.swarm import SwarmJournal, SwarmRecipe
from pneumonia_fl.fl.protocol.carried_models import carry, keep_at_server, pack
from pneumonia_fl.fl.protocol.carried_weights import FOLDER, INITIAL
from pneumonia_fl.fl.protocol.messages import ABOUT_KEY
from pneumonia_fl.fl.server.controller import PooledFedAvg
from pneumonia_fl.fl.server.cyclic_controller import CyclicWeights
from pneumonia_fl.fl.server.evaluation_controller import SavedModelJudge
from pneumonia_fl.fl.server.persistor import GlobalModel
from pneumonia_fl.fl.server.receivers import JournalReceiver, MLflowReceiver, TensorBoardReceiver
from pneumonia_fl.fl.site.executor import TrainerExecutor
from pneumonia_fl.models.architectures import build_model, count_parameters, imagenet_state

Form = Literal["simulator", "installed", "shipped"]
TRAINING_SCRIPT = "client.py"
PACKAGE = "pneumonia_fl"
SHIPPED_CODE = "code"
SWARM_WEIGHTS = "initial.pt"
"""NVFlare's own persistor, of which every site of a swarm has one, reads PyTorch's files only."""

UPLOAD_BASE = 30.0
"""Seconds that an upload may take beside the time for its bytes."""

TASK_CHECK_PERIOD = 0.1
"""Seconds between two looks of the controller at its tasks; NVFlare's 0.5 would be idle time in every round."""

TASK_REQUEST_INTERVAL = 0.2
"""Seconds after which a site asks for its next task; NVFlare's 2 would be idle time in every round."""


class PneumoniaRecipe(FedAvgRecipe):
    """NVFlare's FedAvg recipe with our controller in the place of the stock one.

    Args:
        job: the job; its `preprocess` must be known.
        sites: names of the sites that are expected, or their number.
        form: see the module.
        resume_from: id of an earlier job to resume; "": a new job.
        weights: packed weights to begin with; None: those of the seed.
        models: packed weights of the models that the job's `evaluation` names.
    """

    def __init__(
        self,
        job: JobConfig,
        sites: tuple[str, ...] | int,
        form: Form,
        resume_from: str = "",
        weights: bytes | None = None,
        models: Mapping[str, bytes] = MappingProxyType({}),
    ) -> None:
        self._source, self._form, self._resume_from = job, form, resume_from
        self._sites = () if isinstance(sites, int) else sites
        self._settings = job.site_settings()
        network = _network(job, self._settings)
        model = GlobalModel(**network)
        super().__init__(
            name=job.name,
            model_persistor=model,
            min_clients=job.min_sites or (sites if isinstance(sites, int) else len(sites)),
            num_rounds=job.rounds,
            train_script=TRAINING_SCRIPT,
            train_args=self._settings.model_dump_json(),  # one word: no setting of a site holds a space
            aggregator=SampleWeightedAverage(),
            # Empty: no stock model selector; PooledFedAvg chooses the best model itself.
            key_metric="",
        )
        if weights is not None:
            model.weights = carry(self._job, {INITIAL: weights})[INITIAL]
        carry(self._job, models)
        self._job.set_app_packages([PACKAGE])
        self.add_server_config({"server": {"task_request_interval": TASK_REQUEST_INTERVAL}})
        self.add_client_config({"submit_task_result_timeout": _upload_seconds(job, network)})
        for name, receiver in _receivers(job, resume_from).items():
            self._job.to_server(receiver, id=name)
        about = {"config": job.model_dump(mode="json", exclude_none=True), "version": __version__}
        props = {ABOUT_KEY: {**about, "sites": list(self._sites), "form": form, "resume_from": resume_from}}
        set_recipe_meta(self, JobMetaKey.CUSTOM_PROPS, props)
        if form == "shipped":
            self.add_client_file(SHIPPED_CODE)
            self.add_server_file(SHIPPED_CODE)

    def _prepare_client_apps(self) -> None:
        if self._form == "simulator":
            super()._prepare_client_apps()
        else:
            settings = self._settings.model_dump(mode="json")
            self._job.to_clients(TrainerExecutor(settings, float(self._source.round_timeout)), tasks=["*"])

    def _create_controller(
        self, persistor_id: str, model_params: dict[str, Any] | None, model_aggregator: object
    ) -> ModelController:
        job = self._source
        if job.evaluation is not None:
            return SavedModelJudge(
                sites=self._sites,
                round_timeout=job.round_timeout,
                persistor_id=persistor_id,
                evaluation=job.evaluation.model_dump(),
                task_check_period=TASK_CHECK_PERIOD,
            )
        controller = CyclicWeights if job.algorithm.name == "cyclic" else PooledFedAvg
        return controller(
            sites=self._sites,
            quorum=job.min_sites,
            grace=job.grace,
            round_timeout=job.round_timeout,
            stall_timeout=job.stall_timeout,
            resume_from=self._resume_from,
            num_rounds=self.num_rounds,
            persistor_id=persistor_id,
            aggregator=model_aggregator,
            algorithm=job.algorithm.model_dump(exclude_defaults=True),
            early_stopping=job.early_stopping.model_dump(exclude_defaults=True),
            cross_site=job.cross_site.model_dump(exclude_defaults=True),
            # Pairs: NVFlare would take a mapping with a site called `path` for a component.
            factors=[[name, site.weight] for name, site in job.sites.items()] or None,
            seed=job.train.seed,
            exchange=job.exchange,
            task_check_period=TASK_CHECK_PERIOD,
        )


@contextlib.contextmanager
def recipe_for(
    job: JobConfig,
    sites: tuple[str, ...] | int,
    form: Form,
    resume_from: str = "",
    weights: bytes | None = None,
    models: Mapping[str, bytes] = MappingProxyType({}),
) -> Iterator[Recipe]:
    """Yield the recipe, inside a folder with the files that travel with the job; for arguments see `PneumoniaRecipe`.

    NVFlare copies a script or a checkpoint into the job only when it is named relative to the working directory;
    absolute names stay in the configuration as they are.

    Raises:
        ConfigError: the job cannot have this form, or evaluates models that are not here.
    """
    if models.keys() != (job.evaluation.models.keys() if job.evaluation else set()):
        raise ConfigError(
            "a job that evaluates saved models is made by `pneumonia-fl evaluate` or `pneumonia-fl cross-site`, which "
            "bring the models"
        )
    if weights is None and job.model.pretrained == "imagenet" and not resume_from:
        weights = pack(_pretrained(job))
    if weights is None and job.init_from is not None and not resume_from:
        raise ConfigError("the model of init_from is not here; name it with --init-from")
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        shutil.copy(jobs_folder() / TRAINING_SCRIPT, folder)
        if form == "shipped":
            own = Path(pneumonia_fl.__file__).parent
            shutil.copytree(own, Path(SHIPPED_CODE) / PACKAGE, ignore=shutil.ignore_patterns("__pycache__"))
        if job.algorithm.name == "swarm":
            yield _swarm(job, sites, form, weights)
        else:
            yield PneumoniaRecipe(job, sites, form, resume_from, weights, models)


def _swarm(job: JobConfig, sites: tuple[str, ...] | int, form: Form, weights: bytes | None) -> SwarmRecipe:
    if form != "simulator" or isinstance(sites, int):
        raise ConfigError(
            "swarm runs in the simulator only: on real sites its model would never pass the server, which could "
            "neither check nor keep nor judge it; see docs/algorithms.md"
        )
    if weights is not None:
        torch.save(load(weights), SWARM_WEIGHTS)
    settings = job.site_settings()
    network = _network(job, settings)
    model = {
        "class_path": path_of("build_model"),
        "args": {"name": network.pop("network"), **network},
    }
    begin = None if weights is None else SWARM_WEIGHTS
    recipe = SwarmRecipe(job, len(sites), model, (TRAINING_SCRIPT, settings.model_dump_json()), begin)
    recipe._job.set_app_packages([PACKAGE])
    journal = SwarmJournal(list(sites), job.rounds)
    for name, receiver in (_receivers(job, "") | {"journal_receiver": journal}).items():
        recipe._job.to_server(receiver, id=name)
    return recipe


def _pretrained(job: JobConfig) -> dict[str, torch.Tensor]:
    """Load ImageNet weights on the submitter's machine, so that no site needs the internet."""
    if job.model.norm != "batch":
        raise ConfigError(
            "model.pretrained imagenet needs model.norm batch; the weights were trained with it"
        )
    return imagenet_state(job.model.name, seed=job.train.seed)


def export_job(
    job: JobConfig,
    sites: tuple[str, ...] | int,
    folder: Path,
    form: Form = "installed",
    resume_from: str = "",
    weights: bytes | None = None,
    models: Mapping[str, bytes] = MappingProxyType({}),
) -> Path:
    """Write the NVFlare job folder below `folder` and return it."""
    exported = folder.absolute() / job.name
    with recipe_for(job, sites, form, resume_from, weights, models) as recipe:
        recipe.export(str(exported.parent))
    if not isinstance(sites, int) and (exported / "app" / FOLDER).is_dir():
        keep_at_server(exported, sites)
    return exported


def _upload_seconds(job: JobConfig, network: dict[str, Any]) -> float:
    """Return the time limit of a site's upload, after which NVFlare starts it again: enough for 1 Mbit/s."""
    with torch.device("meta"):  # shapes without numbers
        model = build_model(network["network"], network["norm"], network["size"])
    megabits = count_parameters(model) * 32 / 1e6
    return UPLOAD_BASE + megabits * server_algorithm(job.algorithm, frozenset()).answer_copies


def _network(job: JobConfig, settings: SiteSettings) -> dict[str, Any]:
    """Return the description of the network that `GlobalModel` builds."""
    return {
        "network": job.model.name,
        # FedBN's server has no normalisation: each site keeps its own.
        "norm": "none" if job.algorithm.name == "fedbn" else job.model.norm,
        "size": settings.preprocess.size,
        "seed": job.train.seed,
    }


def _receivers(job: JobConfig, resume_from: str) -> dict[str, object]:
    receivers: dict[str, object] = {}
    if "tensorboard" in job.tracking:
        receivers["tensorboard_receiver"] = TensorBoardReceiver(resume_from, job.tracking_aliases)
    if "mlflow" in job.tracking:
        receivers["mlflow_receiver"] = MLflowReceiver(
            tracking_uri=job.mlflow.tracking_uri,
            experiment=job.mlflow.experiment,
            resume_from=resume_from,
            aliases=job.tracking_aliases,
        )
    # Last, because NVFlare closes them in this order and the journal's end says that the others are done.
    return {**receivers, "journal_receiver": JournalReceiver()}
