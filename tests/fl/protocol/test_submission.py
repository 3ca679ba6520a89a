"""What a submitter writes into a job's meta beside the job itself does not reach the server's store."""

import json
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import pytest
from nvflare.apis.event_type import EventType
from nvflare.apis.fl_constant import FLContextKey
from nvflare.apis.fl_context import FLContext
from nvflare.apis.job_def import JobMetaKey
from nvflare.private.fed.server.job_meta_validator import JobMetaValidator

from pneumonia_fl.fl.parent.job_monitor import JobMonitor
from pneumonia_fl.fl.protocol.messages import RESULT_KEY
from pneumonia_fl.fl.protocol.submission import keep_submitted

JOB = {
    "name": "smoke",
    "resource_spec": {},
    "min_clients": 1,
    "deploy_map": {"app": ["server", "site-1"]},
    "custom_props": {"pneumonia_fl": {"config": {"rounds": 3}}},
}
RESULT = {"state": "finished", "reason": "", "missing": [], "best_round": 1, "best_auroc": 0.9999}


def test_a_result_written_by_the_submitter_is_dropped_when_the_job_comes_in() -> None:
    context, meta = FLContext(), {**JOB, RESULT_KEY: RESULT, "schedule_history": ["2026: all is well"]}
    context.set_prop(FLContextKey.JOB_META, meta, private=True, sticky=False)
    JobMonitor().handle_event(EventType.SUBMIT_JOB, context)
    assert meta == JOB, "the very dict that NVFlare is about to store"


SERVERS = (
    "status",
    "start_time",
    "schedule_history",
    "job_deploy_detail",
    "cloned_from",
    "job_clients",
    "submitter_name",
    "submitter_org",
    "submitter_role",
)


@pytest.mark.parametrize("key", [RESULT_KEY, "result_location", "job_id", "unheard_of", *SERVERS])
def test_only_the_server_says_it(key: str) -> None:
    meta = {**JOB, key: "x"}
    assert keep_submitted(meta) == [key]
    assert meta == JOB


def test_what_nvflare_has_found_out_by_then_stays(tmp_path: Path) -> None:
    """A job that ships code must still need the right to."""
    file = tmp_path / "job.zip"
    with ZipFile(file, "w") as archive:
        archive.writestr("smoke/meta.json", json.dumps({**JOB, "byoc": False}))
        for folder in ("smoke/app/config/", "smoke/app/custom/"):
            archive.writestr(folder, "")
        for name in ("server", "client"):
            archive.writestr(f"smoke/app/config/config_fed_{name}.json", "{}")
    valid, problem, meta = JobMetaValidator().validate("smoke", str(file))
    assert valid, problem
    meta[JobMetaKey.STUDY.value] = "default"
    assert keep_submitted(meta) == []
    kept: dict[str, Any] = {**JOB, "byoc": True, "study": "default"}
    assert meta == kept
