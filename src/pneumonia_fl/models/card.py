"""Describe a trained model in a `ModelCard`: for the server's models, a site's own and a baseline's alike."""

from dataclasses import asdict
from importlib.metadata import version
from typing import Any

from pneumonia_fl.config.job import SiteSettings
from pneumonia_fl.metrics.binary import ScoreHistogram, summarise
from pneumonia_fl.metrics.calibration import calibrate
from pneumonia_fl.models.checkpoint import LIMITATIONS, DataSummary, ModelCard

SYNTHETIC_LIMITATIONS = (
    "Trained on drawn images: it shows that the software works and knows nothing of real X-rays."
)
NOT_EVALUATED = (
    "Not evaluated: the job ended before its sites had judged this model, so nothing is known of its quality."
)
NOT_CHOSEN = "not evaluated: threshold and temperature were not chosen"


def model_card(
    settings: SiteSettings, data: DataSummary, number: int, pooled: ScoreHistogram | None
) -> ModelCard:
    """Describe a model, calibrated on the (pooled) validation data of its round; None: it was not evaluated."""
    limitations = SYNTHETIC_LIMITATIONS if data.source == "synthetic" else LIMITATIONS
    return ModelCard(
        job=settings.name,
        round=number,
        seed=settings.train.seed,
        model=settings.model,
        preprocess=settings.preprocess,
        **(_measured(pooled, settings) if pooled else {"operating_point": NOT_CHOSEN}),
        data=data,
        limitations=limitations if pooled else f"{NOT_EVALUATED} {limitations}",
        software={name: version(name) for name in ("nvflare", "torch", "torchvision", "pneumonia-fl")},
    )


def _measured(pooled: ScoreHistogram, settings: SiteSettings) -> dict[str, Any]:
    """Return the card's values that are measured on the validation data."""
    fitted = calibrate(pooled, settings.operating_point)
    return {
        **asdict(fitted.scaling),
        "threshold": fitted.threshold,
        "operating_point": fitted.operating_point,
        "metrics": asdict(summarise(pooled, fitted.threshold, fitted.scaling)),
    }
