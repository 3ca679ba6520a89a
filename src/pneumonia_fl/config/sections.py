"""The sections of a job that say what is trained, on what, and where its curves go; each with unit and default."""

from typing import TYPE_CHECKING, Literal, Self

from pydantic import Field, field_validator, model_validator

from pneumonia_fl.config.base import Strict
from pneumonia_fl.config.networks import NETWORKS
from pneumonia_fl.inputs.names import WEIGHTS_HASH
from pneumonia_fl.inputs.text import printable

MODEL_NAMES = tuple(NETWORKS)
if TYPE_CHECKING:
    ModelName = str
else:
    ModelName = Literal[MODEL_NAMES]


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
        if self.pretrained == "imagenet" and (not NETWORKS[self.name].head or self.norm == "group"):
            raise ValueError("pretrained: imagenet is for torchvision's models with norm: batch")
        return self


class Origin(Strict):
    """The saved model from which a job has gone on: all that a job says of it where it runs."""

    name: str = Field(max_length=200, description="Run and round, or name and version; never a path.")
    weights: str = Field(pattern=rf"^{WEIGHTS_HASH.pattern}$", description="SHA-256 of the weights.")

    @field_validator("name")
    @classmethod
    def _no_path(cls, name: str) -> str:
        if "/" in name or "\\" in name:
            raise ValueError("a path says where somebody keeps models")
        return printable(name)


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


class SiteTrain(Strict):
    """Of `train`, what may differ at one site; what is not set is as everywhere."""

    local_epochs: int | None = Field(None, ge=1, le=100, description="Passes per round at this site.")
    batch_size: int | None = Field(None, ge=2, le=4096, description="Images per step at this site.")
    lr: float | None = Field(None, gt=0, le=10, description="Peak learning rate at this site.")


class SiteConfig(Strict):
    """What is different for one site of a job, under its name."""

    weight: float = Field(
        1.0, ge=0.01, le=100, description="Factor of the site's images in the average; 1: what they are."
    )
    train: SiteTrain = Field(
        default_factory=SiteTrain, description="`local_epochs`, `batch_size` and `lr` at this site."
    )


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
