"""Pack models into a job and read them again at the server; `carried_weights.py` says what may travel."""

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path

from nvflare.apis.job_def import SERVER_SITE_NAME
from nvflare.job_config.api import FedJob
from safetensors import SafetensorError
from safetensors.numpy import load
from safetensors.torch import save
from torch import Tensor, nn

from pneumonia_fl.errors import CheckpointError
from pneumonia_fl.fl.protocol.carried_weights import FOLDER, weights_file, weights_problem
from pneumonia_fl.fl.protocol.update_checks import Parameters, arrays_problem, in_kind


def pack(state: Mapping[str, Tensor]) -> bytes:
    """Return a state dict as it travels, the bytes of `model.safetensors`."""
    content: bytes = save({key: value.detach().cpu().contiguous().clone() for key, value in state.items()})
    return content


def hash_of(packed: bytes) -> str:
    """Return the SHA-256 of packed weights, in the form of `names.WEIGHTS_HASH`."""
    return f"sha256:{hashlib.sha256(packed).hexdigest()}"


def carry(job: FedJob, models: Mapping[str, bytes]) -> dict[str, str]:
    """Add packed models to the server's part of a job that is exported from the working directory.

    Returns:
        The SHA-256 of each, by its name: for the arguments of what reads them.
    """
    for name, content in models.items():
        file = weights_file(Path(), name)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
        job.add_file_to_server(str(file), dest_dir=Path(FOLDER).name, app_folder_type="config")
    return {name: hash_of(content) for name, content in models.items()}


def keep_at_server(job: Path, sites: tuple[str, ...]) -> None:
    """Deploy the weights in an exported job folder to the server only; the folder must name its sites.

    NVFlare deploys what is for all sites to the server as well, so it has no form for "all but the server". The sites
    get the same configuration, and the weights in the first round.
    """
    app, server = job / "app", job / f"app_{SERVER_SITE_NAME}"
    shutil.copytree(app, server)
    shutil.rmtree(app / FOLDER)
    meta = json.loads((job / "meta.json").read_text(encoding="utf-8"))
    meta["deploy_map"] = {server.name: [SERVER_SITE_NAME], app.name: list(sites)}
    (job / "meta.json").write_text(json.dumps(meta, indent=4), encoding="utf-8")


def carried(app: Path, name: str, models: Mapping[str, str], network: nn.Module) -> Parameters:
    """Read a model that came with a job, in the kinds of number of the network.

    Args:
        app: the folder of the deployed app.
        name: which of its models.
        models: hash of each, by its name.
        network: what the weights are for.

    Raises:
        CheckpointError: it is missing, changed on the way, damaged, or not the weights of this network.
    """
    if problem := weights_problem(app, models, needed=True):
        raise CheckpointError(f"the weights of this job: {problem}")
    try:
        arrays = load(weights_file(app, name).read_bytes())
    except (SafetensorError, ValueError, KeyError, TypeError):
        raise CheckpointError(f"the weights {name!r} are damaged or no safetensors") from None
    reference = {key: value.numpy() for key, value in network.state_dict().items()}
    if problem := arrays_problem(arrays, reference):
        raise CheckpointError(f"the weights {name!r} do not fit {type(network).__name__}: {problem}")
    return in_kind(arrays, reference)
