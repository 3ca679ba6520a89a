"""The model card: the page under the headings of Mitchell et al. (2019), with metadata like a MONAI bundle's."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from pneumonia_fl import INTENDED_USE
from pneumonia_fl.metrics.binary import NAMES
from pneumonia_fl.report.run_folder_reader import RunFiles, is_drawn
from pneumonia_fl.report.view.blocks import Cell, Facts, Notes, Page, Section, Table, Voices, flattened

Values = dict[str, Any]
_QUANTITIES = ("performance", "results", "differences", "sites", "cross-site")
_PACKAGES = ("torch", "torchvision", "nvflare")


def run_card(run: RunFiles, page: Page) -> Values:
    """What the template needs for the card of a run."""
    details = {
        "Job": run.state.get("job"),
        "Network": (run.config.get("model") or {}).get("name"),
        "Went on from": (run.config.get("init_from") or {}).get("name"),
        "Algorithm": (run.config.get("algorithm") or {}).get("name"),
        **{f"At {site} only": words for site, words in run.own_settings()},
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


def card(page: Page, details: Mapping[str, Any], model: Mapping[str, Any], metadata: str = "") -> Values:
    """What the template needs for any card; `model` is a saved model's own card, or empty."""
    sections = {section.key: section for section in page.sections}
    quantities = [sections[key] for key in _QUANTITIES if key in sections]
    return {
        "title": page.title,
        "state": page.state,
        "details": {key: value for key, value in details.items() if value not in (None, "")},
        "intended_use": model.get("intended_use") or INTENDED_USE,
        "limitations": model.get("limitations") or "",
        "metrics": list(NAMES.values()),
        "said": [
            line
            for voice in _of(sections.get("summary"), Voices)
            for _, lines in voice.items
            for line in lines
        ],
        "training": [fact for facts in _of(sections.get("data"), Facts) for fact in facts.items],
        "training_tables": _tables(sections.get("data")),
        "factors": _tables(sections.get("subtypes")),
        "quantities": [(section.title, _tables(section)) for section in quantities],
        "warnings": [
            line
            for key in ("summary", "warnings")
            for notes in _of(sections.get(key), Notes)
            for _, line in notes.items
        ],
        "metadata": metadata,
    }


def _of(section: Section | None, kind: type) -> list[Any]:
    return [block for block in flattened(section.blocks if section else ()) if isinstance(block, kind)]


def _tables(section: Section | None) -> list[Values]:
    """Tables as plain words."""
    return [
        {
            "caption": table.caption,
            "head": table.head,
            "rows": [[cell.text if isinstance(cell, Cell) else cell for cell in row] for row in table.rows],
        }
        for table in _flat(section)
    ]


def _flat(section: Section | None) -> Iterator[Table]:
    return (block for block in flattened(section.blocks if section else ()) if isinstance(block, Table))


def _metadata(run: RunFiles) -> Values:
    """The keys of MONAI's bundle metadata, as far as they mean something here."""
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
