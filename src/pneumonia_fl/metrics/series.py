"""Names of the series in TensorBoard and MLflow: one for the same thing at every site and of the global model.

With `tracking_aliases: true` each series is also written under its earlier names, so that old charts continue.
"""

from pneumonia_fl.metrics.binary import NAMES, Metrics
from pneumonia_fl.runs.folder import GLOBAL

ROUND_TRAIN_LOSS = "round_train_loss"
"""Mean training loss of a round; `train_loss` is that of single steps."""
OWN = "personal_"
"""Before the names of the series of a site's own model."""
ALIVE = "alive"
"""No series: the tag of a point by which a site that keeps its series at home says that it is at work."""
CROSS_SITE_PREFIX = "cross_site/"
"""Before one number of the cross-site matrix: a value for MLflow's tables, and no curve for TensorBoard."""
CROSS_SITE_TABLE = "cross_site"
"""The whole matrix as a table in Markdown, for TensorBoard's text tab."""

ALIASES = {
    "train_loss": ("Train Loss", "training_loss"),
    "validation_loss": ("val_loss", "Validation Loss"),
    "validation_accuracy": ("val_acc", "val_accuracy", "Validation Accuracy"),
    "validation_auc": ("val_auc", "Validation AUC"),
}
"""Names under which NVFlare's examples and earlier trainers wrote the same series."""
SITE_ALIASES = {"validation_accuracy": ("local_accuracy",)}
"""Names that only a site's series had."""
GLOBAL_ALIASES = {"validation_accuracy": ("global_accuracy",), ROUND_TRAIN_LOSS: ("global/train_loss",)}
"""Names that only the global model's series had, beside `global/<series>`."""


def aliases(tag: str, origin: str) -> tuple[str, ...]:
    """Return the earlier names of a series of a site or of `global`."""
    common = ALIASES.get(tag, ())
    if origin != GLOBAL:
        return (*common, *SITE_ALIASES.get(tag, ()))
    ours = (f"{GLOBAL}/{tag}",) if tag.startswith("validation_") else ()
    return (*common, *GLOBAL_ALIASES.get(tag, ()), *ours)


def series(metrics: Metrics) -> dict[str, float]:
    """Return validation metrics as tags and values for TensorBoard and MLflow.

    Counts are no series, and a metric that one class alone cannot have is left out.
    """
    values = {name: getattr(metrics, name) for name in NAMES}
    return {_tag(name): float(value) for name, value in values.items() if value is not None}


def is_site_tag(tag: object) -> bool:
    """Return True when a site may publish a series of this name."""
    known = {"train_loss", ROUND_TRAIN_LOSS, *map(_tag, NAMES)}
    return isinstance(tag, str) and tag.removeprefix(OWN) in known


def _tag(metric: str) -> str:
    return "validation_auc" if metric == "auroc" else f"validation_{metric}"
