"""Settings of learning together: the algorithm, when to stop, how the model decides, what sites share and evaluate.

Sources: FedAvg McMahan et al. 2017; FedProx Li et al. 2020; FedAvgM Hsu et al. 2019; FedAdam and FedYogi Reddi et al.
2021; SCAFFOLD Karimireddy et al. 2020; FedNova Wang et al. 2020; FedBN Li et al. 2021; Ditto Li et al. 2021.
"""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from pneumonia_fl.config.base import Strict
from pneumonia_fl.inputs.names import SITE_NAME, WEIGHTS_HASH

AlgorithmName = Literal[
    "fedavg",
    "fedprox",
    "fedavgm",
    "fedadam",
    "fedyogi",
    "scaffold",
    "fednova",
    "fedbn",
    "ditto",
    "cyclic",
    "swarm",
]
KEYS: dict[str, set[str]] = {
    "fedprox": {"mu"},
    "ditto": {"mu"},
    "fedavgm": {"server_lr", "momentum"},
    "fedadam": {"server_lr", "beta1", "beta2", "tau"},
    "fedyogi": {"server_lr", "beta1", "beta2", "tau"},
}
"""Which keys belong to which algorithm, beside `name` and `average_last`."""


class Algorithm(Strict):
    """How the server and the sites learn together."""

    name: AlgorithmName = Field("fedavg", description="Federated algorithm.")
    mu: float = Field(
        0.0,
        ge=0,
        le=100,
        description="fedprox, ditto: weight of the proximal term mu/2 times the squared distance.",
    )
    server_lr: float = Field(
        1.0, gt=0, le=100, description="fedavgm, fedadam, fedyogi: the server's learning rate."
    )
    momentum: float = Field(0.9, ge=0, lt=1, description="fedavgm: momentum of the server's step.")
    beta1: float = Field(0.9, ge=0, lt=1, description="fedadam, fedyogi: decay of the first moment.")
    beta2: float = Field(0.99, ge=0, lt=1, description="fedadam, fedyogi: decay of the second moment.")
    tau: float = Field(1e-3, gt=0, le=1, description="fedadam, fedyogi: how adaptive; larger is less.")
    average_last: int = Field(
        0,
        ge=0,
        le=100,
        description="The mean of the last so many global models is one more candidate for the best model; 0: none.",
    )

    @model_validator(mode="after")
    def _keys_belong_to_the_algorithm(self) -> Self:
        own = KEYS.get(self.name, set())
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
    """When to end before the last round; the best round's model is kept in any case."""

    patience: int = Field(
        0, ge=0, description="Rounds without a better pooled validation AUROC after which to stop; 0: never."
    )
    min_delta: float = Field(0.0, ge=0, lt=1, description="What counts as better, AUROC.")


class OperatingPoint(Strict):
    """How the threshold is chosen, on pooled validation data."""

    rule: Literal["sensitivity", "specificity", "youden"] = Field(
        "sensitivity",
        description="sensitivity: the highest threshold that reaches `target`; specificity: the lowest; "
        "youden: the largest sum of both.",
    )
    target: float = Field(
        0.95, gt=0, lt=1, description="Sensitivity or specificity to reach on validation data."
    )


class CrossSite(Strict):
    """Which models are evaluated at every site after the last round."""

    local_models: bool = Field(
        False,
        description="Also the sites' own best models. They pass through the server to all sites and say more about "
        "a site's patients than an average does; a site can refuse.",
    )


ModelName = Annotated[str, Field(pattern=f"^{SITE_NAME.pattern}$")]
"""Of a saved model in a job: like a site's, whose own model it may be."""
Hash = Annotated[str, Field(pattern=f"^{WEIGHTS_HASH.pattern}$")]
Split = Literal["val", "test"]


class SavedModel(Strict):
    """A saved model, by its weights, and how it decides."""

    sha256: Hash = Field(description="Hash of its weights as they travel.")
    threshold: float = Field(0.5, gt=0, lt=1, description="P(pneumonia) from which the answer is pneumonia.")
    temperature: float = Field(1.0, gt=0, allow_inf_nan=False, description="Of its probabilities.")
    offset: float = Field(0.0, allow_inf_nan=False, description="Of its probabilities.")


class SiteEvaluation(Strict):
    """What sites need to know of an `evaluation`."""

    split: Split
    intervals: bool
    models: dict[ModelName, Hash]


class Evaluating(Strict):
    """Saved models that every site evaluates; nothing is trained. `evaluate` and `cross-site` write this section."""

    split: Split = Field("val", description="The split of each site that is read.")
    intervals: bool = Field(False, description="Have sites sample their patients, for pooled intervals.")
    models: dict[ModelName, SavedModel] = Field(min_length=1, max_length=10, description="Models by name.")

    def for_sites(self) -> SiteEvaluation:
        """The same without how the models decide."""
        hashes = {name: model.sha256 for name, model in self.models.items()}
        return SiteEvaluation(split=self.split, intervals=self.intervals, models=hashes)
