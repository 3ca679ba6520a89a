"""The words that server and sites share beyond NVFlare's own."""

import re
from collections.abc import Mapping
from typing import Any

SITE_REPORT = "pneumonia_fl.site_report"
"""Key in a site's `FLModel.meta`: what it reports, {"histogram": …, "training": …, "data": …, "personal": …,
"limits": …}, or
{"problem": "one line"} when it could not answer; `fl/protocol/site_report.py` has the form."""

SITE_STEPS = "pneumonia_fl.steps"
"""Key in the server's `FLModel.meta`: for each site the optimiser steps that it has done in this job."""

FIRST_JOB = "pneumonia_fl.first_job"
"""Key in the server's `FLModel.meta`: id of the first job in a chain of resumed jobs."""

STATS_GROUP = "pneumonia_fl"
"""Name of the controller's snapshot in NVFlare's `show_stats`."""

PASSED_ON = "pneumonia_fl.passed_on"
"""Key in the server's `FLModel.meta`: a model from another site within a round; it is not evaluated."""

CROSS_SITE = "pneumonia_fl.cross_site"
"""Key in the server's `FLModel.meta`: the model has this name, that of the site whose own it is or of a saved one, and
is to be evaluated only."""

REPLICATES = "replicates"
"""Key in a site's `FLModel.params`: its samples of patients (see `evaluation/patient_pooling.py`)."""

OPTED_OUT = "takes no part in evaluations"
"""What a site reports as its problem whose owner has said so."""

SETTLING = "pneumonia_fl.settling"
"""Key in the server's `FLModel.meta`: a new average; the answer is batch norm's statistics with it, no more."""

SETTLING_PHASE = "settle"
"""The `task` in the controller's snapshot while sites measure a new average's statistics."""

EXCHANGE = "pneumonia_fl.exchange"
"""Key in the meta of a packed model: {"reference": `digest` of the model to which it is the difference}. The server
adds {"model": `digest` of the result}, and names no reference where the model is complete."""

LACKS_REFERENCE = "holds another model than that to which the difference was sent"
"""What a site reports as its problem that has missed a model or was restarted; it is sent the complete one."""

SUBMIT_MODEL_TASK = "submit_model"
"""Task in which a site sends its best local model; NVFlare's client API calls it so."""

VALIDATE_TASK = "validate"
"""Task in which a site only evaluates; NVFlare's client API calls it so."""

SITE_ERROR = "pneumonia-fl site error:"
"""Marks the one line in a site's log that says why it stopped."""

ABOUT_KEY = "pneumonia_fl"
"""Key in a job's custom properties: what the job says it is (see `fl/job/recipe.py`)."""

RESULT_KEY = "pneumonia_fl_result"
"""Key in a job's meta: how it ended, {"state", "reason", "missing", "why", "rounds", "done", "stopped_early",
"best_round", "best_auroc"}; "done" alone when its process ended without a word."""

ABORT_KEY = "pneumonia_fl_abort"
"""Key in a job's meta: who asked for its end, {"by"}; the server's own word (see `fl.parent.aborts`)."""

RUN_ERROR = "pneumonia-fl run error:"
"""Marks the one line in the simulator's output that says why a run could not start."""


def properties(meta: Mapping[str, Any]) -> dict[str, Any]:
    """Return the job's own configuration, version and sites; empty for a foreign job."""
    custom = meta.get("custom_props")
    ours = custom.get(ABOUT_KEY) if isinstance(custom, Mapping) else None
    return dict(ours) if isinstance(ours, Mapping) else {}


def without_paths(text: str) -> str:
    """Replace every file path in `text`: a site's folders are private."""
    return re.sub(r"(?:[A-Za-z]:)?[/\\][^\s'\",;:]+", "…", text)
