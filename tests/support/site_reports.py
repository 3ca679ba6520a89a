"""An answer of a site as ours sends it, for tests that change one thing in it."""

from typing import Any

import numpy as np
from nvflare.app_common.abstract.fl_model import FLModel

from pneumonia_fl.fl.protocol.messages import SITE_REPORT
from pneumonia_fl.metrics.binary import ScoreHistogram, exact_metrics

HISTOGRAM = ScoreHistogram.from_scores(np.array([-1.0, 2.0]), np.array([0, 1])).to_dict()
TRAINING = {"train_loss": 0.5, "train_samples": 9, "steps": 3, "seconds": 0.1}


def data(site: str = "a") -> dict[str, Any]:
    """Facts of a data set with 9 training and 2 validation images."""
    counts = {"train": {"NORMAL": 4, "PNEUMONIA": 5}, "val": {"NORMAL": 1, "PNEUMONIA": 1}}
    texts = {"source": "synthetic", "licence": "none", "credit": "nobody"}
    return {**texts, "manifest_sha256": "0" * 64, "counts": {site: counts}}


def personal() -> dict[str, Any]:
    metrics = exact_metrics(np.array([-1.0, 2.0]), np.array([0, 1]))
    return {name: getattr(metrics, name) for name in metrics.__slots__}


def report(site: str = "a", task: str = "train", **changes: Any) -> dict[str, Any]:
    training = TRAINING if task == "train" else {}
    return {"histogram": HISTOGRAM, "training": training, "data": data(site), **changes}


def answer(site: str = "a", said: Any = None, **meta: Any) -> FLModel:
    """A training answer of one weight."""
    said = report(site) if said is None else said
    return FLModel(
        params_type="FULL",
        params={"weight": np.float64(2.0)},
        meta={"client_name": site, "NUM_STEPS_CURRENT_ROUND": 9, SITE_REPORT: said, **meta},
    )
