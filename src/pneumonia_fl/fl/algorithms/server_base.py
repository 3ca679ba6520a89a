"""What an algorithm does at the server between two rounds; FedAvg does nothing beyond the average."""

from typing import Any

from nvflare.apis.fl_constant import FLMetaKey
from nvflare.app_common.abstract.fl_model import FLModel

from pneumonia_fl.fl.protocol.site_report import SiteReport, Training
from pneumonia_fl.fl.protocol.update_checks import byte_count

Parameters = dict[str, Any]


class ServerAlgorithm:
    """FedAvg: the average is the new model. Others override what they change."""

    answer_copies = 1
    """Arrays in an answer, as a multiple of the model's size."""

    def outgoing(self, number: int, sites: int) -> dict[str, Any]:
        """What travels to every site with the model of round `number`, as entries of the message's meta.

        `sites` is how many are expected in all.
        """
        return {}

    def problem_of(self, site: str, result: FLModel) -> str:
        """Why a training answer cannot count, or "" when it can; called before it counts."""
        return ""

    def contradiction(self, site: str, result: FLModel, report: SiteReport, training: Training) -> str:
        """Why what a training answer says twice does not agree, or "" when it does; called before it counts."""
        samples = result.meta[FLMetaKey.NUM_STEPS_CURRENT_ROUND]
        return "" if samples == training.train_samples else "its two counts of samples differ"

    def accept(self, site: str, result: FLModel) -> None:
        """Take in what an answer that counts carries beside its parameters."""

    def byte_count(self, result: FLModel) -> int:
        """Bytes of the arrays in an answer that counts."""
        return byte_count(result.params)

    def update(self, previous: Parameters, average: Parameters) -> Parameters:
        """The next global model, from the one that was sent and the sites' weighted average."""
        return average

    def state(self) -> Parameters:
        """Arrays that a job which goes on needs."""
        return {}

    def restore(self, state: Parameters) -> None:
        """Take over what `state` gave."""
