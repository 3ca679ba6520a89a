"""SCAFFOLD: control variates against the drift of sites with different data.

Karimireddy et al. 2020 (arXiv:1910.06378), algorithm 1 with option II. A site's step is y = y - lr (g - c_i + c);
after its training c_i becomes c_i - c + (x - y) / (sum of the learning rates), and the server's c grows by the sum of
the changes over the number of all sites. So c is the mean of all c_i after every round, also of those that missed it;
a site that never answered has c_i = 0. Option II needs steps along plain gradients; clipped ones are, and so is the
L2 term of SGD.

A change that the server did not count (late, refused, a crash on the way) must not count at the site either. So a site
keeps its c_i under the number of the round, and the server says for each site which round counted last. Where a site
has lost that c_i, its share of c is lost: it trains one round without correction and says so, and then
all begin with zero again.
"""

import copy
import logging
from collections.abc import Callable, Set
from typing import Any

import numpy as np
from nvflare.app_common.abstract.fl_model import FLModel
from nvflare.app_common.app_constant import AlgorithmConstants
from nvflare.app_opt.pt.scaffold import PTScaffoldHelper
from torch import nn

from pneumonia_fl.config.algorithm import Algorithm
from pneumonia_fl.fl.algorithms.exact_sum import ExactSum
from pneumonia_fl.fl.algorithms.server_base import Parameters, ServerAlgorithm
from pneumonia_fl.fl.algorithms.site_base import Fit, SiteAlgorithm
from pneumonia_fl.fl.protocol.update_checks import arrays_problem
from pneumonia_fl.fl.state.site_state import SiteState
from pneumonia_fl.training.local import TrainResult

GLOBAL: str = AlgorithmConstants.SCAFFOLD_CTRL_GLOBAL
CHANGE: str = AlgorithmConstants.SCAFFOLD_CTRL_DIFF
COUNTED = "pneumonia_fl.scaffold_counted"
"""Key in the server's meta: for each site the round whose change counted last."""
LOST = "pneumonia_fl.scaffold_lost"
"""Key in a site's meta: whether it has lost its control variate."""

log = logging.getLogger("pneumonia_fl.site")


class ServerScaffold(ServerAlgorithm):
    """Adds up the sites' changes; the parameters take the plain average (global step size 1)."""

    answer_copies = 2

    def __init__(self, settings: Algorithm, trainable: Set[str]) -> None:
        self._trainable = trainable
        self._sum: Parameters = {}
        self._counted: dict[str, int] = {}
        self._changes, self._answered, self._lost = ExactSum(), set[str](), False
        self._round = 0

    def outgoing(self, number: int, sites: int) -> dict[str, Any]:
        """Return the global control variate c, and the rounds in which each site's change counted."""
        self._round = number
        control = {name: np.asarray(value / sites, np.float32) for name, value in self._sum.items()}
        return {GLOBAL: control, COUNTED: dict(self._counted)}

    def begin_round(self, model: Parameters) -> None:
        """Forget the changes of the last round."""
        self._changes, self._answered, self._lost = ExactSum(), set(), False

    def problem_of(self, site: str, result: FLModel) -> str:
        """Require the names and shapes of the trainable parameters, and finite numbers."""
        change = result.meta.get(CHANGE)
        if not isinstance(change, dict):
            return "its control variate is missing"
        if not isinstance(result.meta.get(LOST, False), bool):
            return "it does not say whether it has lost its control variate"
        problem = arrays_problem(change, {name: result.params[name] for name in self._trainable})
        return f"its control variate: {problem}" if problem else ""

    def accept(self, site: str, result: FLModel) -> None:
        """Add the change to those of this round."""
        self._changes.add(result.meta[CHANGE], 1.0)
        self._answered.add(site)
        self._lost |= result.meta.get(LOST, False)

    def update(self, previous: Parameters, average: Parameters) -> Parameters:
        """Count the changes, unless a site has lost its control variate."""
        if self._lost:
            self._sum, self._counted = {}, {}
            return average
        before = self._sum or {name: np.zeros(np.shape(previous[name])) for name in self._trainable}
        self._sum = self._changes.added_to(before)
        self._counted |= dict.fromkeys(self._answered, self._round)
        return average

    def state(self) -> Parameters:
        """Return the sum of all control variates, float64, and the rounds that counted."""
        rounds = {f"counted/{site}": np.asarray(number) for site, number in self._counted.items()}
        return {**{f"sum/{name}": value for name, value in self._sum.items()}, **rounds}

    def restore(self, state: Parameters) -> None:
        """Restore control variates and rounds."""
        parts = {tuple(key.split("/", 1)): value for key, value in state.items()}
        self._sum = {name: value for (kind, name), value in parts.items() if kind == "sum"}
        self._counted = {site: int(value) for (kind, site), value in parts.items() if kind == "counted"}


class Scaffold(SiteAlgorithm):
    """NVFlare's helper, fed with our learning rates: they change from step to step."""

    def begin(self, model: nn.Module, message: FLModel, state: SiteState) -> None:
        """Read c from the server's message and c_i from the site's state."""
        super().begin(model, message, state)
        self._state, self._round = state, message.current_round
        self._helper = PTScaffoldHelper()
        self._helper.init(model)
        counted = message.meta[COUNTED].get(self.site)
        own = state.load(counted)
        self._lost = counted is not None and not own
        if self._lost:
            log.warning("this site has lost its control variate; all sites begin with zero in the next round")
            return
        if message.meta[GLOBAL]:
            self._helper.load_global_controls(message.meta[GLOBAL])
        if own:
            self._helper.c_local.load_state_dict(own)

    def after_step(self, model: nn.Module) -> Callable[[float], None]:
        """Apply the correction - lr (c - c_i) that turns a step of SGD into one of SCAFFOLD."""
        self._received, self._rates = copy.deepcopy(model), 0.0
        self._controls = self._helper.get_params()

        def correct(rate: float) -> None:
            self._helper.model_update(model, rate, *self._controls)
            self._rates += rate

        return correct

    def end(self, model: nn.Module, result: TrainResult, fit: Fit) -> dict[str, Any]:
        """Save the new c_i at the site; send its change."""
        helper = self._helper
        # The helper divides by its number of steps times the rate: by the sum, given the mean rate.
        helper.terms_update(model, self._rates / helper.cnt, *self._controls, self._received)
        self._state.save(self._round, helper.c_local.state_dict())
        return {CHANGE: helper.get_delta_controls(), LOST: self._lost}
