"""Sites' own models at the server: all sites judge one before the next is sent, so that one is in memory."""

from pathlib import Path

import numpy as np
from nvflare.app_common.abstract.fl_model import FLModel
from servers import OneWeight, Surroundings, begun
from site_reports import report

from pneumonia_fl.fl.protocol.messages import SITE_REPORT
from pneumonia_fl.fl.server.controller import PooledFedAvg

VALUES = {"a": 1.0, "b": 2.0}
WEIGHT = OneWeight().weight.detach().numpy()


def answer(site: str, task: str, sent: FLModel) -> FLModel | None:
    if task == "submit_model":
        return FLModel(params={"weight": np.full_like(WEIGHT, VALUES.get(site, np.nan))})
    if task == "validate":
        return FLModel(metrics={"auroc": 0.5}, meta={SITE_REPORT: report(site, "cross_site", data=None)})
    return None


def test_every_model_goes_to_all_sites_before_the_next_is_asked_for(tmp_path: Path) -> None:
    controller = PooledFedAvg(sites=("a", "b", "c"), quorum=1, num_rounds=1)
    around = Surroundings(controller, tmp_path, answer)
    begun(controller)
    reference = controller._selector.candidate
    around.sent.clear()
    assert controller._cross_site.evaluate_local_models(reference) == ""
    everybody = ["a", "b", "c"]
    assert [(task, targets) for task, targets, _ in around.sent] == [
        ("submit_model", ["a"]), ("validate", everybody),
        ("submit_model", ["b"]), ("validate", everybody),
        ("submit_model", ["c"]),
    ]  # fmt: skip
    judged = [
        float(np.ravel(sent.params["weight"])[0]) for task, _, sent in around.sent if task == "validate"
    ]
    assert judged == [1.0, 2.0]
    (missing,) = around.events("cross_site_missing")
    assert missing["site"] == "c"
    assert "no numbers" in missing["reason"]
