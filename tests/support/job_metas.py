"""A job's meta and its status as a real server gives them, for tests that need no server."""

from typing import Any

from pneumonia_fl.fl.protocol.messages import RESULT_KEY

ID = "88479463-a828-4205-8f9f-1d5c3bb9d6f0"


def meta(status: str = "RUNNING", **more: Any) -> dict[str, Any]:
    """A job's meta as NVFlare 2.9 gives it."""
    return {
        "job_id": ID,
        "name": "smoke",
        "status": status,
        "submitter_name": "lead@consortium.org",
        "study": "default",
        "submit_time": 1795344768.1,
        "start_time": "2026-11-22T10:52:48.830133+00:00",
        "duration": "0:00:52.953185",
        "custom_props": {"pneumonia_fl": {"config": {"rounds": 3}, "sites": ["a", "b"], "resume_from": ""}},
        **more,
    }


def result(state: str = "finished", **more: Any) -> dict[str, Any]:
    """The same with what our controller wrote down at the end."""
    known = {"state": state, "reason": "", "missing": [], "rounds": 3, "best_round": 2, "best_auroc": 0.9}
    return {RESULT_KEY: {**known, **more}}


def site(**more: Any) -> dict[str, Any]:
    known = {"state": "waiting", "accepted_round": None, "contributions": 0, "auroc": None, "heard": None}
    return {**known, "problem": "", **more}


def snapshot(**more: Any) -> dict[str, Any]:
    known = {
        "state": "running", "reason": "", "now": 130.0, "started": 0.0, "start_round": 0, "round": 2,
        "rounds": 5, "task": "train", "round_started": 120.0, "best_round": None, "best_auroc": None,
        "global": {}, "sites": {"a": site(), "b": site()},
    }  # fmt: skip
    return {**known, **more}
