"""The metrics as series of numbers by round: their tags in TensorBoard and MLflow."""

from pneumonia_fl.metrics import NAMES, Metrics


def series(metrics: Metrics) -> dict[str, float]:
    """Validation metrics as tags and values for TensorBoard and MLflow.

    Counts are no series, and a metric that one class alone cannot have is left out.
    """
    values = {name: getattr(metrics, name) for name in NAMES}
    return {tag_of(name): float(value) for name, value in values.items() if value is not None}


def tag_of(metric: str) -> str:
    """Return the tag of a metric's series."""
    return "validation_auc" if metric == "auroc" else f"validation_{metric}"
