"""The headline of a run's report: the same result for two kinds of readers, before anything else."""

from typing import Any

from pneumonia_fl.metrics.binary import NAMES
from pneumonia_fl.report.figures import charts
from pneumonia_fl.report.figures.svg import to_svg
from pneumonia_fl.report.performance import SPLITS, Performance
from pneumonia_fl.report.view.rendering import Values, sentences
from pneumonia_fl.runs.record import RunRecord

RARE = 0.10
"""A share of pneumonia as a general clinic may see, for what an alarm is worth there."""


def headline(run: RunRecord, test: Performance | None, validation: Performance | None) -> Values:
    """Return the result in words and in numbers."""
    shown = test or validation
    if shown is None:
        return {"result": None}
    result = _result(run, shown)
    return {
        "result": result,
        "clinician": sentences("run/clinician.txt.j2", **result),
        "statistician": sentences("run/statistician.txt.j2", **result),
        "figures": _dots(result),
    }


def _result(run: RunRecord, shown: Performance) -> dict[str, Any]:
    metrics = {key: shown.metrics.get(key) for key in NAMES}
    sensitivity, specificity = metrics["sensitivity"], metrics["specificity"]
    worth = None
    if sensitivity is not None and specificity is not None:
        shares = (shown.prevalence, RARE)
        worth = [(share, _predictive_value(sensitivity, specificity, share)) for share in shares]
    return {
        "shown": shown,
        "names": NAMES,
        "split": SPLITS.get(shown.split, shown.split),
        "drawn": run.drawn,
        "subjects": "drawn images" if run.drawn else "children",
        "hospitals": len(run.metrics.get("sites", [])) or len(run.sites),
        "readings": len(run.on("test")),
        "metrics": metrics,
        "intervals": {key: shown.intervals.get(key) for key in NAMES},
        "worth": worth,
        "model": run.model_words,
    }


def _dots(result: Values) -> list[Any]:
    """Draw what becomes of a hundred children, and what a hundred alarms are worth."""
    if result["worth"] is None:
        return []
    rates = result["metrics"]
    children = [("100 with pneumonia", rates["sensitivity"]), ("100 without", rates["specificity"])]
    alarms = [(f"100 alarms at {share:.0%} ill", value) for share, value in result["worth"]]
    answers = f"Right and wrong answers in 100 ill and 100 healthy {result['subjects']}"
    return [
        to_svg(charts.frequencies(children, answers)),
        to_svg(charts.frequencies(alarms, "Right and wrong ones among 100 alarms")),
    ]


def _predictive_value(sensitivity: float, specificity: float, prevalence: float) -> float:
    """Share of alarms that are right (Bayes); 0 when there is no alarm at all."""
    right, wrong = sensitivity * prevalence, (1 - specificity) * (1 - prevalence)
    return right / (right + wrong) if right + wrong else 0.0
