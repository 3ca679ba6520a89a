"""Handle a site's failure in a job: NVFlare 2.9 ends the job for all sites, here only that site leaves.

NVFlare ends it, as before, only when the remaining sites cannot reach the quorum.
"""

import logging
from typing import Any

from nvflare.apis.fl_constant import RunProcessKey
from nvflare.apis.job_launcher_spec import JobReturnCode
from nvflare.fuel.common.exit_codes import ProcessExitCode
from nvflare.fuel.f3.cellnet.defs import MessageHeaderKey
from nvflare.private.defs import JobFailureMsgKey

from pneumonia_fl.fl.protocol.messages import properties
from pneumonia_fl.inputs.text import printable

ENDS_THE_JOB = {
    ProcessExitCode.EXCEPTION,
    ProcessExitCode.UNSAFE_COMPONENT,
    ProcessExitCode.CONFIG_ERROR,
    ProcessExitCode.INFRASTRUCTURE_ERROR,
    JobReturnCode.ABORTED,
}
"""Codes for which NVFlare ends the job."""
log = logging.getLogger("pneumonia_fl.server")


class SiteFailures:
    """Stands before `FederatedServer.process_job_failure`."""

    def __init__(self, engine: Any) -> None:
        self._engine = engine
        self._failed: dict[str, set[str]] = {}

    def process_report(self, request: Any) -> Any:
        """Process a site's report; NVFlare checks the site's token and records that it has ended."""
        report = request.payload
        if isinstance(report, dict) and report.get(JobFailureMsgKey.CODE) in ENDS_THE_JOB:
            job, site = str(report.get(JobFailureMsgKey.JOB_ID)), _site(request)
            if not self._ends(job, site):
                reason = printable(report.get(JobFailureMsgKey.REASON))
                log.warning("job %s goes on without %s, whose part has failed: %s", job, site, reason)
                request.payload = {**report, JobFailureMsgKey.CODE: JobReturnCode.UNKNOWN}
        return self._engine.server.process_job_failure(request)

    def _ends(self, job_id: str, site: str) -> bool:
        """Return True when the job cannot reach its quorum without the sites that have failed."""
        process = self._engine.run_processes.get(job_id)
        job = self._engine.job_runner.running_jobs.get(job_id)
        props = properties(job.meta) if job else {}
        if not props:
            return True  # not one of ours
        if process is None:
            return False  # the job is over, and how it ended is known
        names = participants(process)
        if site not in names:
            return False
        failed = self._failed.setdefault(job_id, set())
        failed.add(site)
        quorum = int(props["config"].get("min_sites") or 0) or len(names)
        return len(names - failed) < quorum


def participants(process: dict[str, Any]) -> set[str]:
    """Return the sites that a running job was deployed to, from NVFlare's record of its process."""
    return {client.name for client in list(process[RunProcessKey.PARTICIPANTS].values())}


def _site(request: Any) -> str:
    """Return the site that sent it; the guard has bound the origin to the certificate."""
    return str(request.get_header(MessageHeaderKey.ORIGIN, "")).partition(".")[0]
