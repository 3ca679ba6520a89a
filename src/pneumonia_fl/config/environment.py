"""What a machine says for itself, and never a job: where its data and a site's own models lie, which cores it may use.

This module and the command line are the only readers of environment variables.
"""

import contextlib
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal, get_args

from pneumonia_fl.config.sections import no_login
from pneumonia_fl.errors import ConfigError
from pneumonia_fl.inputs.paths import expanded

DATA_VARIABLE = "PNEUMONIA_FL_DATA"
THREADS_VARIABLE = "PNEUMONIA_FL_THREADS"
SITE_STATE_VARIABLE = "PNEUMONIA_FL_SITE_STATE"
KEEP_MODEL_VARIABLE = "PNEUMONIA_FL_KEEP_MODEL"
SITE_TRACKING_VARIABLE = "PNEUMONIA_FL_SITE_TRACKING"
SITE_TRACKING_URI_VARIABLE = "PNEUMONIA_FL_SITE_TRACKING_URI"
SeriesPlace = Literal["server", "site", "both"]
NO_EVALUATION_VARIABLE = "PNEUMONIA_FL_NO_EVALUATION"
LIMITS_VARIABLE = "PNEUMONIA_FL_LIMITS"
LIMITED = {"local_epochs": 1, "batch_size": 2}
"""Settings of training that a site may cap, and the least that each can be."""
KIT_VARIABLE = "PNEUMONIA_FL_KIT"
TRACKING_VARIABLE = "PNEUMONIA_FL_TRACKING_URI"
RUN_VARIABLE = "PNEUMONIA_FL_RUN"
MLFLOW_VARIABLE = "MLFLOW_TRACKING_URI"
"""MLflow's own name for what `PNEUMONIA_FL_TRACKING_URI` says to this program."""
TRACKING_LOGIN = ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD")
"""MLflow's own names; its client reads them by itself."""

NO_TELEMETRY = "MLFLOW_DISABLE_TELEMETRY"
QUIET = {
    # MLflow tells its makers how it is used, from every process that imports it, and its pages fetch a list of
    # language models. No other dependency reports anything by itself (docs/provisioning.md).
    NO_TELEMETRY: "true",
    "MLFLOW_MODEL_CATALOG_URI": "",
    "DO_NOT_TRACK": "1",
}
"""For every process, whatever its own environment says: nothing is reported to the makers of a library."""

LEAN_MLFLOW = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
"""For an MLflow server: the runner of evaluations of language models is a process that is not needed here."""

SHARED_CORES = {
    "OMP_NUM_THREADS": "1",  # for whoever does not set its own number
    # Threads that wait must not spin: beside other sites that made a batch 20 times slower.
    "OMP_WAIT_POLICY": "PASSIVE",
    # NVFlare trains in a thread; with an arena of its own the process keeps 60 MB more.
    "MALLOC_ARENA_MAX": "1",
}
"""For processes of sites that share a machine."""

JOB_VARIABLES = (
    # Whose account and which language; where programs, libraries and temporary files are.
    *("HOME", "USER", "LOGNAME", "LANG", "LANGUAGE", "LC_*", "TZ", "TMPDIR", "XDG_CACHE_HOME"),
    *("PATH", "PYTHON*", "VIRTUAL_ENV", "LD_LIBRARY_PATH", "LD_PRELOAD"),
    # Graphics cards, cores and memory.
    *("CUDA_*", "NVIDIA_*", "CUBLAS_*", "CUDNN_*", "NCCL_*", "TORCH_*", "PYTORCH_*"),
    *("OMP_*", "GOMP_*", "KMP_*", "MKL_*", "OPENBLAS_*", "MALLOC_*"),
    # The network, and NVFlare's own settings.
    *("GRPC_*", "SSL_CERT_FILE", "SSL_CERT_DIR", "http_proxy", "https_proxy", "no_proxy", "grpc_proxy"),
    *("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "NVFLARE_*", "FL_LOG_LEVEL"),
    RUN_VARIABLE,
)
"""What the process of a job is told of its parent's environment: a job must not find a password there."""
SITE_JOB_VARIABLES = (
    *JOB_VARIABLES,
    *(DATA_VARIABLE, THREADS_VARIABLE, SITE_STATE_VARIABLE),
    *(KEEP_MODEL_VARIABLE, NO_EVALUATION_VARIABLE, LIMITS_VARIABLE),
    *(SITE_TRACKING_VARIABLE, SITE_TRACKING_URI_VARIABLE),
)
SERVER_JOB_VARIABLES = (
    *JOB_VARIABLES,
    *(TRACKING_VARIABLE, *TRACKING_LOGIN, "MLFLOW_TRACKING_TOKEN"),
    *("MLFLOW_TRACKING_SERVER_CERT_PATH", "MLFLOW_TRACKING_INSECURE_TLS", "MLFLOW_HTTP_REQUEST_*"),
    "REQUESTS_CA_BUNDLE",
)
"""Only the server's jobs talk to MLflow."""


def data_root() -> Path | None:
    """Return the site's own data folder from `PNEUMONIA_FL_DATA`, or None when it is not set."""
    value = os.environ.get(DATA_VARIABLE)
    return expanded(value) if value else None


def admin_kit() -> Path | None:
    """Return the person's own startup kit from `PNEUMONIA_FL_KIT`, or None when it is not set."""
    value = os.environ.get(KIT_VARIABLE)
    return expanded(value) if value else None


def report_nothing() -> None:
    """Turn off usage reports of this process and its children; call it before MLflow is imported."""
    os.environ.update(QUIET)


def nvflare_log_level() -> str | None:
    """Return what NVFlare's own variable says of its log; None when it is not set."""
    return os.environ.get("FL_LOG_LEVEL")


def quiet_grpc() -> None:
    """Silence gRPC's own messages about failed handshakes, unless the user wants them."""
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")


def proxy_variables() -> dict[str, str]:
    """Return the variables that name proxies, and hosts reached without one, in upper or lower case."""
    return {name: value for name, value in os.environ.items() if name.lower().endswith("_proxy")}


def site_threads(site: str) -> int | None:
    """Return the thread limit of `site` from `PNEUMONIA_FL_THREADS` (`site-1=1,site-2=2`); None: no limit."""
    words = os.environ.get(THREADS_VARIABLE, "").split(",")
    threads = dict(word.split("=", 1) for word in words if "=" in word)
    return int(threads[site]) if site in threads else None


def site_limits() -> dict[str, int]:
    """Return this machine's limits on training, from `PNEUMONIA_FL_LIMITS` (`local_epochs=1,batch_size=16`).

    Raises:
        ConfigError: it says something else. A limit that is not understood must not be lifted.
    """
    words = filter(None, os.environ.get(LIMITS_VARIABLE, "").split(","))
    pairs = dict(word.partition("=")[::2] for word in words)
    if not all(v.isdecimal() and int(v) >= LIMITED.get(key, math.inf) for key, v in pairs.items()):
        raise ConfigError(
            f"{LIMITS_VARIABLE} is not understood; write for example local_epochs=1,batch_size=16"
        )
    return {key: int(value) for key, value in pairs.items()}


def site_state(site: str, job: str) -> Path | None:
    """Return the folder in which `site` keeps its private state of `job`; None when the site has none.

    From `PNEUMONIA_FL_SITE_STATE`, in which `{site}` and `{job}` are replaced.
    """
    value = os.environ.get(SITE_STATE_VARIABLE)
    return expanded(value.replace("{site}", site).replace("{job}", job)) if value else None


def shares_model(site: str) -> bool:
    """Return True when `site` sends its local model for cross-site evaluation, if a job asks for it.

    Sites named in `PNEUMONIA_FL_KEEP_MODEL` (`site-1,site-3`) do not.
    """
    return site not in os.environ.get(KEEP_MODEL_VARIABLE, "").split(",")


@dataclass(frozen=True)
class SiteTracking:
    """Where a site's series go."""

    where: SeriesPlace = "server"
    """server: to the server; site: they stay at home; both."""
    uri: str | None = None
    """The site's own MLflow, for `site` and `both`; None: its TensorBoard folder only."""


def site_tracking() -> SiteTracking:
    """Return where this site's series go: `PNEUMONIA_FL_SITE_TRACKING` and `PNEUMONIA_FL_SITE_TRACKING_URI`.

    Raises:
        ConfigError: it is none of server, site, both; or the address carries a login.
    """
    said = os.environ.get(SITE_TRACKING_VARIABLE) or "server"
    places = {place: place for place in get_args(SeriesPlace)}
    if said not in places:
        raise ConfigError(f"{SITE_TRACKING_VARIABLE} must be server, site or both")
    return SiteTracking(places[said], _address(SITE_TRACKING_URI_VARIABLE))


def joins_evaluations(site: str) -> bool:
    """Return True when `site` takes part in jobs that only evaluate saved models.

    Sites named in `PNEUMONIA_FL_NO_EVALUATION` (`site-1,site-3`) do not.
    """
    return site not in os.environ.get(NO_EVALUATION_VARIABLE, "").split(",")


def opt_out_of_evaluations(site: str) -> None:
    """Make `joins_evaluations` false for `site` in this process and its children."""
    os.environ[NO_EVALUATION_VARIABLE] = f"{os.environ.get(NO_EVALUATION_VARIABLE, '')},{site}"


def keep_model(site: str) -> None:
    """Make `shares_model` false for `site` in this process and its children."""
    os.environ[KEEP_MODEL_VARIABLE] = f"{os.environ.get(KEEP_MODEL_VARIABLE, '')},{site}"


def tracking_uri() -> str | None:
    """Return the MLflow server for the metrics of a federation's jobs, from `PNEUMONIA_FL_TRACKING_URI`.

    Raises:
        ConfigError: it carries a login.
    """
    return _address(TRACKING_VARIABLE)


def _address(variable: str) -> str | None:
    try:
        return no_login(os.environ.get(variable) or None)
    except ValueError as error:
        raise ConfigError(f"{variable}: {error}") from None


def model_registry() -> str | None:
    """Return the MLflow server that saved models are fetched from; None when neither variable names one."""
    return tracking_uri() or os.environ.get(MLFLOW_VARIABLE) or None


def tracking_login() -> tuple[str, str] | None:
    """Return user and password for MLflow; None when one of them is not set."""
    user, password = (os.environ.get(name) for name in TRACKING_LOGIN)
    return (user, password) if user and password else None


@contextlib.contextmanager
def variables(values: Mapping[str, str]) -> Iterator[None]:
    """Set variables for a while, for what is started or loaded in it."""
    before = dict(os.environ)
    os.environ.update(values)
    try:
        yield
    finally:
        for name in values.keys() - before.keys():
            del os.environ[name]
        os.environ.update({name: before[name] for name in values.keys() & before.keys()})


def replace_variables(values: Mapping[str, str]) -> None:
    """Give this process these variables and no other."""
    os.environ.clear()
    os.environ.update(values)


def child_environment(**values: str) -> dict[str, str]:
    """Return this process's environment for a child process, with `values` on top."""
    return {**os.environ, **QUIET, **values}


def named_environment(names: tuple[str, ...]) -> dict[str, str]:
    """Return the environment variables in `names` (`*` matches any characters), and always those in `QUIET`."""
    found = {key: value for key, value in os.environ.items() if any(fnmatchcase(key, name) for name in names)}
    return found | QUIET


def cpu_count() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def set_site_defaults(
    site: str,
    data: Path | None,
    threads: int | None,
    state: Path,
    limits: Mapping[str, int],
    tracking: SiteTracking = SiteTracking(),
) -> None:
    """Set a site's own settings for the processes that this one starts; existing variables take precedence."""
    if limits:
        os.environ.setdefault(LIMITS_VARIABLE, ",".join(f"{key}={most}" for key, most in limits.items()))
    if data is not None:
        os.environ.setdefault(DATA_VARIABLE, str(data))
    if threads is not None:
        os.environ.setdefault(THREADS_VARIABLE, f"{site}={threads}")
    os.environ.setdefault(SITE_STATE_VARIABLE, str(state / "{job}"))
    own = {SITE_TRACKING_VARIABLE: tracking.where, SITE_TRACKING_URI_VARIABLE: tracking.uri}
    for name, value in own.items():
        if value not in (None, "server"):
            os.environ.setdefault(name, value)
    os.environ.setdefault("OMP_WAIT_POLICY", SHARED_CORES["OMP_WAIT_POLICY"])
