"""Resuming a job after a crash: what is saved after every round, and how a later job restores it."""

from typing import Any

from pneumonia_fl.fl.algorithms.server_base import Parameters, ServerAlgorithm
from pneumonia_fl.fl.protocol.site_report import Facts
from pneumonia_fl.fl.server.early_stopping import EarlyStopping
from pneumonia_fl.fl.server.model_selection import ModelSelector
from pneumonia_fl.fl.server.result_validation import ResultValidator
from pneumonia_fl.fl.server.tasks.server_job import ServerJob


class ResumeState:
    """Saves the state of a training job after each round, and restores that of an earlier job.

    Args:
        job: the running job.
        selector: knows the best model.
        stopping: counts rounds without a better model.
        algorithm: has numbers of its own.
        validator: knows what the sites say of their data; it holds for all parts of a job.
        average_last: how many of the last global models are kept for averaging.
    """

    def __init__(
        self,
        job: ServerJob,
        selector: ModelSelector,
        stopping: EarlyStopping,
        algorithm: ServerAlgorithm,
        validator: ResultValidator,
        average_last: int = 0,
    ) -> None:
        self._job, self._selector, self._stopping = job, selector, stopping
        self._algorithm, self._validator, self._average_last = algorithm, validator, average_last

    def checkpoint(self, model: Parameters) -> None:
        """Save what a later job needs; `model` is the global one after the rounds that are done."""
        job, selector = self._job, self._selector
        values = {
            "round": job.progress.done,
            "submitter": job.submitter,
            "first_job": job.tasks.first_job,
            "best_round": selector.best_round,
            "best_auroc": selector.best_auroc,
            "patience": self._stopping.state(),
            "sites": job.tracker.counts(),
            "facts": {site: facts.model_dump() for site, facts in self._validator.facts.copy().items()},
        }
        job.state.keep(model, job.progress.done, self._average_last)
        self._save(model, values, self._algorithm.state())

    def restore(self, job_id: str) -> Parameters:
        """Continue the job `job_id` after its last round; returns its global model.

        Raises:
            RunError: it has no state, or somebody else has submitted it.
        """
        job = self._job
        earlier = job.state_of(job_id)
        model, best, values = earlier.load(job.submitter)
        job.tasks.first_job = values.setdefault("first_job", job_id)
        extra = earlier.load_extra()
        self._algorithm.restore(extra)
        earlier.copy_records(job.run_dir)
        self._stopping.restore(values.get("patience", {}))
        self._selector.restore(best, values["best_auroc"], values["best_round"])
        job.progress.start_round = job.progress.done = values["round"]
        job.tracker.restore(values["sites"])
        said = values.get("facts", {})
        self._validator.facts = {site: Facts.model_validate(facts) for site, facts in said.items()}
        self._save(model, values, extra)
        job.state.take_kept(earlier)
        earlier.remove()
        job.info(f"resuming job {job_id} at round {job.progress.start_round + 1}")
        return model

    def _save(self, model: Parameters, values: dict[str, Any], extra: Parameters) -> None:
        self._job.state.save(model, self._selector.best, values, self._job.run_dir, extra)
