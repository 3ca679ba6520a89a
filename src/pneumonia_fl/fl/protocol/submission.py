"""Allowed keys of a submitted job's meta: everything else in it is the server's own."""

from typing import Any

from nvflare.apis.app_validation import AppValidationKey
from nvflare.apis.job_def import JobMetaKey
from nvflare.app_opt.flower.defs import Constant as FlowerConstant

SUBMITTED = frozenset(
    {
        JobMetaKey.JOB_NAME.value,
        JobMetaKey.DEPLOY_MAP.value,
        JobMetaKey.MIN_CLIENTS.value,
        JobMetaKey.MANDATORY_CLIENTS.value,
        JobMetaKey.RESOURCE_SPEC.value,
        JobMetaKey.JOB_LAUNCHER_SPEC.value,
        JobMetaKey.SCOPE.value,
        JobMetaKey.STATS_POOL_CONFIG.value,
        JobMetaKey.EDGE_METHOD.value,
        JobMetaKey.CUSTOM_PROPS.value,
        # NVFlare has set these by now, whatever the submitter wrote.
        JobMetaKey.STUDY.value,
        AppValidationKey.BYOC,
        FlowerConstant.FLOWER_PREDEPLOYED,
    }
)


def keep_submitted(meta: dict[str, Any]) -> list[str]:
    """Remove from a new job's meta what only the server may say, such as how the job ended; return those keys.

    NVFlare overwrites some of it (submitter, status, times) and keeps the rest as it came.
    """
    dropped = sorted(set(meta) - SUBMITTED)
    for key in dropped:
        del meta[key]
    return dropped
