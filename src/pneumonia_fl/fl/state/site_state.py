"""What a site keeps of a job: the algorithm's own numbers and the site's own models. It sends none of it but, when job
and site want that, `local_model`.

<folder>/                    at a real site <kit>/pneumonia_fl_site_state/<first job id>, else RUN/sites/<site>
    round-<n>.safetensors    the algorithm's own numbers after the site's training in round n
    model/                   the best model that is the site's own, ready for `pneumonia-fl evaluate`
    local_model/             the best model that it trained, for cross-site evaluation (docs/cross-site.md)

A resumed job finds the folder of the first job of its chain. Nothing here is ever removed by the
program but what a later round replaces: the model is what the hospital took part for.
"""

import re
from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save
from torch import Tensor, nn

from pneumonia_fl.config.environment import SITE_STATE_VARIABLE, site_state
from pneumonia_fl.errors import ConfigError
from pneumonia_fl.files import output_errors, write_atomic
from pneumonia_fl.fl.state.job_state import JOB_ID
from pneumonia_fl.models.checkpoint import CARD, WEIGHTS, ModelCard, load_state, read_card, save_model

MODEL = "model"
ROUND_FILE = re.compile(r"round-(\d+)\.safetensors")


class SiteState:
    """One site's own folder for one job; made, for its owner's eyes only, when something is kept in it."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder

    @classmethod
    def of(cls, site: str, job: str) -> "SiteState":
        """Return the folder of `site` for the chain of jobs from `job`; `ConfigError` when it is no job id."""
        if not JOB_ID.fullmatch(job):
            raise ConfigError(f"{job!r} is not a job id")
        return cls(site_state(site, job))

    @property
    def folder(self) -> Path:
        """Return the folder; `ConfigError` when none is configured."""
        if self._folder is None:
            raise ConfigError(
                f"{SITE_STATE_VARIABLE} is not set; let it name a folder in which this site keeps its own part "
                "of the model ({site} and {job} in it are filled in)"
            )
        return self._folder

    def save(self, number: int, values: Mapping[str, Tensor]) -> None:
        """Save `values` as the result of the training in round `number`."""
        self._make()
        write_atomic(
            self._file(number), save({key: value.cpu().contiguous() for key, value in values.items()})
        )

    def load(self, number: int | None) -> dict[str, Tensor]:
        """Load the state of round `number`, {} when it is missing; delete that of every other round."""
        for other in self._rounds() - {number}:
            self._file(other).unlink()
        return load_state(self._file(number)) if number in self._rounds() and number is not None else {}

    def previous_round(self, number: int) -> int | None:
        """Return the last saved round before `number`: a repeated round must not count twice."""
        return max((kept for kept in self._rounds() if kept < number), default=None)

    def keep_if_better(self, model: nn.Module, card: ModelCard, name: str = MODEL) -> None:
        """Save the site's own model with its card, unless one with a better AUROC, then loss, is there."""
        self._make()
        folder = self.folder / name
        if not (folder / CARD).is_file() or _rank(card) > _rank(read_card(folder)):
            save_model(folder, model.state_dict(), card)

    def saved_model(self, name: str) -> dict[str, Tensor] | None:
        """Return the weights that `keep_if_better` has saved under this name; None when there are none."""
        folder = self.folder / name
        return load_state(folder / WEIGHTS) if (folder / CARD).is_file() else None

    def _make(self) -> None:
        with output_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    def _file(self, number: int) -> Path:
        return self.folder / f"round-{number}.safetensors"

    def _rounds(self) -> set[int]:
        files = self.folder.iterdir() if self.folder.is_dir() else ()
        return {int(found[1]) for file in files if (found := ROUND_FILE.fullmatch(file.name))}


def _rank(card: ModelCard) -> tuple[float, float]:
    """Rank by the site's own validation AUROC; by loss where one class is missing."""
    return card.metrics["auroc"] or 0.0, -(card.metrics["loss"] or 0.0)
