"""The typed job configuration: what a file in `jobs/` may say, with its unit and its default.

Unknown keys, wrong types and contradictions are errors. Paths, credentials and anything else that belongs to
one site never stand in a job; where a site's data lies is the site's own setting (`PNEUMONIA_FL_DATA`).
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

from pydantic import Field, ValidationError, field_validator, model_validator

from pneumonia_fl.errors import ConfigError
from pneumonia_fl.learning import Algorithm, CrossSite, EarlyStopping, OperatingPoint
from pneumonia_fl.overrides import with_overrides
from pneumonia_fl.strict import Strict
from pneumonia_fl.yaml_files import read_yaml

MODEL_NAMES = (
    "small_resnet",
    "resnet18",
    "densenet121",
    "efficientnet_b0",
    "mobilenet_v3_small",
    "pneumonia_network",
)
ModelName = Literal[
    "small_resnet", "resnet18", "densenet121", "efficientnet_b0", "mobilenet_v3_small", "pneumonia_network"
]
Settings = TypeVar("Settings", bound="Strict")


def no_login(uri: str | None) -> str | None:
    """Return an MLflow server's address; `ValueError` when it carries a login, which would be written down."""
    if uri and "@" in uri:
        raise ValueError(
            "tracking_uri must not carry credentials; set MLFLOW_TRACKING_USERNAME and "
            "MLFLOW_TRACKING_PASSWORD in the server's environment"
        )
    return uri


class Preprocess(Strict):
    """How an image becomes the model's input; the same value in training, evaluation, prediction and page."""

    size: int = Field(128, ge=16, le=1024, description="Side of the square input, pixels.")
    mode: Literal["gray"] = Field("gray", description="Colour mode: one gray channel.")
    interpolation: Literal["box", "bilinear", "bicubic"] = Field(
        "bilinear", description="Anti-aliased filter that scales the decoded image to `size`."
    )
    normalisation: Literal["per_image", "fixed"] = Field(
        "per_image",
        description="per_image: subtract the image's mean, divide by its SD; fixed: use `mean` and `std`.",
    )
    mean: float = Field(0.4818, ge=0, le=1, description="Mean for `fixed`, on the 0–1 scale.")
    std: float = Field(0.2357, gt=0, le=1, description="Standard deviation for `fixed`, on the 0–1 scale.")


class ModelConfig(Strict):
    """Which network, by its registry name."""

    name: ModelName = Field("small_resnet", description="Name in the model registry.")
    norm: Literal["batch", "group"] = Field(
        "batch", description="Normalisation layers; group statistics never leave a batch element."
    )
    pretrained: Literal["none", "imagenet"] = Field(
        "none",
        description="imagenet: torchvision's weights, downloaded once where the job is submitted.",
    )

    @model_validator(mode="after")
    def _imagenet_weights_exist(self) -> Self:
        own = self.name in ("small_resnet", "pneumonia_network")
        if self.pretrained == "imagenet" and (own or self.norm == "group"):
            raise ValueError("pretrained: imagenet is for torchvision's models with norm: batch")
        return self


class AugmentConfig(Strict):
    """Random changes of a training batch; each range is drawn per image. 0 switches a change off."""

    rotate: float = Field(10.0, ge=0, le=45, description="Rotation, ± degrees.")
    translate: float = Field(0.08, ge=0, le=0.5, description="Shift, ± fraction of the side.")
    scale: float = Field(
        0.18, ge=0, lt=0.9, description="Zoom, up to 1 + this or 1 / (1 + this), drawn for each axis."
    )
    contrast: float = Field(0.3, ge=0, lt=1, description="Contrast factor, 1 ± this.")
    brightness: float = Field(0.15, ge=0, lt=1, description="Brightness shift, ± fraction of the full range.")
    gamma: float = Field(0.4, ge=0, lt=1, description="Gamma exponent, exp(± this).")
    sharpness: float = Field(
        1.0, ge=0, le=1, description="Share of the fine detail taken away (blur) or added, ± this."
    )
    noise: float = Field(
        0.03, ge=0, lt=1, description="Largest SD of added Gaussian noise, fraction of the full range."
    )
    flip: bool = Field(
        False, description="Mirror left and right. Off: the heart lies on one side (docs/decisions.md)."
    )


class TrainConfig(Strict):
    """Local training at a site, between receiving and sending a model."""

    local_epochs: int = Field(1, ge=1, le=100, description="Passes over the site's training split per round.")
    batch_size: int = Field(32, ge=2, le=4096, description="Images per optimiser step.")
    optimizer: Literal["adamw", "sgd"] = Field("adamw", description="Moments stay here, but with fednova.")
    lr: float = Field(2e-3, gt=0, le=10, description="Peak learning rate.")
    momentum: float = Field(0.9, ge=0, lt=1, description="Momentum of SGD.")
    weight_decay: float = Field(0.02, ge=0, le=1, description="Weight decay (decoupled for AdamW).")
    schedule: Literal["cosine", "constant"] = Field(
        "cosine", description="Learning rate over all rounds together, not within one."
    )
    warmup: float = Field(
        0.05, ge=0, lt=1, description="Fraction of all steps in which the rate rises from 0."
    )
    label_smoothing: float = Field(
        0.05, ge=0, lt=0.5, description="Share of each label given to the other class."
    )
    class_balance: bool = Field(
        True, description="Weight the loss so that both classes of the site count alike."
    )
    max_grad_norm: float = Field(5.0, ge=0, description="Clip the gradient's norm; 0 switches it off.")
    amp: bool = Field(
        True,
        description="Mixed precision on a GPU, and on a CPU that multiplies in bfloat16; false: float32.",
    )
    seed: int = Field(7, ge=0, description="Seed of initial weights, order and augmentation.")


class MLflowConfig(Strict):
    """Where MLflow runs go."""

    tracking_uri: str | None = Field(
        None, description="MLflow server, http(s)://…; empty: an SQLite file in the run folder."
    )
    experiment: str = Field(
        "pneumonia-fl",
        pattern=r"^[\w .:/-]{1,100}$",
        description="MLflow experiment: letters, digits and ` .:/-_`.",
    )

    @field_validator("tracking_uri")
    @classmethod
    def _no_secret(cls, uri: str | None) -> str | None:
        return no_login(uri)


class SyntheticData(Strict):
    """Synthetic X-rays made on the spot when `run` is given no --data."""

    sites: int = Field(3, ge=1, le=100, description="Number of sites.")
    images: int = Field(360, ge=12, le=100_000, description="Images over all sites.")
    size: int = Field(64, ge=16, le=512, description="Side in pixels.")
    seed: int = Field(7, ge=0, description="Seed of images and partition.")


class SiteSettings(Strict):
    """The part of a job that a site's training script needs; travels as the script's arguments."""

    name: str
    rounds: int = Field(ge=1)
    algorithm: Algorithm
    operating_point: OperatingPoint
    cross_site: CrossSite = CrossSite()
    model: ModelConfig
    preprocess: Preprocess
    train: TrainConfig
    augment: AugmentConfig


class JobConfig(Strict):
    """One federated job: everything that a file in `jobs/` may say."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_]{0,40}$", description="Name of the job; also its run's name.")
    description: str = Field("", description="One sentence for people.")
    rounds: int = Field(10, ge=1, le=1000, description="Federated rounds.")
    min_sites: int = Field(
        0, ge=0, le=100, description="Sites that a job needs to start and a round to count; 0: all of them."
    )
    round_timeout: int = Field(
        3600, ge=1, description="Seconds after which a round closes with the sites that have answered."
    )
    grace: int = Field(
        60,
        ge=0,
        description="Seconds that a round still waits for the others once `min_sites` have answered.",
    )
    stall_timeout: int = Field(
        1800,
        ge=1,
        description="Seconds without a sign from any site after which the job ends; each reports its loss ten "
        "times a round.",
    )
    algorithm: Algorithm = Field(default_factory=Algorithm)
    early_stopping: EarlyStopping = Field(default_factory=EarlyStopping)
    operating_point: OperatingPoint = Field(default_factory=OperatingPoint)
    cross_site: CrossSite = Field(default_factory=CrossSite)
    model: ModelConfig = Field(default_factory=ModelConfig)
    preprocess: Preprocess | None = Field(
        None, description="Model input; `size` and decoding default to what the data was prepared with."
    )
    train: TrainConfig = Field(default_factory=TrainConfig)
    augment: AugmentConfig = Field(default_factory=AugmentConfig)
    tracking: tuple[Literal["tensorboard", "mlflow"], ...] = Field(
        ("tensorboard", "mlflow"), description="Receivers on the server."
    )
    mlflow: MLflowConfig = Field(default_factory=MLflowConfig)
    synthetic: SyntheticData | None = Field(None, description="Data to make up when --data is not given.")

    @model_validator(mode="after")
    def _algorithm_fits(self) -> Self:
        name, model, train = self.algorithm.name, self.model, self.train
        if name == "scaffold" and (train.optimizer != "sgd" or train.momentum):
            raise ValueError(
                "scaffold needs train.optimizer sgd with train.momentum 0; "
                "its control variates are means of plain gradients"
            )
        if name in ("fedbn", "ditto") and self.cross_site.local_models:
            raise ValueError(f"{name} leaves a site's own model at the site: no cross_site.local_models")
        if name == "fedbn" and model.name == "pneumonia_network":
            raise ValueError("fedbn needs a model with normalisation layers; pneumonia_network has none")
        if name == "fedbn" and model.pretrained != "none":
            raise ValueError(
                "fedbn needs model.pretrained none; it sends no normalisation, not even ImageNet's"
            )
        return self

    @model_validator(mode="after")
    def _a_swarm_has_no_judge(self) -> Self:
        if self.algorithm.name != "swarm":
            return self
        if self.early_stopping.patience:
            raise ValueError(
                "early_stopping is not for swarm: its server judges no model before the last round"
            )
        if self.cross_site.local_models:
            raise ValueError("cross_site.local_models is not for swarm: its server asks no site for a model")
        return self

    def site_settings(self) -> SiteSettings:
        """The settings that travel to the sites; `preprocess` must be known by now."""
        if self.preprocess is None:
            raise ConfigError("preprocess is not set; pass --data DIR, or set preprocess.size")
        return SiteSettings(
            name=self.name,
            rounds=self.rounds,
            algorithm=self.algorithm,
            operating_point=self.operating_point,
            cross_site=self.cross_site,
            model=self.model,
            preprocess=self.preprocess,
            train=self.train,
            augment=self.augment,
        )


def parse(kind: type[Settings], values: Mapping[str, Any], source: str) -> Settings:
    """Validate `values` as `kind`; every problem is named with its key and `source`.

    Raises:
        ConfigError: an unknown key, a wrong type, a value out of range or a contradiction.
    """
    try:
        return kind.model_validate(dict(values))
    except ValidationError as error:
        problems = "; ".join(_problem(item) for item in error.errors(include_url=False))
        raise ConfigError(f"{source}: {problems}") from None


def load_job(path: Path, overrides: Iterable[str] = ()) -> JobConfig:
    """Read a job YAML and apply `key.path=value` overrides.

    Raises:
        ConfigError: the file is missing, is not YAML, or does not describe a job.
    """
    return parse(JobConfig, with_overrides(read_yaml(path), overrides), path.name)


def parse_words(kind: type[Settings], words: Iterable[str], source: str) -> Settings:
    """The inverse of `flatten`."""
    return parse(kind, with_overrides({}, words), source)


def _problem(item: Mapping[str, Any]) -> str:
    where = ".".join(str(part) for part in item["loc"]) or "job"
    if item["type"] == "extra_forbidden":
        return f"unknown key {where!r}"
    if item["type"] == "value_error":
        # Of a whole section; showing it would show a secret that must not stand there.
        return f"{where}: {item['msg'].removeprefix('Value error, ')}"
    return f"{where}: {item['msg']} (got {item['input']!r})"
