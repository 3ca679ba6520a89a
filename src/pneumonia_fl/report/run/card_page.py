"""The model card: the page under the headings of Mitchell et al. (2019), with metadata like a MONAI bundle's."""

import json
from collections.abc import Mapping
from typing import Any

from pneumonia_fl import INTENDED_USE
from pneumonia_fl.metrics.binary import NAMES
from pneumonia_fl.report.run.own_settings import own_settings
from pneumonia_fl.report.run_folder_reader import ComparisonFiles
from pneumonia_fl.report.view.rendering import Page, Values
from pneumonia_fl.runs.record import RunRecord, is_drawn

_PACKAGES = ("torch", "torchvision", "nvflare")


def run_card(run: RunRecord, page: Page) -> Values:
    """Return what the template needs for the card of a run."""
    details = {
        "Job": run.state.get("job"),
        "Network": (run.config.get("model") or {}).get("name"),
        "Went on from": (run.config.get("init_from") or {}).get("name"),
        "Algorithm": (run.config.get("algorithm") or {}).get("name"),
        **dict(own_settings(run)),
        "Round": run.best_round,
        "Seed": run.card.get("seed"),
        "Threshold on P(pneumonia)": run.card.get("threshold"),
        "Operating point": run.card.get("operating_point"),
        "Temperature": run.card.get("temperature"),
        "Offset": run.card.get("offset"),
        "pneumonia-fl": run.state.get("version"),
    }
    metadata = json.dumps(_metadata(run), indent=2, ensure_ascii=False) if run.card else ""
    return card(page, details, run.card, metadata)


def comparison_card(files: ComparisonFiles, page: Page) -> Values:
    """Return what the template needs for a comparison's model card, which describes several models."""
    summary = files.summary
    details = {
        "Models": ", ".join(str(arm.get("name")) for arm in summary.get("arms", [])),
        "Sites": ", ".join(map(str, summary.get("sites", []))),
        "Seeds": ", ".join(map(str, summary.get("seeds", []))),
        "Rounds": summary.get("rounds"),
    }
    return card(page, details, {})


def card(page: Page, details: Mapping[str, Any], model: Mapping[str, Any], metadata: str = "") -> Values:
    """Return what the template needs for any card; `model` is a saved model's own card, or empty."""
    return {
        "page": page,
        "details": {key: value for key, value in details.items() if value not in (None, "")},
        "model": {key: model.get(key) for key in ("intended_use", "limitations")},
        "intended_use": INTENDED_USE,
        "metrics": list(NAMES.values()),
        "metadata": metadata,
    }


def _metadata(run: RunRecord) -> Values:
    """Return the keys of MONAI's bundle metadata that apply here."""
    spec, software, data = run.card.get("preprocess") or {}, run.card.get("software") or {}, run.data
    side, classes = spec.get("size"), run.card.get("classes") or []
    pixels = {
        "type": "image",
        "format": "magnitude",
        "modality": "X-ray",
        "num_channels": 1,
        "spatial_shape": [side, side],
        "dtype": "uint8",
        "value_range": [0, 255],
        "is_patch_data": False,
        "channel_def": {"0": "gray"},
    }
    answer = {
        "type": "probabilities",
        "format": "classes",
        "num_channels": len(classes),
        "channel_def": {str(index): name for index, name in enumerate(classes)},
    }
    return {
        "version": str(run.state.get("version", "unknown")),
        "task": "Pneumonia or normal, from one chest X-ray",
        "description": f"{(run.card.get('model') or {}).get('name')}, trained by {len(run.sites)} sites (federated)",
        "pytorch_version": software.get("torch"),
        "required_packages_version": {name: software[name] for name in _PACKAGES if name in software},
        "data_source": data.get("source"),
        "data_type": "jpeg, png or dicom, decoded to gray",
        "copyright": f"data: {data.get('licence')}",
        "image_classes": "drawn picture of a chest X-ray"
        if is_drawn(data)
        else "frontal chest X-ray of a child",
        "label_classes": "0 NORMAL, 1 PNEUMONIA",
        "pred_classes": f"P(pneumonia); pneumonia from {run.card.get('threshold')}",
        "eval_metrics": {
            f"validation_{key}": value for key, value in (run.card.get("metrics") or {}).items()
        },
        "intended_use": run.card.get("intended_use"),
        "preprocess": spec,
        "network_data_format": {"inputs": {"image": pixels}, "outputs": {"pred": answer}},
    }
