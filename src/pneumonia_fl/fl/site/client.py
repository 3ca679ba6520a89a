"""A site's client: evaluate a model on the own validation split, train it, send it back with the counts.

This file only translates between NVFlare and the plain PyTorch of `training/local.py` and `evaluation/scoring.py`.
"""

import contextlib
import logging
import math
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import nvflare.client as flare
import torch
from torch import nn

from pneumonia_fl import __version__
from pneumonia_fl.config.environment import LIMITED, site_limits, site_threads, site_tracking
from pneumonia_fl.config.job import SiteSettings
from pneumonia_fl.config.strict import parse
from pneumonia_fl.data.store import open_site
from pneumonia_fl.evaluation.scoring import evaluate
from pneumonia_fl.fl.algorithms.registry import site_algorithm
from pneumonia_fl.fl.protocol.messages import (
    CROSS_SITE,
    FIRST_JOB,
    LACKS_REFERENCE,
    PASSED_ON,
    SETTLING,
    SITE_ERROR,
    SITE_REPORT,
    SITE_STEPS,
    without_paths,
)
from pneumonia_fl.fl.site.exchange import LacksReferenceError, site_exchange
from pneumonia_fl.fl.site.local_models import LocalModels, problem
from pneumonia_fl.fl.site.saved_model_scoring import SavedModels
from pneumonia_fl.fl.site.site_data import check_size, own_root
from pneumonia_fl.fl.site.site_tracking import SeriesWriter, series_writers
from pneumonia_fl.fl.state.site_state import SiteState
from pneumonia_fl.inputs.json_files import parse_json
from pneumonia_fl.metrics.binary import Metrics, ScoreHistogram, summarise
from pneumonia_fl.metrics.series import OWN, ROUND_TRAIN_LOSS, series
from pneumonia_fl.models.architectures import build_model
from pneumonia_fl.models.card import model_card
from pneumonia_fl.models.checkpoint import DataSummary, ModelCard, load_into
from pneumonia_fl.runs.journal import LOSS_POINTS
from pneumonia_fl.runs.provenance import code_origin
from pneumonia_fl.training.batch_norm import settled
from pneumonia_fl.training.local import OptimizerState, Penalty, RoundContext, TrainResult, train_epochs
from pneumonia_fl.training.shared_statistics import SharedStatistics

log = logging.getLogger("pneumonia_fl.site")

SHARED_FACTS = {"source", "licence", "credit", "manifest_sha256", "counts"}
"""What the server learns of a site's data set, for the model card: counts per class and split, no file or patient."""
OWN_LIMITS = "One site's own model, chosen and calibrated on that site's validation images: of little worth elsewhere. "


def main() -> None:
    """Run a site's part of one job, whose settings are the only argument, until the server ends it."""
    flare.init()
    session = TrainerSession(sys.argv[1], flare.get_site_name())
    with contextlib.closing(session):
        while flare.is_running():
            message = flare.receive()
            if message is None:
                break
            flare.send(session.answer(message))


class TrainerSession:
    """Answers every message of the server; with what went wrong when the site cannot do what it should.

    The next message is a new chance: data may be there by then, memory free again.

    Args:
        settings: `SiteSettings` as JSON.
        name: the site.
    """

    def __init__(self, settings: str, name: str) -> None:
        self._settings, self._name = settings, name
        self._site: Site | SavedModels | None = None

    def answer(self, message: flare.FLModel) -> flare.FLModel:
        """Return the site's result, or a report of the problem without a path in it."""
        try:
            self._site = self._site or self._made()
            return self._site.answer(message)
        except LacksReferenceError:
            log.info("this site %s; it asks for the complete model", LACKS_REFERENCE)
            return problem(LACKS_REFERENCE)
        except Exception as error:
            text = f"{type(error).__name__}: {error}"
            log.exception("%s %s", SITE_ERROR, text)
            return problem(without_paths(text))

    def _made(self) -> "Site | SavedModels":
        settings = job_settings(self._settings)
        return (Site if settings.evaluation is None else SavedModels)(settings, self._name)

    def close(self) -> None:
        """Close the session when the job is over."""
        for writer in self._site.writers if isinstance(self._site, Site) else ():
            writer.close()


def job_settings(text: str) -> SiteSettings:
    """Return the settings that came with the job; the one place at a site where they are checked."""
    return parse(SiteSettings, parse_json(text), "the job's settings")


class Site:
    """One hospital: its data, its copy of the model, and how many steps it has trained so far."""

    def __init__(self, job: SiteSettings, name: str) -> None:
        self.settings = settings = job.at(name, site_limits())
        self._capped = lowered(settings, job.at(name, {}))
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        torch.set_num_threads(site_threads(name) or torch.get_num_threads())
        data = open_site(own_root(), name)
        check_size(data.info, settings)
        self.name = name
        self.train_data, self.validation_data = data.split("train"), data.split("val")
        self.model = build_model(
            settings.model.name, norm=settings.model.norm, size=settings.preprocess.size
        ).to(self.device)
        self.algorithm = site_algorithm(settings.algorithm, name)
        self.exchange = site_exchange(settings.exchange, self.model)
        self.local_models = LocalModels(name, settings, self.validation_data, self.device)
        self.writers: list[SeriesWriter] = []
        self.total_steps = 0
        # In memory only: a site that was restarted begins with none, as in the first round.
        self._optimizer_states: dict[str, OptimizerState] = {}
        self._facts = data.info.model_dump(mode="json", include=SHARED_FACTS)
        log.info("pneumonia-fl %s, %s, at %s", __version__, code_origin(Path(__file__)), name)
        log.info("%d training images", len(self.train_data.labels))

    def answer(self, message: flare.FLModel) -> flare.FLModel:
        """Evaluate the received model and, in a training task, train it."""
        # Where another server than ours sends the model, the job's own id has to do.
        state = SiteState.of(self.name, message.meta.get(FIRST_JOB) or flare.get_job_id())
        self.writers = self.writers or series_writers(site_tracking(), self.settings.name, state)
        if flare.is_submit_model():
            return self.local_models.submit(state)
        if CROSS_SITE in message.meta:
            return self.local_models.evaluate(message)
        message = self.exchange.receive(message)
        if SETTLING in message.meta:
            return self._settle(message)
        self.algorithm.begin(self.model, message, state)
        # The server counts: a restarted site continues its steps.
        self.total_steps = message.meta.get(SITE_STEPS, {}).get(self.name, self.total_steps)
        histogram = evaluate(self.model, self.validation_data, self.settings.preprocess)
        metrics = summarise(histogram)
        self._publish(metrics, None if PASSED_ON in message.meta else message.current_round)
        own = self._judge_own_model(state, histogram, message.current_round)
        report: dict[str, Any] = {"histogram": histogram.to_dict(), "training": {}, "data": self._facts} | own
        report |= {"limits": self._capped} if self._capped else {}
        if not flare.is_train():
            return flare.FLModel(metrics=series(metrics), meta={SITE_REPORT: report})
        started = time.perf_counter()
        result, extra = self._train(message.current_round)
        report["training"] = {
            "train_loss": result.loss,
            "train_samples": result.samples,
            "steps": result.steps,
            "seconds": round(time.perf_counter() - started, 3),
        }
        self._write(ROUND_TRAIN_LOSS, result.loss, message.current_round)
        self.total_steps += result.steps
        trained = self.algorithm.own_model(self.model) or self.model
        self.local_models.note(trained, lambda scores: self._card(message.current_round + 1, scores), state)
        params, packing = self.exchange.answer(self.algorithm.shared(self.model))
        return flare.FLModel(
            params=params,
            metrics=series(metrics),
            meta={**extra, **packing, "NUM_STEPS_CURRENT_ROUND": result.samples, SITE_REPORT: report},
        )

    def _settle(self, message: flare.FLModel) -> flare.FLModel:
        """Answer with batch norm's statistics of the averaged model on the own training images."""
        load_into(self.model, message.params)
        return flare.FLModel(params=settled(self.model, self.train_data.images, self.settings.preprocess))

    def _train(self, number: int) -> tuple[TrainResult, dict[str, Any]]:
        """Train the global model as the algorithm says; returns also what else travels back."""
        algorithm, model = self.algorithm, self.model
        context = RoundContext(self.name, number, self.settings.rounds)
        result = self._fit(
            model,
            context,
            algorithm.penalty(model),
            algorithm.after_step(model),
            algorithm.shared_statistics(),
        )
        # A stream of its own: the global model must not depend on what else the site trains.
        own_context = replace(context, site=f"{self.name}/own")
        return result, algorithm.end(model, result, lambda own, penalty: self._fit(own, own_context, penalty))

    def _fit(
        self,
        model: nn.Module,
        context: RoundContext,
        penalty: Penalty | None,
        after_step: Callable[[float], None] | None = None,
        shared: SharedStatistics | None = None,
    ) -> TrainResult:
        tag = "train_loss" if model is self.model else f"{OWN}train_loss"
        return train_epochs(
            model,
            self.train_data,
            self.settings,
            context=context,
            optimizer_state=self._optimizer_states.setdefault(tag, {}),
            shared=shared,
            penalty=penalty,
            after_step=after_step,
            on_step=lambda step, loss: self._publish_loss(tag, step, loss),
        )

    def _judge_own_model(
        self, state: SiteState, histogram: ScoreHistogram, number: int | None
    ) -> dict[str, Any]:
        """Evaluate the site's own model, where there is one, and keep the best; returns its part of the report.

        `histogram` is that of the model of the federation, which may be the site's own as well.
        """
        own = self.algorithm.own_model(self.model)
        if own is None or number is None:
            return {}
        report = {}
        if own is not self.model:
            histogram = evaluate(own, self.validation_data, self.settings.preprocess)
            report = {"personal": asdict(summarise(histogram))}
            self._publish(summarise(histogram), number, OWN)
        if number:
            state.keep_if_better(own, self._card(number, histogram))
        return report

    def _card(self, number: int, histogram: ScoreHistogram) -> ModelCard:
        """Create the card of the site's own model after `number` rounds."""
        card = model_card(self.settings, parse(DataSummary, self._facts, "the data"), number, histogram)
        return card.model_copy(update={"limitations": OWN_LIMITS + card.limitations})

    def _publish(self, metrics: Metrics, number: int | None, prefix: str = "") -> None:
        if number is not None:
            for tag, value in series(metrics).items():
                self._write(prefix + tag, value, number)

    def _publish_loss(self, tag: str, step: int, loss: float) -> None:
        """Log about `LOSS_POINTS` losses per round; every point is a message to the server."""
        train = self.settings.train
        steps = train.local_epochs * math.ceil(len(self.train_data) / train.batch_size)
        if step * LOSS_POINTS // steps > (step - 1) * LOSS_POINTS // steps:
            self._write(tag, loss, self.total_steps + step)

    def _write(self, tag: str, value: float, step: int) -> None:
        for writer in self.writers:
            writer.add_scalar(tag, value, step)


def lowered(used: SiteSettings, wanted: SiteSettings) -> dict[str, int]:
    """Return the settings that a site has lowered below the job's; log them."""
    train = used.train.model_dump(include=set(LIMITED))
    capped = {key: value for key, value in train.items() if value != getattr(wanted.train, key)}
    for key, value in capped.items():
        log.info("this site's own limit: %s %d in place of %d", key, value, getattr(wanted.train, key))
    return capped


if __name__ == "__main__":
    # A process of its own; its job process puts what it prints into the site's log.
    logging.basicConfig(level=logging.INFO, format="%(name)s - %(levelname)s - %(message)s")
    main()
