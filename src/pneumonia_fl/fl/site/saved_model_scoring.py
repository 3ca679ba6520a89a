"""A site in a job that only evaluates saved models: it scores one split of its own, and tells counts.

Only models whose hash stands in the job are scored: what the audit log names is what has been evaluated here.
"""

import hashlib
import json
import logging
import time
from pathlib import Path
from typing import Any

import torch
from nvflare.app_common.abstract.fl_model import FLModel

from pneumonia_fl.config.environment import joins_evaluations, site_state, site_threads
from pneumonia_fl.config.job import SiteSettings
from pneumonia_fl.data.store import ImageSet, open_split
from pneumonia_fl.errors import CheckpointError
from pneumonia_fl.evaluation.patient_pooling import Sampled
from pneumonia_fl.evaluation.scoring import margins
from pneumonia_fl.files import private, private_folder
from pneumonia_fl.fl.protocol.carried_models import hash_of, pack
from pneumonia_fl.fl.protocol.messages import CROSS_SITE, OPTED_OUT, REPLICATES, SITE_REPORT
from pneumonia_fl.fl.site.local_models import problem
from pneumonia_fl.fl.site.site_data import check_size, own_root
from pneumonia_fl.metrics.binary import ScoreHistogram, summarise
from pneumonia_fl.metrics.series import series
from pneumonia_fl.models.architectures import build_model
from pneumonia_fl.models.checkpoint import load_into

READINGS = "readings.jsonl"
"""Beside what the site keeps of its jobs: one line for each time that a split was read."""

log = logging.getLogger("pneumonia_fl.site")


class SavedModels:
    """One hospital that evaluates.

    Args:
        settings: those of the job, with `evaluation`.
        name: the site.
    """

    def __init__(self, settings: SiteSettings, name: str) -> None:
        assert settings.evaluation is not None
        self._settings, self._name, self._wanted = settings, name, settings.evaluation
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        torch.set_num_threads(site_threads(name) or torch.get_num_threads())

    def answer(self, message: FLModel) -> FLModel:
        """Evaluate the received model.

        Raises:
            CheckpointError: it is not the one that the job names.
            DataError: there are no such images here.
        """
        if not joins_evaluations(self._name):
            return problem(OPTED_OUT)
        which = str(message.meta[CROSS_SITE])
        model = self._model(message, which)
        info, data = open_split(own_root(), self._name, self._wanted.split)
        check_size(info, self._settings)
        scores = margins(model, data.images, self._settings.preprocess)
        histogram = ScoreHistogram.from_scores(scores, data.labels)
        report: dict[str, Any] = {"histogram": histogram.to_dict(), "readings": self._note(which, len(data))}
        params = None
        if self._wanted.intervals:
            sampled = Sampled.draw(scores, data, _secret(data) + self._wanted.models[which].encode())
            report["sample"] = {
                "patients": list(sampled.patients),
                "starts": [list(row) for row in sampled.starts],
            }
            params = {REPLICATES: torch.from_numpy(sampled.replicates)}
        return FLModel(params=params, metrics=series(summarise(histogram)), meta={SITE_REPORT: report})

    def _model(self, message: FLModel, which: str) -> torch.nn.Module:
        settings = self._settings
        model = build_model(settings.model.name, norm=settings.model.norm, size=settings.preprocess.size)
        load_into(model, message.params or {}, f"the model {which!r}")
        if hash_of(pack(model.state_dict())) != self._wanted.models.get(which):
            raise CheckpointError(f"the model {which!r} that came is not the one that the job names")
        return model.to(self._device)

    def _note(self, which: str, images: int) -> int:
        """Write down that the split is read; returns how often it has been, this time included."""
        split, digest = self._wanted.split, self._wanted.models[which]
        file = _readings(self._name)
        private_folder(file.parent)
        earlier = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
        times: int = 1 + sum(json.loads(line)["split"] == split for line in earlier)
        line = {"time": round(time.time(), 3), "split": split, "model": digest, "images": images}
        with open(file, "a", encoding="utf-8", opener=private) as lines:
            lines.write(json.dumps(line) + "\n")
        log.info("evaluation of model %s on split %s: reading %d of this split", digest, split, times)
        return times


def _readings(site: str) -> Path:
    folder = site_state(site, READINGS)
    assert folder is not None, "a site's executor, and the simulator, say where the site keeps things"
    return folder if folder.name == READINGS else folder / READINGS


def _secret(data: ImageSet) -> bytes:
    """Derive a secret that only the site knows, from its images."""
    digest = hashlib.sha256()
    for image in data.images:
        digest.update(image.tobytes())
    return digest.digest()
