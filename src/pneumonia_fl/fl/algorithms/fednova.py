"""FedNova: sites with few images count by their images, however few steps they make.

FedAvg weights a site by its images, and a site with more images makes more steps as well: its share of the step grows
with the square of its images. Wang et al. 2020 (arXiv:2007.07481, equation 8) divide by the steps first:
x = x + tau_eff sum p_i (x_i - x) / tau_i, with p_i the share of the images, tau_i the steps and
tau_eff = sum p_i tau_i. What is no trainable parameter takes the plain average.

The paper's sites use SGD; ours use AdamW, each of whose steps has the same length, whether or not there is something
to learn. Divided by its few steps, a small site with one class only would ruin the model. So, beyond the paper, sites
share what central training shares, from the second round on: AdamW's second moments, the class weights of the loss,
and at a site with one class the statistics of batch normalisation (`SharedStatistics`). In the first round, in which
none of it is known, such a site's update does not count while others have both classes.
"""

from collections.abc import Sequence, Set
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from nvflare.apis.fl_constant import FLMetaKey
from nvflare.app_common.abstract.fl_model import FLModel
from torch import nn

from pneumonia_fl.config.algorithm import Algorithm
from pneumonia_fl.fl.algorithms.server_base import Parameters, ServerAlgorithm
from pneumonia_fl.fl.algorithms.site_base import Fit, SiteAlgorithm
from pneumonia_fl.fl.algorithms.weighted_average import weighted_average
from pneumonia_fl.fl.protocol.site_report import SiteReport, Training
from pneumonia_fl.fl.protocol.update_checks import arrays_problem, in_kind
from pneumonia_fl.fl.state.site_state import SiteState
from pneumonia_fl.training.local import TrainResult
from pneumonia_fl.training.shared_statistics import SharedStatistics

CLASS_COUNTS = "pneumonia_fl.fednova_classes"
"""Key in the meta: training images of both classes, of a site or of all that have answered so far."""
SECOND_MOMENTS = "pneumonia_fl.fednova_squares"
"""Key in the meta: AdamW's second moments by parameter, of a site or their mean."""
STEPS = "pneumonia_fl.fednova_steps"
"""Key in a site's meta: optimiser steps in this round."""
MAX_COUNT = 10_000_000


@dataclass(frozen=True)
class _Answer:
    """Valid part of one site's result; `images` are those of its data set, times the job's factor for it."""

    params: Parameters
    images: float
    steps: int
    class_counts: tuple[int, int]
    second_moments: Parameters


class ServerFedNova(ServerAlgorithm):
    """Adds up the local updates, each divided by its steps; hands out mean second moments and all class counts."""

    answer_copies = 2

    def __init__(self, settings: Algorithm, trainable: Set[str]) -> None:
        self._trainable = trainable
        self._class_counts: dict[str, tuple[int, int]] = {}
        self._second_moments: Parameters = {}
        self._answers: dict[str, _Answer] = {}

    def outgoing(self, number: int, sites: int) -> dict[str, Any]:
        """Return all sites' class counts and mean second moments, once there are any."""
        self._answers = {}
        return {
            CLASS_COUNTS: [sum(counts) for counts in zip(*self._class_counts.values(), strict=True)],
            SECOND_MOMENTS: self._second_moments,
        }

    def problem_of(self, site: str, result: FLModel) -> str:
        """Check steps and counts for sensible numbers, and second moments for the trainable parameters."""
        steps, counts, moments = (result.meta.get(key) for key in (STEPS, CLASS_COUNTS, SECOND_MOMENTS))
        if not _is_count(steps) or not steps:
            return "its number of steps is out of range"
        if not isinstance(counts, list) or len(counts) != 2 or not all(map(_is_count, counts)):
            return "its class counts are invalid"
        if not isinstance(moments, dict):
            return "its second moments are missing"
        if not moments:
            return ""
        problem = arrays_problem(moments, {name: result.params[name] for name in self._trainable})
        if not problem and any((value < 0).any() for value in moments.values()):
            problem = "some are negative"
        return f"its second moments: {problem}" if problem else ""

    def contradiction(self, site: str, result: FLModel, report: SiteReport, training: Training) -> str:
        """Compare steps and class counts with those of the report."""
        if result.meta[STEPS] != training.steps:
            return "its two counts of steps differ"
        said = report.data.counts[site].get("train", {}) if report.data else {}
        if result.meta[CLASS_COUNTS] != [said.get("NORMAL", 0), said.get("PNEUMONIA", 0)]:
            return "its class counts are not those of its data set"
        return super().contradiction(site, result, report, training)

    def accept(self, site: str, result: FLModel) -> None:
        """Store the result until the round is closed."""
        meta = result.meta
        images, (normal, pneumonia) = float(meta[FLMetaKey.NUM_STEPS_CURRENT_ROUND]), meta[CLASS_COUNTS]
        sent = meta[SECOND_MOMENTS]
        moments = in_kind(sent, {name: result.params[name] for name in sent})
        self._answers[site] = _Answer(result.params, images, meta[STEPS], (normal, pneumonia), moments)

    def update(self, previous: Parameters, average: Parameters) -> Parameters:
        """Average normalised updates, in the order of site names so that a run can be repeated."""
        by_site = self._answers.copy()  # another may come in while the round is closed
        answers = [by_site[site] for site in sorted(by_site)]
        factors = normalised([(answer.images, answer.steps) for answer in answers])
        if not self._class_counts and any(all(answer.class_counts) for answer in answers):
            pairs = zip(factors, answers, strict=True)
            factors = [factor if all(answer.class_counts) else 0.0 for factor, answer in pairs]
        self._class_counts |= {site: answer.class_counts for site, answer in by_site.items()}
        moments = {
            site: (one.images, one.second_moments) for site, one in by_site.items() if one.second_moments
        }
        self._second_moments = weighted_average(moments) if moments else {}
        updates = list(zip(factors, answers, strict=True))
        return average | {
            name: _moved(previous[name], [(factor, answer.params[name]) for factor, answer in updates])
            for name in self._trainable
        }

    def state(self) -> Parameters:
        """Return class counts by site and mean second moments."""
        counts = {f"classes/{site}": np.asarray(value) for site, value in self._class_counts.items()}
        return counts | {f"squares/{name}": value for name, value in self._second_moments.items()}

    def restore(self, state: Parameters) -> None:
        """Restore class counts and second moments."""
        parts = {tuple(key.split("/", 1)): value for key, value in state.items()}
        self._second_moments = {name: value for (kind, name), value in parts.items() if kind == "squares"}
        self._class_counts = {
            site: (int(value[0]), int(value[1])) for (kind, site), value in parts.items() if kind == "classes"
        }


class FedNova(SiteAlgorithm):
    """Trains with what the server has of all sites, and answers with what the server needs of this one."""

    def begin(self, model: nn.Module, message: FLModel, state: SiteState) -> None:
        """Read counts and second moments from the server's message."""
        super().begin(model, message, state)
        counts, moments = message.meta[CLASS_COUNTS], message.meta[SECOND_MOMENTS]
        tensors = {name: torch.as_tensor(value) for name, value in moments.items()}
        self._shared = SharedStatistics(counts, tensors) if counts else None

    def shared_statistics(self) -> SharedStatistics | None:
        """Return the cross-site statistics; None in the first round."""
        return self._shared

    def end(self, model: nn.Module, result: TrainResult, fit: Fit) -> dict[str, Any]:
        """Return steps, class counts and second moments of this site."""
        moments = {name: value.cpu().numpy() for name, value in result.second_moments.items()}
        return {STEPS: result.steps, CLASS_COUNTS: list(result.class_counts), SECOND_MOMENTS: moments}


def normalised(sites: Sequence[tuple[float, int]]) -> list[float]:
    """Compute the factors tau_eff p_i / tau_i of each site's local updates, from its images and steps."""
    images = sum(count for count, _ in sites)
    effective = sum(count / images * steps for count, steps in sites)
    return [effective * count / images / steps for count, steps in sites]


def _moved(start: Any, updates: list[tuple[float, Any]]) -> Any:
    origin = np.asarray(start, np.float64)
    moved = origin + sum(factor * (end - origin) for factor, end in updates)
    return np.asarray(moved, np.asarray(start).dtype)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_COUNT
