"""Convert errors of NVFlare's session: one line that says what to do, with an exit code for scripts."""

import shlex

from nvflare.apis.fl_exception import FLCommunicationError
from nvflare.fuel.flare_api import api_spec as nvflare

from pneumonia_fl.errors import PneumoniaFLError, RefusedError, RunError, TimeLimitError
from pneumonia_fl.fl.kit.certificates import role_of
from pneumonia_fl.fl.kit.startup_kit import Kit


class JobNotRunning(RunError):
    """The job does not run (any more)."""


class NoSuchJob(RefusedError):
    """The server does not know the job."""


class JobNotDone(RunError):
    """The job has not ended."""


_AWAY = (nvflare.NoConnection, nvflare.NoReply, nvflare.SessionClosed)
_EXPLANATIONS: tuple[tuple[tuple[type[Exception], ...], type[PneumoniaFLError], str], ...] = (
    (
        (nvflare.AuthorizationError,),
        RefusedError,
        "{name} ({role}) may not {what}; `pneumonia-fl authz --kit {kit}` shows who may",
    ),
    (
        (nvflare.AuthenticationError, FLCommunicationError),
        RefusedError,
        "{where} does not let {name} log in: {text}",
    ),
    ((nvflare.JobNotFound,), NoSuchJob, "{where} has no such job; `pneumonia-fl jobs` lists them"),
    (
        (nvflare.JobNotRunning,),
        JobNotRunning,
        "the job is not running; `pneumonia-fl jobs` shows how it ended",
    ),
    (
        (nvflare.JobNotDone,),
        JobNotDone,
        "the job has not ended; wait with `pneumonia-fl watch`, or end it with `pneumonia-fl abort`",
    ),
    (
        (nvflare.SubmitTokenConflict, nvflare.SubmitTokenJobDeleted),
        RefusedError,
        "{text}; choose another --token",
    ),
    ((nvflare.InvalidJobDefinition,), RefusedError, "{where} does not take this job: {text}"),
    (_AWAY, TimeLimitError, "{where} does not answer any more; is it up? ({text})"),
    ((OSError,), RunError, "cannot {what}: {text}"),
    ((Exception,), RunError, "{where} could not do it: {text}"),
)


def explain(error: Exception, kit: Kit, what: str) -> PneumoniaFLError:
    """Convert an error of NVFlare to one of ours.

    Args:
        error: what NVFlare raised.
        kit: whose login it was.
        what: what was tried, as in "you may not …".
    """
    for kinds, ours, template in _EXPLANATIONS:
        if isinstance(error, kinds):
            return ours(template.format(**_facts(error, kit, what)))
    raise error


def _facts(error: Exception, kit: Kit, what: str) -> dict[str, str]:
    return {
        "name": kit.name,
        "role": role_of(kit) or "no role",
        "kit": shlex.quote(str(kit.folder)),
        "what": what,
        "where": f"the server at {kit.host}:{kit.port}",
        "text": " ".join(str(error).split()) or type(error).__name__,
    }
