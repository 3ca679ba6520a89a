"""An algorithm's hooks used directly: a round of a tiny federation without NVFlare's processes."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nvflare.app_common.abstract.fl_model import FLModel
from torch import Tensor, nn

from pneumonia_fl.config.algorithm import Algorithm
from pneumonia_fl.config.job import JobConfig
from pneumonia_fl.config.sections import Preprocess, TrainConfig
from pneumonia_fl.data.store import ImageSet
from pneumonia_fl.fl.algorithms.registry import site_algorithm
from pneumonia_fl.fl.algorithms.site_base import SiteAlgorithm
from pneumonia_fl.fl.state.site_state import SiteState
from pneumonia_fl.training.local import OptimizerState, RoundContext, TrainResult, train_epochs

SIZE = 16
ROUNDS = 6
TRAIN = TrainConfig(optimizer="sgd", momentum=0, lr=0.05, weight_decay=0.01, batch_size=8, local_epochs=2)


def network() -> nn.Module:
    """A small network with batch norm and dropout, the same at every call."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return nn.Sequential(
            nn.Conv2d(1, 4, 3, 2, 1, bias=False),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.AdaptiveMaxPool2d(2),
            nn.Flatten(),
            nn.Dropout(0.1),
            nn.Linear(16, 2),
        )


def noise(n: int, seed: int) -> ImageSet:
    """Two sites' images differ in brightness and share of pneumonia."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(20 * seed, 100 + 20 * seed, (n, SIZE, SIZE))
    labels = (np.arange(n) < n * (1 + seed) // 6).astype(np.int64)
    pixels[labels == 1, 4:9, 4:9] += 60
    return ImageSet(pixels.astype(np.uint8), labels, [str(i) for i in range(n)], ["unknown"] * n)


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in model.state_dict().items()}


def arrays(values: Mapping[str, Tensor]) -> dict[str, Any]:
    return {key: value.detach().numpy().copy() for key, value in values.items()}


def message(parameters: Mapping[str, Any], number: int, meta: Mapping[str, Any] | None = None) -> FLModel:
    """What the server sends; the client API makes tensors of it."""
    tensors = {key: torch.as_tensor(np.asarray(value)) for key, value in parameters.items()}
    return FLModel(params=tensors, current_round=number, meta=dict(meta or {}))


@dataclass
class Hospital:
    """One site: its images, its folder, and what a restart of its trainer loses."""

    name: str
    settings: Algorithm
    folder: Path
    seed: int
    train: TrainConfig = TRAIN
    data: ImageSet | None = None
    model: nn.Module = field(default_factory=network)
    algorithm: SiteAlgorithm = field(init=False)
    optimizer_state: OptimizerState = field(init=False)

    def __post_init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        self.model, self.algorithm = network(), site_algorithm(self.settings, self.name)
        self.optimizer_state = {}

    @property
    def state(self) -> SiteState:
        return SiteState(self.folder)

    def begin(self, sent: FLModel) -> None:
        self.algorithm.begin(self.model, sent, self.state)

    def answer(self, sent: FLModel) -> FLModel:
        """As `fl.site.client.Site` does it."""
        self.begin(sent)
        context = RoundContext(self.name, sent.current_round, ROUNDS)
        algorithm, model = self.algorithm, self.model
        result = self.fit(
            model,
            context,
            optimizer_state=self.optimizer_state,
            shared=algorithm.shared_statistics(),
            penalty=algorithm.penalty(model),
            after_step=algorithm.after_step(model),
        )
        own = replace(context, site=f"{self.name}/own")
        extra = algorithm.end(model, result, lambda other, penalty: self.fit(other, own, penalty=penalty))
        meta = {**extra, "client_name": self.name, "NUM_STEPS_CURRENT_ROUND": result.samples}
        return FLModel(params=arrays(algorithm.shared(model)), meta=meta)

    def fit(self, model: nn.Module, context: RoundContext, **options: Any) -> TrainResult:
        data = self.data or noise(18, self.seed)
        job = JobConfig(name="job", preprocess=Preprocess(size=SIZE), train=self.train)
        return train_epochs(model, data, job.site_settings(), context=context, **options)
