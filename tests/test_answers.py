"""A site's report that makes no sense is refused with its reason, and the round goes on."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from nvflare.app_common.abstract.fl_model import FLModel

from pneumonia_fl.fl.algorithms.server import ServerAlgorithm
from pneumonia_fl.fl.controller import PooledFedAvg
from pneumonia_fl.fl.messages import SITE_REPORT
from pneumonia_fl.journal import Journal, read_journal
from pneumonia_fl.metrics import ScoreHistogram

HISTOGRAM = ScoreHistogram.from_scores(np.array([-1.0, 2.0]), np.array([0, 1])).to_dict()
TRAINING = {"train_loss": 0.5, "train_samples": 9, "steps": 3}


def judged(folder: Path, report: Any) -> tuple[bool, list[dict[str, Any]]]:
    """Whether an answer with this report counts, and what the journal says of problems."""
    controller = PooledFedAvg(sites=("a", "b"), quorum=1)
    controller.journal, controller._algorithm = Journal(folder), ServerAlgorithm()
    controller.take_candidate({"weight": np.float64(1.0)}, 0)
    controller.book.open(0, "train")
    meta = {"client_name": "a", "NUM_STEPS_CURRENT_ROUND": 9, SITE_REPORT: report}
    counts = controller.note_report(FLModel(params={"weight": np.float64(2.0)}, meta=meta))
    events = read_journal(folder / "journal.jsonl")
    return counts, [event for event in events if event["event"] == "problem"]


def test_a_whole_report_counts(tmp_path: Path) -> None:
    assert judged(tmp_path, {"histogram": HISTOGRAM, "training": TRAINING}) == (True, [])


@pytest.mark.parametrize(
    "report",
    [
        {},
        {"histogram": HISTOGRAM},
        {"histogram": {"counts": [[1]], "loss_sum": 0.1}, "training": TRAINING},
        {"histogram": {**HISTOGRAM, "loss_sum": float("nan")}, "training": TRAINING},
        {"histogram": ScoreHistogram.empty().to_dict(), "training": TRAINING},
        {"histogram": "many", "training": TRAINING},
        {"histogram": HISTOGRAM, "training": TRAINING, "personal": {"auroc": "good"}},
    ],
)
def test_a_broken_report_is_refused_by_name(tmp_path: Path, report: dict[str, Any]) -> None:
    counts, problems = judged(tmp_path, report)
    assert not counts
    assert [(problem["site"], problem["state"]) for problem in problems] == [("a", "refused")]
    assert "report is broken" in problems[0]["problem"]
