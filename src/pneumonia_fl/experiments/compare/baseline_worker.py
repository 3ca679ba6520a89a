"""One baseline in a process of its own.

It writes a journal of its rounds and, last, the model with its card: a folder with a card is a training that is done.
"""

import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from pneumonia_fl.config.job import JobConfig
from pneumonia_fl.config.strict import parse
from pneumonia_fl.data.store import concatenate, open_site
from pneumonia_fl.errors import PneumoniaFLError
from pneumonia_fl.files import private_folder, write_atomic
from pneumonia_fl.models.card import model_card
from pneumonia_fl.models.checkpoint import DataSummary, save_model
from pneumonia_fl.runs.folder import RunFolder
from pneumonia_fl.runs.journal import Journal
from pneumonia_fl.training.baseline import train_baseline

SPEC, COST, ERROR = "spec.json", "cost.json", "error.txt"


@dataclass(frozen=True)
class Spec:
    """Task of one baseline process; paths are absolute."""

    arm: str
    job: dict[str, Any]
    data: str
    sites: list[str]
    summary: dict[str, Any]
    steps: int
    threads: int

    def write(self, folder: Path) -> None:
        """Write the task to the file that the worker reads."""
        private_folder(folder)
        write_atomic(folder / SPEC, json.dumps(asdict(self)).encode())


def main(folder: Path) -> None:
    """Train what `folder/spec.json` says, into that folder; a known error is left there as text."""
    try:
        _train(folder)
    except PneumoniaFLError as error:
        (folder / ERROR).write_text(str(error), encoding="utf-8")
        sys.exit(1)


def _train(folder: Path) -> None:
    spec = Spec(**json.loads((folder / SPEC).read_text(encoding="utf-8")))
    job = parse(JobConfig, spec.job, SPEC)
    torch.set_num_threads(spec.threads)
    sites = [open_site(Path(spec.data), site) for site in spec.sites]
    journal = Journal(folder)

    def on_round(number: int, auroc: float | None) -> None:
        journal.write("round", round=number, auroc=auroc)

    done = train_baseline(
        spec.arm,
        job.site_settings(),
        concatenate([site.split("train") for site in sites]),
        concatenate([site.split("val") for site in sites]),
        spec.steps,
        on_round,
    )
    cost = {"steps": done.steps, "seconds": round(done.seconds, 1), "bytes": 0}
    write_atomic(folder / COST, json.dumps(cost).encode())
    data = parse(DataSummary, spec.summary, SPEC)
    card = model_card(job.site_settings(), data, done.round, done.validation)
    save_model(RunFolder(folder).model, done.state, card)
