"""Names of the series in TensorBoard and MLflow: one for the same thing at every site and of the global model.

With `tracking_aliases: true` each series is also written under its earlier names, so that charts of older runs go on.
"""

from pneumonia_fl.runs.folder import GLOBAL

ROUND_TRAIN_LOSS = "round_train_loss"
"""Mean training loss of a round; `train_loss` is that of single steps."""
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
