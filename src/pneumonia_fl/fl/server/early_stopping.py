"""Early stopping: end after a number of evaluated models without a better one."""

from typing import Any

from pneumonia_fl.config import algorithm as learning


class EarlyStopping:
    """Counts the judged models since the last that was better by more than `min_delta`.

    The initial model does not count, nor does one without an AUROC (the sites have one class only).
    """

    def __init__(self, settings: learning.EarlyStopping) -> None:
        self._settings = settings
        self._auroc: float | None = None
        self.rounds_without_improvement = 0

    def note(self, number: int, auroc: float | None) -> None:
        """Record the pooled validation AUROC of the model after `number` rounds."""
        if number == 0 or auroc is None:
            return
        better = self._auroc is None or auroc > self._auroc + self._settings.min_delta
        if better:
            self._auroc = auroc
        self.rounds_without_improvement = 0 if better else self.rounds_without_improvement + 1

    def should_stop(self) -> bool:
        """Return True after as many rounds without a better model as the job allows."""
        return 0 < self._settings.patience <= self.rounds_without_improvement

    def reason(self, done: int, rounds: int) -> str:
        """Explain why the job ends after `done` of its rounds."""
        waited = self.rounds_without_improvement
        number = f"{waited} round{'s' if waited > 1 else ''}"
        return f"stopped early after round {done} of {rounds}: no better model for {number}"

    def state(self) -> dict[str, Any]:
        """Return the state that a resumed job needs."""
        return {"auroc": self._auroc, "waited": self.rounds_without_improvement}

    def restore(self, state: dict[str, Any]) -> None:
        """Restore `state`; a job of a version without early stopping has none."""
        self._auroc, self.rounds_without_improvement = state.get("auroc"), state.get("waited", 0)
