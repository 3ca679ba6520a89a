"""Define the sections of a job for data, model, training and tracking; each key with unit and default."""

from typing import TYPE_CHECKING, Literal, Self

from pydantic import Field, field_validator, model_validator

from pneumonia_fl.config.environment import no_login
from pneumonia_fl.config.networks import NETWORKS
from pneumonia_fl.config.strict import Strict
from pneumonia_fl.inputs.names import WEIGHTS_HASH
from pneumonia_fl.inputs.text import printable

MODEL_NAMES = tuple(NETWORKS)
if TYPE_CHECKING:
    ModelName = str
else:
    ModelName = Literal[MODEL_NAMES]


class Preprocess(Strict):
    """How an image becomes the model's input; the same in training, evaluation, prediction and the report."""

    size: int = Field(128, ge=16, le=1024, description="Side of the square input, pixels.")
    mode: Literal["gray"] = Field("gray", description="Colour mode: one gray channel.")
    interpolation: Literal["box", "bilinear", "bicubic"] = Field(
        "bilinear", description="Anti-aliased filter that resizes the decoded image to `size`."
    )
    normalisation: Literal["per_image", "fixed"] = Field(
        "per_image",
        description="per_image: subtract the image's mean, divide by its SD; fixed: use `mean` and `std`.",
    )
    mean: float = Field(0.4818, ge=0, le=1, description="Mean for `fixed`, on the 0–1 scale.")
    std: float = Field(0.2357, gt=0, le=1, description="Standard deviation for `fixed`, on the 0–1 scale.")


class ModelConfig(Strict):
    """The network."""

    name: ModelName = Field("small_resnet", description="Name in the model registry.")
    norm: Literal["batch", "group"] = Field(
        "batch",
        description="Normalisation layers. `group` computes statistics per image, so it keeps no running averages of "
        "the site's data.",
    )
    pretrained: Literal["none", "imagenet"] = Field(
        "none",
        description="imagenet: start from torchvision's weights, downloaded once where the job is submitted.",
    )

    @model_validator(mode="after")
    def _imagenet_weights_exist(self) -> Self:
        if self.pretrained == "imagenet" and (not NETWORKS[self.name].head or self.norm == "group"):
            raise ValueError("pretrained: imagenet is for torchvision's models with norm: batch")
        return self


class Origin(Strict):
    """The saved model that a job starts from, as a submitted job names it."""

    name: str = Field(
        max_length=200, description="Run and round, or registered name and version; never a path."
    )
    weights: str = Field(pattern=rf"^{WEIGHTS_HASH.pattern}$", description="SHA-256 of the weights.")

    @field_validator("name")
    @classmethod
    def _no_path(cls, name: str) -> str:
        if "/" in name or "\\" in name:
            raise ValueError("a path says where somebody keeps models")
        return printable(name)


class AugmentConfig(Strict):
    """Random augmentation of training images; each amount is drawn per image. 0 switches one off."""

    rotate: float = Field(10.0, ge=0, le=45, description="Rotation, ± degrees.")
    translate: float = Field(0.08, ge=0, le=0.5, description="Shift, ± fraction of the side.")
    scale: float = Field(
        0.18,
        ge=0,
        lt=0.9,
        description="Zoom factor between 1 / (1 + value) and 1 + value, drawn for each axis.",
    )
    contrast: float = Field(0.3, ge=0, lt=1, description="Contrast factor, 1 ± value.")
    brightness: float = Field(0.15, ge=0, lt=1, description="Brightness shift, ± fraction of the full range.")
    gamma: float = Field(0.4, ge=0, lt=1, description="Gamma exponent, exp(± value).")
    sharpness: float = Field(
        1.0, ge=0, le=1, description="Fraction of the fine detail removed (blur) or added, ± value."
    )
    noise: float = Field(
        0.03,
        ge=0,
        lt=1,
        description="Largest standard deviation of added Gaussian noise, as a fraction of the full range.",
    )
    flip: bool = Field(
        False,
        description="Mirror images left to right. Off by default: the heart lies on the left (docs/decisions.md).",
    )


class TrainConfig(Strict):
    """Local training at a site in one round."""

    local_epochs: int = Field(1, ge=1, le=100, description="Passes over the site's training split per round.")
    batch_size: int = Field(32, ge=2, le=4096, description="Images per optimizer step.")
    optimizer: Literal["adamw", "sgd"] = Field(
        "adamw",
        description="Optimizer. Its state stays at the site between rounds (fednova also sends AdamW's second "
        "moments).",
    )
    lr: float = Field(2e-3, gt=0, le=10, description="Peak learning rate.")
    momentum: float = Field(0.9, ge=0, lt=1, description="Momentum of SGD.")
    weight_decay: float = Field(0.02, ge=0, le=1, description="Weight decay (decoupled for AdamW).")
    schedule: Literal["cosine", "constant"] = Field(
        "cosine", description="Learning-rate schedule over all rounds together, not within one round."
    )
    warmup: float = Field(
        0.05, ge=0, lt=1, description="Fraction of all steps in which the learning rate rises from 0."
    )
    label_smoothing: float = Field(
        0.05, ge=0, lt=0.5, description="Fraction of each label's weight that is moved to the other class."
    )
    class_balance: bool = Field(
        True, description="Weight the loss so that both classes of the site count equally."
    )
    max_grad_norm: float = Field(
        5.0, ge=0, description="Gradient norm above which gradients are clipped; 0: no clipping."
    )
    amp: bool = Field(
        True,
        description="Mixed precision on a GPU, and on a CPU with bfloat16 arithmetic; false: float32 everywhere.",
    )
    seed: int = Field(7, ge=0, description="Seed of initial weights, order of images and augmentation.")


class SiteTrain(Strict):
    """The training settings that may differ at one site; default: the values of `train`."""

    local_epochs: int | None = Field(None, ge=1, le=100, description="Passes per round at this site.")
    batch_size: int | None = Field(None, ge=2, le=4096, description="Images per step at this site.")
    lr: float | None = Field(None, gt=0, le=10, description="Peak learning rate at this site.")


class SiteConfig(Strict):
    """Settings of one site."""

    weight: float = Field(
        1.0,
        ge=0.01,
        le=100,
        description="Factor by which the site's number of images is multiplied in the average.",
    )
    train: SiteTrain = Field(
        default_factory=SiteTrain, description="`local_epochs`, `batch_size` and `lr` at this site."
    )


class MLflowConfig(Strict):
    """Where metrics are logged in MLflow."""

    tracking_uri: str | None = Field(
        None, description="MLflow server, http(s)://…; not set: an SQLite file in the run folder."
    )
    experiment: str = Field(
        "pneumonia-fl",
        pattern=r"^[\w .:/-]{1,100}$",
        description="Name of the MLflow experiment: letters, digits and ` .:/-_`.",
    )

    @field_validator("tracking_uri")
    @classmethod
    def _no_secret(cls, uri: str | None) -> str | None:
        return no_login(uri)


class SyntheticData(Strict):
    """Synthetic X-rays that are generated when `run` is given no --data."""

    sites: int = Field(3, ge=1, le=100, description="Number of sites.")
    images: int = Field(360, ge=12, le=100_000, description="Number of images at all sites together.")
    size: int = Field(64, ge=16, le=512, description="Side of the square images, pixels.")
    seed: int = Field(7, ge=0, description="Seed of images and partition.")
