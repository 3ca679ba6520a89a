"""The weighted average of FedAvg, the same bits in whatever order the results arrive.

NVFlare's own averaging rounds with every result that it adds, so that two runs differ in the last bits (`FedAvg`
docstring). Here each result is added exactly as it comes, and only the mean is rounded (`exact_sum.py`): nothing has
to wait for its turn, and no more than the sum is kept, however many sites there are.
"""

import math
from collections.abc import Iterable, Mapping
from fractions import Fraction
from typing import Any

import numpy as np
from nvflare.apis.fl_constant import FLMetaKey
from nvflare.app_common.abstract.fl_model import FLModel, ParamsType
from nvflare.app_common.aggregators.model_aggregator import ModelAggregator

from pneumonia_fl.fl.algorithms.exact_sum import ExactSum
from pneumonia_fl.fl.entrypoints import entrypoint

Parameters = dict[str, np.ndarray[Any, Any]]


def weighted_average(results: Iterable[tuple[float, Parameters]]) -> Parameters:
    """Average parameters with the sites' sample counts as weights (McMahan et al. 2017, algorithm 1).

    Args:
        results: pairs of weight and parameters, all with the same keys and shapes.

    Returns:
        Parameters in the dtype that the sites sent.
    """
    total = ExactSum()
    for weight, parameters in results:
        total.add(parameters, weight)
    return total.mean()


class SiteWeights:
    """Weights in the ratio of images times the job's factors, as whole numbers: they keep exact sums short.

    Args:
        factors: by site; one that is missing has 1. A factor is the decimal number that it is printed as.
    """

    def __init__(self, factors: Mapping[str, float]) -> None:
        exact = {site: Fraction(str(factor)) for site, factor in factors.items()}
        self._unit = math.lcm(*(factor.denominator for factor in exact.values()))
        self._factors = {site: int(factor * self._unit) for site, factor in exact.items()}

    def of(self, site: str, images: int) -> int:
        """Return the weight of a site with so many images."""
        return images * self._factors.get(site, self._unit)


@entrypoint("Aggregator")
class SampleWeightedAverage(ModelAggregator):
    """Averages one round's results as they arrive."""

    def __init__(self) -> None:
        super().__init__()
        self._sum = ExactSum()

    def accept_model(self, model: FLModel) -> None:
        """Add one site's parameters, with its sample count as weight."""
        self._sum.add(model.params, float(model.meta[FLMetaKey.NUM_STEPS_CURRENT_ROUND]))

    def aggregate_model(self) -> FLModel:
        """Return the round's average and forget the results."""
        average = self._sum.mean()
        self.reset_stats()
        return FLModel(params=average, params_type=ParamsType.FULL)

    def reset_stats(self) -> None:
        """Forget what has been added."""
        self._sum = ExactSum()
