"""Make the configuration of a job without code from its settings, to the letter, so that it can be compared.

A job that a strict server or site takes *is* what `fl/job/recipe.py` makes. So its settings are read out of it, checked
as a job file's are, and the configuration is made from them once more; whatever differs is refused, whether anybody has
thought of it as harmful or not. Written without NVFlare's recipe, which would need PyTorch in a parent process.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field

from pneumonia_fl.config.algorithm import Exchange
from pneumonia_fl.config.job import JobConfig, SiteSettings
from pneumonia_fl.config.strict import Strict, parse
from pneumonia_fl.errors import ConfigError
from pneumonia_fl.fl.entrypoints import old_paths, path_of
from pneumonia_fl.fl.protocol.carried_weights import INITIAL
from pneumonia_fl.inputs.json_files import read_json
from pneumonia_fl.inputs.names import JOB_ID, SITE_NAME, WEIGHTS_HASH

SERVER_FILE, SITE_FILE = "config/config_fed_server.json", "config/config_fed_client.json"
SIGNATURE_FILES = {".__nvfl_sig.json", ".__nvfl_submitter.crt"}
"""What NVFlare lays into each folder of a job that is signed; it checks them itself."""
EARLIER = "it is of an earlier version of pneumonia-fl; make it again with the version that is used here"
MOST_BYTES = 200_000
MOST_SITES = 100


class ServerWords(Strict):
    """Settings in the server's half of a job only; names are those of the controller's arguments."""

    sites: tuple[str, ...] = ()
    quorum: int = 0
    grace: int = 60
    round_timeout: int = 3600
    stall_timeout: int = 1800
    early_stopping: dict[str, Any] = Field(default_factory=dict)
    exchange: Exchange = "float32"
    resume_from: str = Field("", pattern=rf"^({JOB_ID.pattern})?$")
    experiment: str | None = None
    tracking: tuple[str, ...] = ()
    tracking_aliases: bool = False
    weights: str = Field("", pattern=rf"^({WEIGHTS_HASH.pattern})?$")
    evaluation: dict[str, Any] | None = None


class SiteWords(Strict):
    """Settings in the sites' half only."""

    upload_timeout: float = Field(ge=30, le=1_000_000)


def read_job(app: Path) -> tuple[JobConfig, dict[str, str], str]:
    """Read a deployed app's settings.

    Returns:
        The settings; the SHA-256 of the models that the server's half has beside it, by name; what is wrong, or "".

    Raises:
        ConfigError: it does not even look like a job of ours.
    """
    files = {SERVER_FILE: _json(app / SERVER_FILE), SITE_FILE: _json(app / SITE_FILE)}
    try:
        settings = dict(files[SITE_FILE]["executors"][0]["executor"]["args"]["settings"])
        site = SiteWords(upload_timeout=files[SITE_FILE]["submit_task_result_timeout"])
        server = _server_words(files[SERVER_FILE])
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        if next(old_paths(list(files.values())), ""):
            raise ConfigError(EARLIER) from None
        raise ConfigError(f"it is not made by pneumonia-fl ({type(error).__name__})") from None
    job = _job(parse(SiteSettings, settings, "the job's settings"), server)
    if any(SITE_NAME.fullmatch(name) is None for name in server.sites) or len(server.sites) > MOST_SITES:
        raise ConfigError("its list of sites is not one")
    expected = {SERVER_FILE: server_configuration(job, server), SITE_FILE: site_configuration(job, site)}
    differing = (difference(files[name], expected[name], Path(name).name) for name in files)
    return job, _models(job, server), next(filter(None, differing), "")


def _models(job: JobConfig, server: ServerWords) -> dict[str, str]:
    begin = {INITIAL: server.weights} if server.weights else {}
    saved = job.evaluation.models if job.evaluation else {}
    return begin | {name: model.sha256 for name, model in saved.items()}


def site_configuration(job: JobConfig, site: SiteWords) -> dict[str, Any]:
    """Return `config_fed_client.json` of a job."""
    settings = job.site_settings().model_dump(mode="json")
    trainer = {"settings": settings, "result_timeout": float(job.round_timeout)}
    return {
        "format_version": 2,
        "executors": [{"tasks": ["*"], "executor": _component(path_of("Trainer"), trainer)}],
        "components": [
            {
                "id": "event_to_fed",
                **_component(
                    "nvflare.app_common.widgets.convert_to_fed_event.ConvertToFedEvent",
                    {"events_to_convert": ["analytix_log_stats"]},
                ),
            }
        ],
        "task_data_filters": [],
        "task_result_filters": [],
        "submit_task_result_timeout": site.upload_timeout,
    }


def server_configuration(job: JobConfig, server: ServerWords) -> dict[str, Any]:
    """Return `config_fed_server.json` of a job."""
    path, arguments = _judge(job, server) if job.evaluation else _controller(job, server)
    widgets = "nvflare.app_common.widgets"
    begin = "" if job.evaluation else server.weights
    components = {
        "json_generator": _component(f"{widgets}.validation_json_generator.ValidationJsonGenerator", {}),
        "metrics_artifact_writer": _component(f"{widgets}.metrics_artifact_writer.MetricsArtifactWriter", {}),
        "persistor": _component(path_of("Persistor"), _network(job, begin)),
        **_receivers(job, server.resume_from),
    }
    return {
        "format_version": 2,
        "workflows": [{"id": "controller", **_component(path, arguments)}],
        "components": [{"id": name, **component} for name, component in components.items()],
        "task_data_filters": [],
        "task_result_filters": [],
        "server": {"task_request_interval": 0.2},
    }


def difference(actual: object, expected: object, where: str) -> str:
    """Return where two JSON values differ first, or "": the place only, since values are somebody's text."""
    if isinstance(actual, Mapping) and isinstance(expected, Mapping):
        if set(actual) != set(expected):
            odd = sorted(map(str, set(actual) ^ set(expected)))
            return f"{where} ({', '.join(odd)[:100]})"
        pairs = ((actual[key], expected[key], f"{where}.{key}") for key in expected)
    elif isinstance(actual, list) and isinstance(expected, list) and len(actual) == len(expected):
        pairs = ((a, e, f"{where}[{n}]") for n, (a, e) in enumerate(zip(actual, expected, strict=True)))
    else:
        return "" if type(actual) is type(expected) and actual == expected else where
    return next(filter(None, (difference(*pair) for pair in pairs)), "")


def _json(path: Path) -> Any:
    try:
        return read_json(path, MOST_BYTES)
    except (OSError, ValueError):
        raise ConfigError(f"its {path.name} is missing, too large or not JSON") from None


def _server_words(server: Any) -> ServerWords:
    given: Mapping[str, Any] = server["workflows"][0]["args"]
    components = {str(one["id"]): one["args"] for one in server["components"]}
    own = {name: given[name] for name in ServerWords.model_fields if name in given}
    own["weights"] = components["persistor"].get("weights", "")
    own["tracking"] = [name for name in ("tensorboard", "mlflow") if f"{name}_receiver" in components]
    if experiment := components.get("mlflow_receiver", {}).get("experiment"):
        own["experiment"] = experiment
    own["tracking_aliases"] = any(args.get("aliases") is True for args in components.values())
    return ServerWords.model_validate(own)


def _job(site: SiteSettings, server: ServerWords) -> JobConfig:
    values = site.model_dump() | {
        "min_sites": server.quorum,
        "grace": server.grace,
        "round_timeout": server.round_timeout,
        "stall_timeout": server.stall_timeout,
        "early_stopping": server.early_stopping,
        "tracking": server.tracking,
        "tracking_aliases": server.tracking_aliases,
        "evaluation": server.evaluation,
    }
    if server.experiment is not None:
        values["mlflow"] = {"experiment": server.experiment}
    return parse(JobConfig, values, "the job's settings")


def _judge(job: JobConfig, server: ServerWords) -> tuple[str, dict[str, Any]]:
    """Return the controller that evaluates saved models, and its arguments."""
    assert job.evaluation is not None
    given = {"sites": list(server.sites), "round_timeout": job.round_timeout}
    return path_of("EvaluationController"), _no_defaults(given) | {
        "evaluation": job.evaluation.model_dump(),
        "task_check_period": 0.1,
    }


def _no_defaults(given: dict[str, Any]) -> dict[str, Any]:
    """Drop arguments that have their default value, as NVFlare does."""
    defaults = ServerWords().model_dump()
    return {name: value for name, value in given.items() if value != defaults[name] and value != []}


def _controller(job: JobConfig, server: ServerWords) -> tuple[str, dict[str, Any]]:
    """Return the controller that trains, and its arguments."""
    cyclic = job.algorithm.name == "cyclic"
    path = path_of("CyclicController" if cyclic else "Controller")
    given = {
        "sites": list(server.sites),
        "quorum": job.min_sites,
        "grace": job.grace,
        "round_timeout": job.round_timeout,
        "stall_timeout": job.stall_timeout,
        "resume_from": server.resume_from,
        "exchange": job.exchange,
    }
    return path, _no_defaults(given) | {
        "num_rounds": job.rounds,
        "aggregator": _component(path_of("Aggregator"), {}),
        "algorithm": job.algorithm.model_dump(exclude_defaults=True),
        "early_stopping": job.early_stopping.model_dump(exclude_defaults=True),
        "cross_site": job.cross_site.model_dump(exclude_defaults=True),
        **({"factors": [[name, site.weight] for name, site in job.sites.items()]} if job.sites else {}),
        "seed": job.train.seed,
        "task_check_period": 0.1,
    }


def _network(job: JobConfig, weights: str) -> dict[str, Any]:
    norm = "none" if job.algorithm.name == "fedbn" else job.model.norm
    size = job.site_settings().preprocess.size
    given = {"weights": weights} if weights else {}
    return {"network": job.model.name, "norm": norm, "size": size, "seed": job.train.seed, **given}


def _receivers(job: JobConfig, resume_from: str) -> dict[str, Any]:
    resumed: dict[str, Any] = {"resume_from": resume_from} if resume_from else {}
    resumed |= {"aliases": True} if job.tracking_aliases else {}
    own = job.mlflow.experiment
    named = {} if own == type(job.mlflow)().experiment else {"experiment": own}
    found = {}
    if "tensorboard" in job.tracking:
        found["tensorboard_receiver"] = _component(path_of("TensorBoardReceiver"), resumed)
    if "mlflow" in job.tracking:
        found["mlflow_receiver"] = _component(path_of("MLflowReceiver"), named | resumed)
    return found | {"journal_receiver": _component(path_of("JournalReceiver"), {})}


def _component(path: str, args: dict[str, Any]) -> dict[str, Any]:
    return {"path": path, "args": args}
