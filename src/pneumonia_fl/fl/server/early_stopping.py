"""When to end before the last round: after so many judged models without a better one."""

from typing import Any

from pneumonia_fl.config.algorithm import EarlyStopping


class Patience:
    """Counts the judged models since the last that was better by more than `min_delta`.

    The initial model does not count, nor does one without an AUROC (the sites have one class only).
    """

    def __init__(self, settings: EarlyStopping) -> None:
        self._settings = settings
        self._auroc: float | None = None
        self.waited = 0

    def note(self, number: int, auroc: float | None) -> None:
        """Take in the pooled validation AUROC of the model after `number` rounds."""
        if number == 0 or auroc is None:
            return
        better = self._auroc is None or auroc > self._auroc + self._settings.min_delta
        self._auroc, self.waited = (auroc, 0) if better else (self._auroc, self.waited + 1)

    def over(self) -> bool:
        """Whether there is nothing to wait for."""
        return 0 < self._settings.patience <= self.waited

    def words(self, done: int, rounds: int) -> str:
        """Why the job ends after `done` of its rounds."""
        waited = f"{self.waited} round{'s' if self.waited > 1 else ''}"
        return f"stopped early after round {done} of {rounds}: no better model for {waited}"

    def state(self) -> dict[str, Any]:
        """What a job that goes on must know."""
        return {"auroc": self._auroc, "waited": self.waited}

    def restore(self, state: dict[str, Any]) -> None:
        """Take over what `state` gave; nothing from a job of a version that had no patience."""
        self._auroc, self.waited = state.get("auroc"), state.get("waited", 0)
