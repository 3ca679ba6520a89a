"""The raw record of a comparison, `comparison.json`: written after each training, read to resume."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from pneumonia_fl.data.manifest import TEST
from pneumonia_fl.data.store import SiteData
from pneumonia_fl.errors import OutputError
from pneumonia_fl.evaluation.comparison import RAW, VERSION
from pneumonia_fl.experiments.compare.compare_plan import ComparePlan
from pneumonia_fl.experiments.compare.scoring_tests import Scored
from pneumonia_fl.files import output_errors, private_folder, write_atomic

KEPT = ("results", "cross_site")


class Record:
    """`comparison.json` in memory and on disk."""

    def __init__(self, out: Path, values: dict[str, Any]) -> None:
        self.file, self.values = out / RAW, values

    @classmethod
    def begin(cls, out: Path, plan: ComparePlan) -> "Record":
        """Start a record in `out`, or resume the existing one; jobs or seeds may have been added.

        Raises:
            OutputError: `out` holds something else, or a comparison of other data, settings or another version.
        """
        fresh = cls(out, {**_describe(plan), "results": [], "cross_site": None})
        private_folder(out)
        with output_errors(out):
            if not fresh.file.exists() and any(out.iterdir()):
                raise OutputError(f"{out} holds other files; choose a new --out")
        if fresh.file.exists():
            earlier = json.loads(fresh.file.read_text(encoding="utf-8"))
            if earlier["version"] != VERSION:
                raise OutputError(f"{out} holds a comparison of another version; choose another --out")
            if earlier["settings"] != fresh.values["settings"]:
                raise OutputError(f"{out} holds a comparison of other data or settings; choose another --out")
            fresh.values |= {key: earlier[key] for key in KEPT}
        fresh.save()
        return fresh

    def has(self, arm: str, seed: int) -> bool:
        """Return True when this training is done."""
        return any(result["arm"] == arm and result["seed"] == seed for result in self.values["results"])

    def add(self, arm: str, seed: int, scored: Scored, cost: Mapping[str, Any]) -> None:
        """Record one training: scores of all test images in order, threshold and scaling, and its cost."""
        self.values["results"].append({"arm": arm, "seed": seed, **asdict(scored), **cost})
        self.save()

    def save(self) -> None:
        """Write it in one step."""
        write_atomic(self.file, json.dumps(self.values).encode())


def _describe(plan: ComparePlan) -> dict[str, Any]:
    info = plan.info
    return {
        "version": VERSION,
        "settings": plan.settings(),
        "data": info.model_dump(
            mode="json", include={"source", "licence", "credit", "manifest_sha256", "counts", "seed"}
        ),
        "partition": info.partition,
        "sites": list(info.sites),
        "seeds": list(plan.seeds),
        "rounds": plan.base.rounds,
        "jobs": {name: job.model_dump(mode="json", exclude_defaults=True) for name, job in plan.jobs.items()},
        "arms": [{"name": arm.name, "kind": arm.kind, "skipped": arm.skipped} for arm in plan.arms],
        "test": _test(plan.data),
    }


def _test(data: Path) -> dict[str, Any]:
    """Return labels, patients and sites of the test images in order; patients are anonymous numbers."""
    rows = SiteData.open(data / TEST).rows
    _, patients = np.unique([row.patient for row in rows], return_inverse=True)
    return {
        "labels": [row.label for row in rows],
        "patients": patients.tolist(),
        "sites": [row.site for row in rows],
    }
