"""A job that evaluates untrained models, for tests of its way to the sites."""

from xrays import SITES, SPEC

from pneumonia_fl.config.job import JobConfig
from pneumonia_fl.config.sections import ModelConfig
from pneumonia_fl.fl.protocol.carried_models import pack
from pneumonia_fl.fl.simulator.evaluation_job import Subject, evaluation_job
from pneumonia_fl.models.architectures import build_model
from pneumonia_fl.models.checkpoint import ModelCard

CARD = ModelCard(
    job="smoke", round=3, seed=7, model=ModelConfig(), preprocess=SPEC, threshold=0.45, temperature=0.2, offset=0.3
)  # fmt: skip


def subject(name: str = "best", seed: int = 5) -> Subject:
    return Subject(name, CARD, pack(build_model(size=SPEC.size, seed=seed).state_dict()))


def evaluation(
    *subjects: Subject, split: str = "test", intervals: bool = True
) -> tuple[JobConfig, tuple[str, ...]]:
    """The job and its sites."""
    return evaluation_job("evaluate", subjects or [subject()], split, intervals), SITES
