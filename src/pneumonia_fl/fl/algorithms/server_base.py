"""Server's part of an algorithm, between two rounds; FedAvg does nothing beyond the average."""

from typing import Any

from nvflare.apis.fl_constant import FLMetaKey
from nvflare.app_common.abstract.fl_model import FLModel

from pneumonia_fl.fl.protocol.site_report import SiteReport, Training

Parameters = dict[str, Any]


class ServerAlgorithm:
    """FedAvg: the average is the new model. Others override what they change."""

    answer_copies = 1
    """Arrays in an answer, as a multiple of the model's size."""

    def outgoing(self, number: int, sites: int) -> dict[str, Any]:
        """Return entries of the message's meta for every site, sent with the model of round `number`.

        `sites` is how many are expected in all.
        """
        return {}

    def begin_round(self, model: Parameters) -> None:
        """Forget the results of the last round; `model` is about to be sent to the sites for training."""

    def problem_of(self, site: str, result: FLModel) -> str:
        """Return why a training result cannot count, or ""; called before it counts."""
        return ""

    def contradiction(self, site: str, result: FLModel, report: SiteReport, training: Training) -> str:
        """Return why a training result contradicts its report, or ""; called before it counts."""
        samples = result.meta[FLMetaKey.NUM_STEPS_CURRENT_ROUND]
        return "" if samples == training.train_samples else "its two counts of samples differ"

    def accept(self, site: str, result: FLModel) -> None:
        """Accept what a valid result carries beside its parameters."""

    def averaged(self, params: Parameters) -> Parameters:
        """Return those parameters of a valid result that `update` wants the average of."""
        return params

    def update(self, previous: Parameters, average: Parameters) -> Parameters:
        """Compute the next global model from the one that was sent and the sites' weighted average."""
        return average

    def state(self) -> Parameters:
        """Return the arrays that a resumed job needs."""
        return {}

    def restore(self, state: Parameters) -> None:
        """Restore the arrays of `state`."""
