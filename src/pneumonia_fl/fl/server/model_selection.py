"""Selecting the best global model by metrics that are pooled from the sites' histograms.

Stock FedAvg averages the sites' metrics. Here each site sends a score histogram of the model that it received; the
server adds them, so that AUROC and the rest are those of the pooled validation data, up to the bin width.
"""

from dataclasses import asdict, dataclass
from typing import Any

from pneumonia_fl.evaluation.scoring import is_better
from pneumonia_fl.fl.protocol.site_report import Training
from pneumonia_fl.metrics.binary import Metrics, ScoreHistogram, summarise
from pneumonia_fl.metrics.series import ROUND_TRAIN_LOSS, series

Parameters = dict[str, Any]


@dataclass(frozen=True)
class Selection:
    """Pooled metrics of one global model.

    `number`: rounds that made the model. `is_best`: it is better than all before it. `averaged`: it is the mean of so
    many global models, and no round's own (0). `train_loss`: of the round that was trained from it, by tag.
    """

    number: int
    metrics: Metrics
    pooled: ScoreHistogram
    is_best: bool
    averaged: int
    train_loss: dict[str, float]

    def event(self) -> dict[str, Any]:
        """Return the event for the journal."""
        note = {"averaged": self.averaged} if self.averaged else {}
        values = {"values": asdict(self.metrics), "best": self.is_best, "histogram": self.pooled.to_dict()}
        return {"round": self.number, **values, **note}

    def series(self) -> dict[str, float]:
        """Return metrics by tag."""
        return series(self.metrics)


class ModelSelector:
    """Pools the sites' results for the global model that was sent last, and remembers the best model.

    Results may be added in other threads while the model is judged.
    """

    def __init__(self) -> None:
        self.candidate: Parameters = {}
        self.best: Parameters | None = None
        self.best_auroc: float | None = None
        self.best_round: int | None = None
        self._number = self._averaged = 0
        self._pool: dict[str, ScoreHistogram] = {}
        self._training: dict[str, Training] = {}

    def begin(self, parameters: Parameters, number: int, averaged: int = 0) -> None:
        """Start the next candidate, the model about to be sent; for arguments see `Selection`."""
        self.candidate, self._number, self._averaged = dict(parameters), number, averaged
        self._pool, self._training = {}, {}

    def add(self, site: str, scores: ScoreHistogram | None, training: Training | None) -> None:
        """Add one site's scores of the candidate and its training from it, as far as there are any."""
        if training:
            self._training[site] = training
        if scores is not None:
            self._pool[site] = scores

    @property
    def has_scores(self) -> bool:
        """Return True when any site has scored the candidate."""
        return bool(self._pool)

    def select(self) -> Selection:
        """Evaluate the candidate by the pooled scores; the initial model is never the best."""
        pooled = sum(self._pool.copy().values(), ScoreHistogram.empty())
        metrics, number = summarise(pooled), self._number
        is_best = number > 0 and is_better(metrics.auroc, self.best_auroc)
        if is_best:
            self.restore(self.candidate, metrics.auroc, number)
        loss = _mean_loss(self._training.copy())
        return Selection(number, metrics, pooled, is_best, self._averaged, loss)

    def restore(self, parameters: Parameters | None, auroc: float | None, number: int | None) -> None:
        """Set the best model, for example that of an earlier part of the same job."""
        self.best, self.best_auroc, self.best_round = parameters, auroc, number


def _mean_loss(training: dict[str, Training]) -> dict[str, float]:
    """Average the round's training loss over all images of all sites; empty after an evaluation."""
    samples = sum(values.train_samples for values in training.values())
    if not samples:
        return {}
    total = sum(values.train_loss * values.train_samples for values in training.values())
    return {ROUND_TRAIN_LOSS: total / samples}
