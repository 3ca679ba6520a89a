"""The typed job configuration: what a file in `jobs/` may say, with its unit and its default.

Unknown keys, wrong types and contradictions are errors. Paths, credentials and anything else that belongs to one site
never travel with a job: the path in `init_from` becomes a name and a hash, and where a site's data lies is the site's
own setting (`PNEUMONIA_FL_DATA`).
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from pneumonia_fl.config.algorithm import (
    PACKED_NEVER,
    Algorithm,
    CrossSite,
    EarlyStopping,
    Evaluating,
    Exchange,
    OperatingPoint,
    SiteEvaluation,
)
from pneumonia_fl.config.overrides import with_overrides
from pneumonia_fl.config.sections import (
    AugmentConfig,
    MLflowConfig,
    ModelConfig,
    Origin,
    Preprocess,
    SiteConfig,
    SyntheticData,
    TrainConfig,
)
from pneumonia_fl.config.strict import Strict, parse
from pneumonia_fl.errors import ConfigError
from pneumonia_fl.inputs.names import site_problem
from pneumonia_fl.inputs.yaml_files import read_yaml

NO_WEIGHT = {
    "cyclic": "nothing is averaged there",
    "swarm": "the sites average among themselves",
}
"""Algorithms in which a site cannot have a weight, and why."""
JOB_NAME: str = Field(pattern=r"^[a-z][a-z0-9_]{0,40}$", description="Name of the job, and of its run.")


def _site_name(name: str) -> str:
    if problem := site_problem(name):
        raise ValueError(problem)
    return name


Sites = Annotated[dict[Annotated[str, AfterValidator(_site_name)], SiteConfig], Field(max_length=100)]


class SiteSettings(Strict):
    """The part of a job that a site's training script needs; travels as one JSON value."""

    name: str = JOB_NAME
    rounds: int = Field(ge=1)
    algorithm: Algorithm
    operating_point: OperatingPoint
    cross_site: CrossSite = CrossSite()
    evaluation: SiteEvaluation | None = None
    model: ModelConfig
    preprocess: Preprocess
    train: TrainConfig
    augment: AugmentConfig
    sites: Sites = Field(default_factory=dict)
    exchange: Exchange = "float32"

    @model_serializer(mode="wrap")
    def _without_the_usual_exchange(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave the setting out where it says nothing: sites with an earlier version do not know it."""
        values: dict[str, Any] = write(self)
        if values.get("exchange") == "float32":
            del values["exchange"]
        return values

    def at(self, site: str, limits: Mapping[str, int]) -> "SiteSettings":
        """Return the settings as `site` trains with them: with what the job sets for it, within its own limits."""
        own = self.sites.get(site, SiteConfig()).train.model_dump(exclude_none=True)
        train = self.train.model_copy(update=own)
        capped = {key: most for key, most in limits.items() if getattr(train, key) > most}
        return self.model_copy(update={"train": train.model_copy(update=capped)})


class JobConfig(Strict):
    """One federated job: everything that a file in `jobs/` may say."""

    name: str = JOB_NAME
    description: str = Field("", description="One sentence that says what the job is for.")
    rounds: int = Field(10, ge=1, le=1000, description="Number of federated rounds.")
    min_sites: int = Field(
        0,
        ge=0,
        le=100,
        description="Number of sites that a job needs to start and a round needs to count; 0: all sites.",
    )
    round_timeout: int = Field(
        3600, ge=1, description="Seconds after which a round closes with the results received by then."
    )
    grace: int = Field(
        60,
        ge=0,
        description="Seconds that a round waits for further results once `min_sites` sites have answered.",
    )
    stall_timeout: int = Field(
        1800,
        ge=1,
        description="Seconds without a message from any site after which the job ends; a training site reports its "
        "loss ten times per round.",
    )
    algorithm: Algorithm = Field(default_factory=Algorithm)
    early_stopping: EarlyStopping = Field(default_factory=EarlyStopping)
    operating_point: OperatingPoint = Field(default_factory=OperatingPoint)
    cross_site: CrossSite = Field(default_factory=CrossSite)
    evaluation: Evaluating | None = Field(None, description="Evaluate saved models and train nothing.")
    model: ModelConfig = Field(default_factory=ModelConfig)
    init_from: str | Origin | None = Field(
        None,
        description="Saved model whose weights the training starts from: a run folder, a model folder or file, or "
        "`mlflow:models:/NAME/VERSION`. A submitted job contains the model's name and hash here.",
    )
    preprocess: Preprocess | None = Field(None, description="Model input; default: as the data was prepared.")
    train: TrainConfig = Field(default_factory=TrainConfig)
    augment: AugmentConfig = Field(default_factory=AugmentConfig)
    sites: Sites = Field(
        default_factory=dict,
        description="Settings of single sites by site name: weight and training.",
    )
    tracking: tuple[Literal["tensorboard", "mlflow"], ...] = Field(
        ("tensorboard", "mlflow"), description="Receivers of metrics on the server."
    )
    tracking_aliases: bool = Field(
        False,
        description="Also write each series under its earlier names, such as `val_acc`, for existing dashboards.",
    )
    exchange: Exchange = Field(
        "float32",
        description="Numbers in which models travel between server and sites. float16 takes half the bytes, int8 a "
        "quarter; both send differences, and carry over what rounding has lost.",
    )
    mlflow: MLflowConfig = Field(default_factory=MLflowConfig)
    synthetic: SyntheticData | None = Field(
        None, description="X-rays to generate when `run` is given no --data."
    )

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
    def _begins_once(self) -> Self:
        if self.init_from is not None and self.model.pretrained != "none":
            raise ValueError("init_from needs model.pretrained none; both say with which weights to begin")
        if self.init_from is not None and self.algorithm.name == "fedbn":
            raise ValueError(
                "fedbn cannot start from a saved model: it sends no normalisation, not even a saved one"
            )
        return self

    @model_validator(mode="after")
    def _sites_fit_the_algorithm(self) -> Self:
        name = self.algorithm.name
        if name in NO_WEIGHT and any(site.weight != 1 for site in self.sites.values()):
            raise ValueError(f"{name} has no sites.NAME.weight; {NO_WEIGHT[name]}")
        if name == "swarm" and any(site.train.local_epochs for site in self.sites.values()):
            raise ValueError(
                "swarm has no sites.NAME.train.local_epochs; its sites count by the images they pass"
            )
        if name == "fednova" and any(site.train.lr for site in self.sites.values()):
            raise ValueError(
                "fednova has no sites.NAME.train.lr; it divides by the number of steps, which must be of one length"
            )
        return self

    @model_validator(mode="after")
    def _exchange_fits_the_algorithm(self) -> Self:
        name = self.algorithm.name
        if self.exchange != "float32" and name in PACKED_NEVER:
            raise ValueError(f"{name} needs exchange float32; {PACKED_NEVER[name]}")
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
        """Return the settings that travel to the sites; `preprocess` must be known by now."""
        if self.preprocess is None:
            raise ConfigError("preprocess is not set; pass --data DIR, or set preprocess.size")
        return SiteSettings(
            name=self.name,
            rounds=self.rounds,
            algorithm=self.algorithm,
            operating_point=self.operating_point,
            cross_site=self.cross_site,
            evaluation=self.evaluation and self.evaluation.for_sites(),
            model=self.model,
            preprocess=self.preprocess,
            train=self.train,
            augment=self.augment,
            sites=self.sites,
            exchange=self.exchange,
        )

    def check_sites(self, there: Iterable[str]) -> None:
        """Raise `ConfigError` when `sites` names one that is not `there`."""
        names = sorted(there)
        if unknown := sorted(self.sites.keys() - set(names)):
            raise ConfigError(f"sites.{unknown[0]}: no such site takes part; there are {', '.join(names)}")


def load_job(path: Path, overrides: Iterable[str] = ()) -> JobConfig:
    """Read a job YAML and apply `key.path=value` overrides.

    Raises:
        ConfigError: the file is missing, is not YAML, or does not describe a job.
    """
    return parse(JobConfig, with_overrides(read_yaml(path), overrides, JobConfig), path.name)
