"""Define the sections of a job for the algorithm, early stopping, the operating point and evaluation at sites.

Sources: FedAvg McMahan et al. 2017; FedProx Li et al. 2020; FedAvgM Hsu et al. 2019; FedAdam and FedYogi Reddi et al.
2021; SCAFFOLD Karimireddy et al. 2020; FedNova Wang et al. 2020; FedBN Li et al. 2021; Ditto Li et al. 2021.
"""

from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import Field, model_validator

from pneumonia_fl.config.strict import Strict
from pneumonia_fl.inputs.names import SITE_NAME, WEIGHTS_HASH

KEYS: dict[str, set[str]] = {
    "fedavg": set(),
    "fedprox": {"mu"},
    "fedavgm": {"server_lr", "momentum"},
    "fedadam": {"server_lr", "beta1", "beta2", "tau"},
    "fedyogi": {"server_lr", "beta1", "beta2", "tau"},
    "scaffold": set(),
    "fednova": set(),
    "fedbn": set(),
    "ditto": {"mu"},
    "cyclic": set(),
    "swarm": set(),
}
"""The algorithms, and the keys of each beside `name` and `average_last`. How to add one: docs/extending.md."""
if TYPE_CHECKING:
    AlgorithmName = str
else:
    AlgorithmName = Literal[tuple(KEYS)]


Exchange = Literal["float32", "float16", "int8"]
"""How many bits a trained parameter has on its way between server and sites."""
PACKED_NEVER = {
    "cyclic": "the model goes from site to site, so that no two hold the one to which a difference would refer",
    "swarm": "the sites average among themselves",
    "scaffold": "control variates travel beside the model",
    "fednova": "AdamW's second moments travel beside the model",
}
"""Algorithms whose models travel in float32 only, and why."""


class Algorithm(Strict):
    """The federated algorithm and its parameters."""

    name: AlgorithmName = Field("fedavg", description="Federated algorithm.")
    mu: float = Field(
        0.0,
        ge=0,
        le=100,
        description="fedprox, ditto: weight of the proximal term, mu/2 times the squared distance.",
    )
    server_lr: float = Field(
        1.0, gt=0, le=100, description="fedavgm, fedadam, fedyogi: the server's learning rate."
    )
    momentum: float = Field(0.9, ge=0, lt=1, description="fedavgm: momentum of the server's step.")
    beta1: float = Field(0.9, ge=0, lt=1, description="fedadam, fedyogi: decay of the first moment.")
    beta2: float = Field(0.99, ge=0, lt=1, description="fedadam, fedyogi: decay of the second moment.")
    tau: float = Field(
        1e-3,
        gt=0,
        le=1,
        description="fedadam, fedyogi: epsilon of the adaptive step; larger values make it less adaptive.",
    )
    average_last: int = Field(
        0,
        ge=0,
        le=100,
        description="Also evaluate the average of the last N global models as a candidate for the best model; 0: off.",
    )

    @model_validator(mode="after")
    def _keys_belong_to_the_algorithm(self) -> Self:
        own = KEYS[self.name]
        foreign = sorted(self.model_fields_set - own - {"name", "average_last"})
        foreign = [key for key in foreign if getattr(self, key) != type(self).model_fields[key].default]
        if foreign:
            raise ValueError(f"{self.name} has no {', '.join(foreign)}")
        if self.name == "swarm" and self.average_last:
            raise ValueError("swarm has no average_last: its server has no models to average")
        if "mu" in own and not self.mu:
            raise ValueError(f"{self.name} needs mu > 0")
        return self


class EarlyStopping(Strict):
    """When to stop before the last round; the model of the best round is kept in any case."""

    patience: int = Field(
        0,
        ge=0,
        description="Number of rounds without a better pooled validation AUROC after which to stop; 0: never.",
    )
    min_delta: float = Field(
        0.0, ge=0, lt=1, description="Smallest AUROC gain that counts as an improvement."
    )


class OperatingPoint(Strict):
    """How the decision threshold is chosen on pooled validation data."""

    rule: Literal["sensitivity", "specificity", "youden"] = Field(
        "sensitivity",
        description="sensitivity: the highest threshold whose sensitivity reaches `target`; specificity: the lowest "
        "threshold whose specificity does; youden: the largest sum of both.",
    )
    target: float = Field(
        0.95, gt=0, lt=1, description="Sensitivity or specificity to reach on validation data."
    )


class CrossSite(Strict):
    """Which models are evaluated at every site after the last round."""

    local_models: bool = Field(
        False,
        description="Also evaluate each site's own best model at every site. Such a model passes through the server to "
        "all sites and reveals more about a site's patients than an average does; a site can refuse.",
    )


ModelName = Annotated[str, Field(pattern=f"^{SITE_NAME.pattern}$")]
"""Name of a saved model in a job; a site's name for that site's own model."""
Hash = Annotated[str, Field(pattern=f"^{WEIGHTS_HASH.pattern}$")]
Split = Literal["val", "test"]


class SavedModel(Strict):
    """A saved model: the hash of its weights, its threshold and its calibration."""

    sha256: Hash = Field(description="SHA-256 of the weights as they are sent.")
    threshold: float = Field(
        0.5, gt=0, lt=1, description="Lowest calibrated probability that is answered with pneumonia."
    )
    temperature: float = Field(1.0, gt=0, allow_inf_nan=False, description="Temperature of the calibration.")
    offset: float = Field(0.0, allow_inf_nan=False, description="Offset of the calibration.")


class SiteEvaluation(Strict):
    """The part of `evaluation` that sites receive."""

    split: Split
    intervals: bool
    models: dict[ModelName, Hash]


class Evaluating(Strict):
    """Saved models that every site evaluates without training; written by `evaluate` and `cross-site`."""

    split: Split = Field("val", description="Split that each site reads.")
    intervals: bool = Field(
        False, description="Have sites resample their patients, for pooled confidence intervals."
    )
    models: dict[ModelName, SavedModel] = Field(min_length=1, max_length=10, description="Models by name.")

    def for_sites(self) -> SiteEvaluation:
        """Return the part that sites receive, without thresholds and calibration."""
        hashes = {name: model.sha256 for name, model in self.models.items()}
        return SiteEvaluation(split=self.split, intervals=self.intervals, models=hashes)
