"""What every engine has its sites do: the same training functions, settings, seeds and one thread."""

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch._dynamo  # the first optimizer step would import it, and be counted as training
from torch import Tensor

from pneumonia_fl.config.job import load_job
from pneumonia_fl.config.job_files import find_job
from pneumonia_fl.data.store import open_site
from pneumonia_fl.evaluation.scoring import evaluate
from pneumonia_fl.metrics.binary import ScoreHistogram
from pneumonia_fl.models.architectures import build_model
from pneumonia_fl.training.batch_norm import settled
from pneumonia_fl.training.local import OptimizerState, RoundContext, TrainResult, train_epochs

JOB = "fedavg"


def changes(epochs: int) -> list[str]:
    """Return the words after `--set` that make the job's work the benchmark's."""
    return [f"train.local_epochs={epochs}"]


@dataclass
class Spent:
    """Seconds of one site: training by round, on the clock; CPU in training; evaluation in all rounds."""

    training: list[float] = field(default_factory=list)
    training_cpu: float = 0.0
    evaluation: float = 0.0


class Site:
    """A site's data and model, without any federation.

    Args:
        data: a prepared data set.
        name: the site.
        rounds: of the whole job; the learning rate's schedule needs it.
        epochs: passes over the images in a round.
    """

    def __init__(self, data: Path, name: str, rounds: int, epochs: int) -> None:
        torch.set_num_threads(1)
        job, store = load_job(find_job(JOB), [*changes(epochs), f"rounds={rounds}"]), open_site(data, name)
        self.spec = store.info.preprocess
        self.settings = job.model_copy(update={"preprocess": self.spec}).site_settings()
        self.train_data, self.validation_data = store.split("train"), store.split("val")
        self.model = build_model(job.model.name, job.model.norm, self.spec.size, seed=job.train.seed)
        self.name, self.rounds = name, rounds
        self.spent = Spent()
        self._optimizer_state: OptimizerState = {}

    def load(self, state: dict[str, Any]) -> None:
        """Take over received weights, NumPy or PyTorch."""
        target = self.model.state_dict()
        self.model.load_state_dict(
            {key: torch.as_tensor(value).to(target[key].dtype) for key, value in state.items()}
        )

    def evaluate(self) -> ScoreHistogram:
        """Score the model on the site's validation images."""
        start = time.perf_counter()
        histogram = evaluate(self.model, self.validation_data, self.spec)
        self.spent.evaluation += time.perf_counter() - start
        return histogram

    def train(self, number: int, **hooks: Any) -> TrainResult:
        """Train the model for the job's epochs of round `number`."""
        start, cpu = time.perf_counter(), time.thread_time()
        context = RoundContext(self.name, number, self.rounds)
        state = self._optimizer_state
        result = train_epochs(
            self.model, self.train_data, self.settings, context=context, optimizer_state=state, **hooks
        )
        self.spent.training.append(time.perf_counter() - start)
        self.spent.training_cpu += time.thread_time() - cpu
        return result

    def settle(self) -> dict[str, Tensor]:
        """Measure batch norm's statistics of the model on the site's training images."""
        return settled(self.model, self.train_data.images, self.spec)
