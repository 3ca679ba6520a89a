"""Going on from a saved model: finding it, and making sure that the job trains the network that it is.

A path stays on the machine where it was written. The job has the model's name and the hash of its weights, and the
weights travel beside it (`fl/protocol/carried_models.py`). Calibration and threshold are fitted again, not taken over.
"""

import re
import tempfile
from pathlib import Path

from pneumonia_fl.config.environment import model_registry
from pneumonia_fl.config.job import JobConfig
from pneumonia_fl.config.sections import Origin
from pneumonia_fl.errors import CheckpointError, ConfigError
from pneumonia_fl.evaluation.evaluate import model_folder
from pneumonia_fl.fl.protocol.carried_models import hash_of, pack
from pneumonia_fl.inputs.paths import expanded
from pneumonia_fl.inputs.text import printable
from pneumonia_fl.models.checkpoint import ModelCard, load_model
from pneumonia_fl.runs.folder import INITIAL_WEIGHTS, RunFolder
from pneumonia_fl.tracking.mlflow_client import download_artifact
from pneumonia_fl.tracking.mlflow_queue import one_line

MLFLOW = "mlflow:"
_REGISTERED = re.compile(r"models:/([^/@]+)(?:/(\w+)|@(\w+))")
_LOGGED = re.compile(r"runs:/(\w+)/[\w/.-]+")


def begin(job: JobConfig, file: Path) -> tuple[JobConfig, bytes | None]:
    """Find the model with which a job begins; return the job as it runs, and the packed weights.

    Args:
        job: the job as its file and the overrides say.
        file: the job's file. That of an earlier run has the weights beside it.

    Raises:
        ConfigError: the job trains another network, or on another input.
        CheckpointError: there is no such model, or it cannot be loaded.
    """
    if job.init_from is None:
        return job, None
    if isinstance(job.init_from, Origin):
        return job, _beside(file, job.init_from)
    card, name, weights = _found(job.init_from)
    origin = Origin(name=name, weights=hash_of(weights))
    return _fitting(job, card, name).model_copy(update={"init_from": origin}), weights


def _found(source: str) -> tuple[ModelCard, str, bytes]:
    """Return a saved model's card, a name for it that is no path, and its weights."""
    if source.startswith(MLFLOW):
        return _fetched(source.removeprefix(MLFLOW))
    path = expanded(source).absolute()
    card, weights = _loaded(path)
    folders = (folder for folder in (path, *path.parents) if RunFolder(folder).is_run)
    run = next(folders, None)
    folder = run or (path if path.is_dir() else path.parent)
    return card, _named(folder.name, card), weights


def _fetched(uri: str) -> tuple[ModelCard, str, bytes]:
    registered, logged = _REGISTERED.fullmatch(uri), _LOGGED.fullmatch(uri)
    if registered:
        name = " version ".join(filter(None, registered.groups()))
    elif logged:
        name = f"MLflow run {logged.group(1)}"
    else:
        raise ConfigError(
            f"init_from {MLFLOW}{uri}: write {MLFLOW}models:/NAME/VERSION or {MLFLOW}runs:/ID/model"
        )
    server = model_registry()
    if server is None:
        raise ConfigError("init_from mlflow:… needs the server's address; set PNEUMONIA_FL_TRACKING_URI")
    with tempfile.TemporaryDirectory() as folder:
        card, weights = _loaded(_download(server, uri, folder))
    return card, _named(name, card), weights


def _download(server: str, uri: str, folder: str) -> Path:
    try:
        return download_artifact(server, uri, folder)
    except Exception as error:  # whatever MLflow or its transport raises
        raise CheckpointError(f"{MLFLOW}{uri} cannot be fetched from {server} ({one_line(error)})") from None


def _loaded(path: Path) -> tuple[ModelCard, bytes]:
    network, card = load_model(model_folder(path))
    return card, pack(network.state_dict())


def _named(source: str, card: ModelCard) -> str:
    word = printable(source, 100).replace("\\", "-")
    return f"{word}, {'mean of the last models' if card.averaged else f'round {card.round}'}"


def _fitting(job: JobConfig, card: ModelCard, name: str) -> JobConfig:
    """Return the job with the model's input; `ConfigError` names the first setting that differs."""
    wanted = {f"model.{key}": getattr(job.model, key) for key in ("name", "norm")}
    if job.preprocess is not None:
        own = job.preprocess.model_fields_set
        wanted |= {f"preprocess.{key}": getattr(job.preprocess, key) for key in sorted(own)}
    sections = {"model": card.model, "preprocess": card.preprocess}
    for key, value in wanted.items():
        section, _, field = key.partition(".")
        have = getattr(sections[section], field)
        if value != have:
            raise ConfigError(
                f"init_from {name}: its {key} is {have}, the job's is {value}; set {key}={have}, or begin with "
                "another model"
            )
    return job.model_copy(update={"preprocess": card.preprocess})


def _beside(file: Path, origin: Origin) -> bytes:
    """Return the weights that an earlier run keeps beside its job file."""
    weights = file.with_name(INITIAL_WEIGHTS)
    content = weights.read_bytes() if weights.is_file() else b""
    if hash_of(content) != origin.weights:
        raise CheckpointError(
            f"this job started from {origin.name!r} ({origin.weights[:19]}…), which is not here; "
            "name it with --init-from"
        )
    return content
