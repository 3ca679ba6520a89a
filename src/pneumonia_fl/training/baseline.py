"""Training without a federation: the central model, and what a site has when it stays alone.

The same model, loss, augmentation, schedule and choice of the best round as in a federation, and as many optimiser
steps as all its sites take together; so what differs is who may see which image.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from pneumonia_fl.config.job import SiteSettings
from pneumonia_fl.config.sections import TrainConfig
from pneumonia_fl.data.store import ImageSet
from pneumonia_fl.evaluation.scoring import evaluate, is_better
from pneumonia_fl.metrics.binary import ScoreHistogram, summarise
from pneumonia_fl.models.architectures import build_model
from pneumonia_fl.training.local import OptimizerState, RoundContext, train_epochs

State = dict[str, Tensor]


@dataclass(frozen=True)
class Baseline:
    """A trained model: the best round's weights, on what it was chosen, and what it cost."""

    state: State
    round: int
    validation: ScoreHistogram
    steps: int
    seconds: float


def federated_steps(images: Sequence[int], train: TrainConfig) -> int:
    """Return the optimizer steps of one federated round: the sum over sites with these training images."""
    return sum(train.local_epochs * math.ceil(count / train.batch_size) for count in images)


def train_baseline(
    name: str,
    settings: SiteSettings,
    train: ImageSet,
    validation: ImageSet,
    steps: int,
    on_round: Callable[[int, float | None], None] = lambda number, auroc: None,
) -> Baseline:
    """Train a model from scratch for `settings.rounds` rounds of `steps` optimiser steps.

    After each round it is judged on `validation`; the round with the best AUROC is kept, the last one where there is
    none (one class only).

    Args:
        name: whose model it is; chooses the random stream.
        settings: the federated job's own.
        train: images to learn from.
        validation: images to choose the best round with.
        steps: per round.
        on_round: told the number of rounds done and the validation AUROC.

    Raises:
        DataError: there are no images to train on or to validate with.
        SiteError: the loss is no longer a number.
    """
    seed = settings.train.seed
    model = build_model(settings.model.name, settings.model.norm, settings.preprocess.size, seed)
    best: tuple[float | None, int, State, ScoreHistogram] | None = None
    optimizer_state: OptimizerState = {}
    seconds = 0.0
    for number in range(settings.rounds):
        context = RoundContext(name, number, settings.rounds)
        done = train_epochs(
            model,
            train,
            settings,
            context=context,
            steps=steps,
            optimizer_state=optimizer_state,
        )
        seconds += done.seconds
        histogram = evaluate(model, validation, settings.preprocess)
        area = summarise(histogram).auroc
        if best is None or is_better(area, best[0]):
            best = area, number + 1, _copy(model), histogram
        on_round(number + 1, area)
    assert best is not None
    return Baseline(best[2], best[1], best[3], steps * settings.rounds, seconds)


def _copy(model: nn.Module) -> State:
    return {key: value.detach().cpu().clone() for key, value in model.state_dict().items()}
