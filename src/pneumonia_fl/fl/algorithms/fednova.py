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
from functools import partial
from typing import Any

import numpy as np
import torch
from nvflare.apis.fl_constant import FLMetaKey
from nvflare.app_common.abstract.fl_model import FLModel
from torch import nn

from pneumonia_fl.config.algorithm import Algorithm
from pneumonia_fl.fl.algorithms.exact_sum import ExactSum, Floats
from pneumonia_fl.fl.algorithms.server_base import Parameters, ServerAlgorithm
from pneumonia_fl.fl.algorithms.site_base import Fit, SiteAlgorithm
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
FINER = 2.0**13
"""Added to a float64 and taken away again, a number times this rounds it to 2^-16 of the number's last float32 bit."""


@dataclass(frozen=True)
class _Counts:
    """What one site's result counts; `images` are those of its data set, times the job's factor for it."""

    images: float
    steps: int
    classes: tuple[int, int]


class ServerFedNova(ServerAlgorithm):
    """Adds up the local updates, each divided by its steps; hands out mean second moments and all class counts.

    Divided updates are rounded, far below the last bit of the model: the exact sum of quotients would need twice the
    memory (`exact_sum.py`).
    """

    answer_copies = 2

    def __init__(self, settings: Algorithm, trainable: Set[str]) -> None:
        self._trainable = trainable
        self._class_counts: dict[str, tuple[int, int]] = {}
        self._second_moments: Parameters = {}
        self.begin_round({})

    def outgoing(self, number: int, sites: int) -> dict[str, Any]:
        """Return all sites' class counts and mean second moments, once there are any."""
        return {
            CLASS_COUNTS: [sum(counts) for counts in zip(*self._class_counts.values(), strict=True)],
            SECOND_MOMENTS: self._second_moments,
        }

    def begin_round(self, model: Parameters) -> None:
        """Begin with no update, from `model`."""
        self._start, self._counts = model, dict[str, _Counts]()
        self._updates, self._moments = ExactSum(), ExactSum()

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
        """Add the update and the second moments to those of this round."""
        meta = result.meta
        images, (normal, pneumonia) = float(meta[FLMetaKey.NUM_STEPS_CURRENT_ROUND]), meta[CLASS_COUNTS]
        counts = _Counts(images, meta[STEPS], (normal, pneumonia))
        if sent := meta[SECOND_MOMENTS]:
            self._moments.add(in_kind(sent, {name: result.params[name] for name in sent}), images)
        if not self._class_counts and all(counts.classes) and not self._any_has_both():
            self._updates = ExactSum()  # those of sites with one class do not count beside this one
        if self._class_counts or all(counts.classes) or not self._any_has_both():
            trained = {name: result.params[name] for name in self._trainable}
            self._updates.add(trained, images, partial(self._per_step, counts.steps))
        self._counts[site] = counts

    def averaged(self, params: Parameters) -> Parameters:
        """Return the buffers."""
        return {name: value for name, value in params.items() if name not in self._trainable}

    def update(self, previous: Parameters, average: Parameters) -> Parameters:
        """Move the trainable parameters by the normalised updates; the others take the average."""
        in_order = [self._counts[site] for site in sorted(self._counts)]
        factor = update_factor([(counts.images, counts.steps) for counts in in_order])
        self._class_counts |= {site: counts.classes for site, counts in self._counts.items()}
        self._second_moments = self._moments.mean()
        moved = self._updates.added_to(previous, factor)
        return {name: moved[name] if name in moved else average[name] for name in previous}

    def _any_has_both(self) -> bool:
        return any(all(counts.classes) for counts in self._counts.values())

    def _per_step(self, steps: int, name: str, at: slice, trained: Floats) -> Floats:
        """Return the update divided by its steps."""
        start = np.reshape(self._start[name], -1)[at].astype(np.float64)
        grid = FINER * np.maximum(np.abs(start), np.abs(trained))
        return np.asarray(((trained - start) / steps + grid) - grid)

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


def update_factor(sites: Sequence[tuple[float, int]]) -> float:
    """Compute tau_eff / n from the sites' images and steps, n being all images.

    Multiplied with the sum of n_i (x_i - x) / tau_i it gives what is added to x.
    """
    images = sum(count for count, _ in sites)
    effective = sum(count / images * steps for count, steps in sites)
    return effective / images


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_COUNT
