"""Going on after a crash: what the controller keeps after every round, and how a later job takes it over."""

from pathlib import Path
from typing import Any

from nvflare.apis.fl_constant import ReservedKey
from nvflare.apis.job_def import JobMetaKey
from nvflare.app_common.abstract.fl_model import FLModel

from pneumonia_fl.config.algorithm import Algorithm
from pneumonia_fl.fl.algorithms.server_base import ServerAlgorithm
from pneumonia_fl.fl.protocol.site_report import Facts
from pneumonia_fl.fl.server.model_selection import JudgingFedAvg
from pneumonia_fl.fl.server.round_tracker import RoundBook
from pneumonia_fl.fl.state.job_state import JobState


class ResumableFedAvg(JudgingFedAvg):
    """FedAvg that keeps a state after every round, and can begin with that of an earlier job."""

    book: RoundBook
    resume_from: str
    start_round: int
    num_rounds: int
    _settings: Algorithm
    _algorithm: ServerAlgorithm

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._latest: FLModel | None = None
        self._restored: dict[str, Any] | None = None
        self._facts: dict[str, Facts] = {}
        self._final_round, self._done = self.num_rounds, 0

    def open_state(self) -> None:
        """Take over the state of the job to go on from, if there is one; the run is about to begin."""
        self.first_job = str(self.fl_ctx.get_job_id())
        self._state = self._job_state(self.first_job)
        if self.resume_from:
            self._restore(Path(self.get_run_dir()))

    def keep_state(self, model: FLModel) -> None:
        """Write down what a later job needs to go on after this round."""
        self._done = model.current_round + 1
        values = {
            "round": self._done,
            "submitter": self._submitter(),
            "first_job": self.first_job,
            **self.best(),
            "patience": self._patience.state(),
            "sites": self.book.counts(),
            "facts": {site: facts.model_dump() for site, facts in self._facts.copy().items()},
        }
        extra = self._algorithm.state()
        self._state.keep(model.params, self._done, self._settings.average_last)
        self._state.save(model.params, self._best, values, Path(self.get_run_dir()), extra)

    def load_model(self) -> FLModel:
        """The initial model, or the last one of the job that goes on."""
        model = super().load_model()
        if self._restored is not None:
            model.params = self._restored
            self._latest = model
            self.restore_best(*self._restored_best)
        return model

    def _restore(self, run_dir: Path) -> None:
        """Go on from the last round of an earlier job: model, best model, counts, journal."""
        state = self._job_state(self.resume_from)
        self._restored, best, values = state.load(self._submitter())
        self.first_job = values.setdefault("first_job", self.resume_from)
        extra = state.load_extra()
        self._algorithm.restore(extra)
        state.copy_records(run_dir)
        self._patience.restore(values.get("patience", {}))
        self.start_round = self._done = values["round"]
        self.num_rounds = 0 if self.should_stop() else self._final_round - self._done
        self.book.restore(values["sites"])
        # What a site has said of its data set holds for all parts of a job.
        self._facts = {site: Facts.model_validate(said) for site, said in values.get("facts", {}).items()}
        self._state.save(self._restored, best, values, run_dir, extra)
        self._state.take_kept(state)
        state.remove()
        self._restored_best = best, values["best_auroc"], values["best_round"]
        self.info(f"going on from job {self.resume_from} at round {self.start_round + 1}")

    def _job_state(self, job_id: str) -> JobState:
        return JobState(Path(self.engine.get_workspace().get_root_dir()), job_id)

    def _submitter(self) -> str:
        return str(
            (self.fl_ctx.get_prop(ReservedKey.JOB_META) or {}).get(JobMetaKey.SUBMITTER_NAME.value, "")
        )
