"""The weighted average of FedAvg, summed in site order.

NVFlare's own averaging adds results as they arrive, so that two runs differ in the last bits
(`FedAvg` docstring); adding in the order of the sites' names makes a run repeatable.
"""

from typing import Any

import numpy as np
from nvflare.apis.fl_constant import FLMetaKey
from nvflare.app_common.abstract.fl_model import FLModel, ParamsType
from nvflare.app_common.aggregators.model_aggregator import ModelAggregator

from pneumonia_fl.fl.entrypoints import entrypoint

Parameters = dict[str, np.ndarray[Any, Any]]


def weighted_average(results: dict[str, tuple[float, Parameters]]) -> Parameters:
    """Average parameters with the sites' sample counts as weights (McMahan et al. 2017, algorithm 1).

    Args:
        results: for each site its weight and its parameters, all with the same keys and shapes.

    Returns:
        Parameters in the dtype that the sites sent.
    """
    ordered = [results[site] for site in sorted(results)]
    total = sum(weight for weight, _ in ordered)
    first = ordered[0][1]
    average: Parameters = {}
    for name, reference in first.items():
        summed = sum(parameters[name].astype(np.float64) * (weight / total) for weight, parameters in ordered)
        average[name] = np.asarray(summed, dtype=reference.dtype)
    return average


@entrypoint("Aggregator")
class SampleWeightedAverage(ModelAggregator):
    """Collects one round's results and averages them in site order."""

    def __init__(self) -> None:
        super().__init__()
        self._results: dict[str, tuple[float, Parameters]] = {}

    def accept_model(self, model: FLModel) -> None:
        """Store one site's parameters with its sample count."""
        weight = float(model.meta[FLMetaKey.NUM_STEPS_CURRENT_ROUND])
        self._results[model.meta["client_name"]] = (weight, dict(model.params))

    def aggregate_model(self) -> FLModel:
        """Return the round's average and forget the results."""
        average = weighted_average(self._results)
        self.reset_stats()
        return FLModel(params=average, params_type=ParamsType.FULL)

    def reset_stats(self) -> None:
        """Clear the stored parameters."""
        self._results = {}
