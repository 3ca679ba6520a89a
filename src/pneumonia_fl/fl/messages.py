"""The words that server and sites share beyond NVFlare's own."""

SITE_REPORT = "pneumonia_fl.site_report"
"""Key in `FLModel.meta`: {"histogram": ScoreHistogram.to_dict(), "training": {…numbers…}}."""

VALIDATE_TASK = "validate"
"""Task in which a site only evaluates; NVFlare's client API calls it so."""

SITE_ERROR = "pneumonia-fl site error:"
"""Marks the one line in a site's log that says why it stopped."""


def metric_tag(metric: str) -> str:
    """The name of a validation metric's series in TensorBoard and MLflow."""
    return "validation_auc" if metric == "auroc" else f"validation_{metric}"
