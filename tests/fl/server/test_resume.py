"""Which jobs can go on: what cannot is refused before anything is sent, with what to do instead."""

from typing import Any

import pytest

from pneumonia_fl.config.job import JobConfig
from pneumonia_fl.errors import ConfigError
from pneumonia_fl.fl.admin.job_record import record
from pneumonia_fl.fl.admin.submit import _check_change, nothing_to_resume
from pneumonia_fl.fl.protocol.messages import RESULT_KEY

ID, OTHER = "88479463-1111", "ab12cd34-2222"


def meta(status: str, done: int | None = None, **more: Any) -> dict[str, Any]:
    """A job of three rounds as the server describes it, of which `done` are finished."""
    about = {"config": {"rounds": 3, "algorithm": {"name": more.pop("algorithm", "fedavg")}}, "sites": ["a"]}
    about["resume_from"] = more.pop("resume_from", "")
    result = {} if done is None else {RESULT_KEY: {"state": "stopped", "reason": "", "done": done, **more}}
    started = "" if status.startswith(("SUBMITTED", "FINISHED:CAN")) else "2026-11-22T10:52:48+00:00"
    known = {"job_id": ID, "name": "smoke", "status": status, "start_time": started}
    return {**known, "custom_props": {"pneumonia_fl": about}, **result}


def problem(given: dict[str, Any], *others: dict[str, Any]) -> str:
    ours = given["custom_props"]["pneumonia_fl"]
    return nothing_to_resume(record(given), ours, [record({**other, "job_id": OTHER}) for other in others])


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (meta("RUNNING"), "is running; there is nothing to resume"),
        (
            meta("FINISHED:COMPLETED", 3, state="finished"),
            "has finished all its 3 rounds; `pneumonia-fl clone",
        ),
        (meta("FINISHED:ABNORMAL", 3, state="finished"), "has finished all its 3 rounds"),
        (meta("FINISHED:COMPLETED", 3, state="finished", missing=["a"]), "has finished all its 3 rounds"),
        (
            meta("FINISHED:ABORTED", 0, reason="aborted"),
            "(aborted) has no finished round to resume from; `pneumonia",
        ),
        (meta("FINISHED:ABORTED", 0, reason="no quorum"), "(failed) has no finished round"),
        (meta("FINISHED:EXECUTION_EXCEPTION", 0), "has no finished round"),
        (meta("FINISHED:ABANDONED", 0), "(interrupted) has no finished round"),
        (meta("FINISHED:CAN_NOT_SCHEDULE"), "(never scheduled) has no finished round"),
        (meta("FINISHED:FAILED_TO_RUN"), "(failed to start) has no finished round"),
        (meta("FINISHED:ABORTED", 2, algorithm="swarm"), "is a swarm"),
    ],
)
def test_what_cannot_go_on_is_refused_in_words(given: dict[str, Any], words: str) -> None:
    assert words in problem(given)
    if "there is nothing" not in words:
        assert "`pneumonia-fl clone 88479463`" in problem(given)


def test_an_evaluation_is_asked_for_again() -> None:
    given = meta("FINISHED:COMPLETED", 0, state="finished")
    given["custom_props"]["pneumonia_fl"]["config"]["evaluation"] = {"split": "test"}
    assert "`pneumonia-fl evaluate`" in problem(given)
    assert "clone" not in problem(given)


@pytest.mark.parametrize("status", ["FINISHED:ABORTED", "FINISHED:EXECUTION_EXCEPTION", "FINISHED:ABANDONED"])
@pytest.mark.parametrize("done", [1, 3, None])
def test_a_job_with_finished_rounds_goes_on(status: str, done: int | None) -> None:
    assert problem(meta(status, done)) == ""


@pytest.mark.parametrize(
    ("status", "done"), [("RUNNING", None), ("SUBMITTED", None), ("FINISHED:ABORTED", 2)]
)
def test_a_job_goes_on_once(status: str, done: int | None) -> None:
    later = meta(status, done, resume_from=ID)
    assert "was resumed as job ab12cd34" in problem(meta("FINISHED:ABORTED", 2), later)


@pytest.mark.parametrize(("status", "done"), [("FINISHED:FAILED_TO_RUN", None), ("FINISHED:ABORTED", 0)])
def test_a_job_that_never_took_it_over_does_not_count(status: str, done: int | None) -> None:
    assert problem(meta("FINISHED:ABORTED", 2), meta(status, done, resume_from=ID)) == ""


def test_a_job_of_other_software_cannot_go_on() -> None:
    foreign = meta("FINISHED:ABORTED", 1)
    foreign["custom_props"] = {"pneumonia_fl": {}}
    assert "was not made by pneumonia-fl" in problem(foreign)


def test_settings_that_do_not_fit_the_model_are_refused() -> None:
    job = JobConfig(name="x", rounds=5)
    _check_change(job, job.model_copy(update={"rounds": 3}), 3)
    _check_change(job, job.model_copy(update={"rounds": 9}), 3)
    with pytest.raises(ConfigError, match="3 rounds are done"):
        _check_change(job, job.model_copy(update={"rounds": 2}), 3)
    other = JobConfig.model_validate({"name": "x", "rounds": 5, "model": {"name": "resnet18"}})
    with pytest.raises(ConfigError, match="keeps its model"):
        _check_change(job, other, 3)
