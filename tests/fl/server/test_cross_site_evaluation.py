"""Sites' own models at the server: each is judged by all, one is in memory, none stays on the disk."""

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


def test_every_model_goes_to_all_sites_and_none_stays(tmp_path: Path) -> None:
    controller = PooledFedAvg(sites=("a", "b", "c"), quorum=1, num_rounds=1)
    around = Surroundings(controller, tmp_path, answer)
    job = begun(controller)
    reference = controller._selector.candidate
    around.sent.clear()
    assert controller._cross_site.evaluate_local_models(reference) == ""
    tasks = [
        (task, float(np.ravel(sent.params["weight"])[0]))
        for task, _, sent in around.sent
        if task == "validate"
    ]
    assert tasks == [("validate", 1.0), ("validate", 2.0)]
    (missing,) = around.events("cross_site_missing")
    assert missing["site"] == "c"
    assert "no numbers" in missing["reason"]
    assert [path for path in job.state.folder.iterdir() if path.is_file()] == []
