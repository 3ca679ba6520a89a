"""A job as its server describes it, in plain words: pure functions on NVFlare's job meta."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from pneumonia_fl.errors import RefusedError
from pneumonia_fl.fl.protocol.messages import ABORT_KEY, RESULT_KEY, properties
from pneumonia_fl.inputs.text import printable_values
from pneumonia_fl.runs.folder import lacking

ABORTING, ABORTED = "aborting", "aborted"
WORDS = {
    "SUBMITTED": "submitted",
    "APPROVED": "submitted",
    "DISPATCHED": "starting",
    "RUNNING": "running",
    "FINISHED:COMPLETED": "finished",
    "FINISHED:ABORTED": ABORTED,
    "FINISHED:EXECUTION_EXCEPTION": "failed",
    "FINISHED:ABNORMAL": "ended abnormally",
    "FINISHED:CAN_NOT_SCHEDULE": "never scheduled",
    "FINISHED:FAILED_TO_RUN": "failed to start",
    "FINISHED:ABANDONED": "interrupted",
}
INCOMPLETE = "INCOMPLETE"
CUT_OFF = "the server ended before the job did"
NO_WORD = "it ended without saying why; `pneumonia-fl logs ID` shows the server's log"
LOST_AT_END = "all rounds done, but a site was lost at the end"
WAITING = "waiting for sites"
NEVER_RAN = {"FINISHED:CAN_NOT_SCHEDULE", "FINISHED:FAILED_TO_RUN"}
DONE = "FINISHED"
TOO_FEW = re.compile(r"connected sites \((\d+)\) < min_sites \((\d+)\)")
"""What NVFlare's scheduler says."""
NVFLARE_ERROR = "NVFLARE_ERROR: "
"""Stands before what a site's own check says of a job."""
MIN_PREFIX = 4
"""Fewest characters of a job id that are taken for one."""


@dataclass(frozen=True)
class JobRecord:
    """One job on the server."""

    id: str
    name: str
    status: str
    """In plain words."""
    raw_status: str
    """NVFlare's own word."""
    submitter: str
    study: str
    submitted: float
    """Seconds since the epoch."""
    started_at: float | None
    """Seconds since the epoch; None: not yet."""
    duration: float | None
    """Seconds since it started, or until it ended; None: it has not started."""
    rounds: int | None
    """None when the job was not made by pneumonia-fl."""
    done: int | None
    """Rounds that it had finished when it ended, 0 when it never ran; None: it has not ended, or that is unknown."""
    sites: tuple[str, ...]
    reason: str
    """Why it does not run, or did not; empty when there is nothing to say."""
    missing: tuple[str, ...]
    """Sites that never contributed; known when all rounds are done, or the job was stopped."""
    best_auroc: float | None
    """Pooled validation AUROC of the best global model, once the rounds are over."""
    shipped: bool
    """Whether it carries its own code."""
    cloned_from: str | None
    resumed_from: str | None
    ours: bool
    """Whether pneumonia-fl made it."""

    @property
    def rounds_done(self) -> bool:
        """Return True when the job completed all its rounds."""
        return self.status in (WORDS["FINISHED:COMPLETED"], INCOMPLETE)

    @property
    def interrupted(self) -> bool:
        """Return True for a job of ours whose server ended before the job did: it can be resumed."""
        return self.raw_status == "FINISHED:ABANDONED" and self.ours

    @property
    def ended(self) -> bool:
        """Return True when the job has ended for good."""
        return self.raw_status.startswith(DONE)

    @property
    def running(self) -> bool:
        """Return True while the job runs."""
        return self.raw_status in ("DISPATCHED", "RUNNING")

    def as_dict(self) -> dict[str, Any]:
        """Return the record for `--json`."""
        return asdict(self)


def record(meta: Mapping[str, Any]) -> JobRecord:
    """Describe a job from NVFlare's meta of it.

    Args:
        meta: what `list_jobs(detailed=True)` and `get_job_meta` return.
    """
    meta = printable_values(dict(meta))
    ours = properties(meta)
    config = ours.get("config")
    rounds = config.get("rounds") if isinstance(config, Mapping) else None
    result = _result(meta)
    raw = str(meta.get("status", ""))
    return JobRecord(
        id=str(meta["job_id"]),
        name=str(meta.get("name", "")),
        status=status_words(meta),
        raw_status=raw,
        submitter=str(meta.get("submitter_name", "")),
        study=str(meta.get("study") or "default"),
        submitted=float(meta.get("submit_time") or 0),
        started_at=_epoch(str(meta.get("start_time") or "")),
        duration=_seconds(str(meta.get("duration", ""))),
        rounds=rounds if isinstance(rounds, int) else None,
        done=0 if raw in NEVER_RAN else result.get("done"),
        sites=_names(ours.get("sites")) or _names(_deployed(meta)),
        reason=reason(meta),
        missing=tuple(result.get("missing", ())),
        best_auroc=result.get("best_auroc"),
        shipped=bool(meta.get("byoc")),
        cloned_from=meta.get("cloned_from"),
        resumed_from=str(ours.get("resume_from") or "") or None,
        ours=isinstance(config, Mapping) and bool(config),
    )


def status_words(meta: Mapping[str, Any]) -> str:
    """Return the job's status in plain words.

    What our controller says goes before NVFlare's word: NVFlare calls a job abnormal when a site was rebooted, also
    when all rounds were done, and completed when a site never contributed.
    """
    raw, result = str(meta.get("status", "")), _result(meta)
    if raw in ("SUBMITTED", "APPROVED") and _refused_schedule(meta):
        return WAITING
    if raw in ("DISPATCHED", "RUNNING") and _aborted_by(meta):
        return ABORTING
    if raw.startswith(DONE) and result.get("state") == "finished":
        return INCOMPLETE if _lacking(meta) else WORDS["FINISHED:COMPLETED"]
    if raw.startswith(DONE) and result.get("reason") not in (None, "", ABORTED):
        return WORDS["FINISHED:EXECUTION_EXCEPTION"]
    if raw.startswith(DONE) and _aborted_by(meta):
        return ABORTED
    return WORDS.get(raw, raw.lower().replace("_", " ").replace("finished:", "") or "unknown")


def _lacking(meta: Mapping[str, Any]) -> str:
    """Describe the sites whose results a job that completed its rounds lacks, with each site's reason."""
    result = _result(meta)
    why = {**result.get("why", {}), **_refused(meta)}
    return lacking(result.get("missing", ()), why, str(result.get("reason", "")))


def _aborted_by(meta: Mapping[str, Any]) -> str:
    """Return the user who aborted the job; "" when there is none, or an older server does not say."""
    note = meta.get(ABORT_KEY)
    return str(note.get("by", "")) if isinstance(note, Mapping) else ""


def reason(meta: Mapping[str, Any]) -> str:
    """Return the reason why a job waits, never ran or failed; empty when there is none."""
    raw, words, result = str(meta.get("status", "")), status_words(meta), _result(meta)
    by = _aborted_by(meta)
    if words in (INCOMPLETE, WORDS["FINISHED:COMPLETED"]):
        return _lacking(meta) or _remarks(meta)
    if words in (ABORTING, ABORTED) and by:
        return f"ended by {by}"
    if words == WORDS["FINISHED:EXECUTION_EXCEPTION"] and result.get("reason"):
        return str(result["reason"])
    if raw == "FINISHED:ABANDONED":
        return CUT_OFF
    if words in (WAITING, WORDS["FINISHED:CAN_NOT_SCHEDULE"]):
        return _refused_schedule(meta)
    last = NO_WORD if words == WORDS["FINISHED:EXECUTION_EXCEPTION"] else ""
    return "" if raw == "RUNNING" else _refusals(meta) or last


def _remarks(meta: Mapping[str, Any]) -> str:
    """Return remarks on a job that completed its rounds with all its sites."""
    by = _aborted_by(meta)
    lost = f"all rounds were done when {by} aborted it" if by else LOST_AT_END
    whole = meta.get("status") == "FINISHED:COMPLETED"
    return "; ".join(filter(None, (_result(meta).get("stopped_early"), "" if whole else lost)))


def missing_sites(job: JobRecord, connected: Iterable[str]) -> list[str]:
    """List the job's sites that are not connected; empty when the job does not name its sites."""
    there = set(connected)
    return [site for site in job.sites if site not in there]


def find_job_id(wanted: str, ids: Iterable[str]) -> str:
    """Return the one id that begins with `wanted`.

    Raises:
        RefusedError: none does, several do, or `wanted` is too short.
    """
    matches = sorted(found for found in ids if found.startswith(wanted))
    if wanted in matches:
        return wanted
    if len(wanted) < MIN_PREFIX:
        raise RefusedError(f"{wanted!r} is too short for a job id; give at least {MIN_PREFIX} characters")
    if not matches:
        raise RefusedError(f"no job {wanted} on this server; `pneumonia-fl jobs` lists them")
    if len(matches) > 1:
        raise RefusedError(f"{wanted} could be {' or '.join(matches[:3])}; give more characters of the id")
    return matches[0]


def age(seconds: float) -> str:
    """Format a duration for people: `42 s`, `3:05`, `1:02:03`."""
    whole = max(0, int(seconds))
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def _refused_schedule(meta: Mapping[str, Any]) -> str:
    """Return the scheduler's last reason, without its time; empty when it has none."""
    history = meta.get("schedule_history") or []
    words = str(history[-1]).split(": ", 1)[-1].strip() if history else ""
    few = TOO_FEW.fullmatch(words)
    if few:
        return f"{few[1]} sites connected, {few[2]} needed"
    return "" if words == "scheduled" else words


def _refusals(meta: Mapping[str, Any]) -> str:
    """List the sites that refused the job, grouped by reason."""
    reasons: dict[str, list[str]] = {}
    for site, words in _refused(meta).items():
        reasons.setdefault(words, []).append(site)
    return "; ".join(f"{', '.join(sorted(sites))}: {words}" for words, sites in reasons.items())


def _refused(meta: Mapping[str, Any]) -> dict[str, str]:
    """Map each site that refused the job to its reason."""
    refused = {}
    for detail in meta.get("job_deploy_detail") or []:
        site, separator, words = str(detail).partition(": ")
        if separator and words != "OK":  # without a site: a sum of what the others say
            refused[site] = words.removeprefix(NVFLARE_ERROR).strip()
    return refused


def _result(meta: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the result that our controller recorded; empty before that, and for a killed job."""
    found = meta.get(RESULT_KEY)
    return found if isinstance(found, Mapping) else {}


def _names(value: object) -> tuple[str, ...]:
    """Return site names; tolerate other values of a submitter, so that one job cannot spoil the list."""
    return tuple(map(str, value)) if isinstance(value, list) else ()


def _deployed(meta: Mapping[str, Any]) -> list[str]:
    """Return site names from NVFlare's deployment report, for jobs that do not name their sites."""
    names = [str(detail).split(":", 1)[0] for detail in meta.get("job_deploy_detail") or []]
    return [name for name in names if name != "server"]


def _seconds(duration: str) -> float | None:
    """Convert NVFlare's `0:00:52.953185` (or `1 day, 0:00:01`) to seconds."""
    days, separator, clock = duration.rpartition(", ")
    try:
        hours, minutes, seconds = (clock if separator else duration).split(":")
        whole_days = int(days.split()[0]) if separator else 0
        return whole_days * 86400 + int(hours) * 3600 + int(minutes) * 60 + float(seconds)
    except ValueError:
        return None


def _epoch(iso: str) -> float | None:
    return datetime.fromisoformat(iso).timestamp() if iso else None
