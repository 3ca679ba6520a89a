"""The headline of a comparison's report, and what to doubt about it."""

from collections.abc import Sequence

from pneumonia_fl.evaluation.comparison import too_few
from pneumonia_fl.report.figures.forest_plot import REFERENCES, Arm, Statistic, pooled
from pneumonia_fl.report.run_folder_reader import without_paths
from pneumonia_fl.report.view.rendering import Values, sentences
from pneumonia_fl.report.view.severity import CAUTION, NOTE, SERIOUS, Found, in_words
from pneumonia_fl.runs.record import is_drawn

MARGIN = 0.010
"""AUROC: closer than this to central training is called close."""


def headline(summary: Values, arms: Sequence[Arm]) -> Values:
    """Return the answer in words and in numbers; `arms` are those that are trained."""
    federated = [arm for arm in arms if arm.get("kind") == "federated" and pooled(arm, "auroc")]
    shown = [arm for arm in arms if arm.get("kind") != "alone" or arm["name"] == summary.get("best_alone")]
    return {
        "tiles": [(str(arm["name"]), pooled(arm, "auroc")) for arm in shown],
        "clinician": sentences("comparison/clinician.txt.j2", **_result(summary, federated))
        if federated
        else [],
        "statistician": [without_paths(text) for text in summary.get("findings", [])] if federated else [],
    }


def _result(summary: Values, federated: Sequence[Arm]) -> Values:
    """Return the best federated model; which is best was seen on test data, and is said."""
    best = max(federated, key=lambda arm: float(pooled(arm, "auroc")["mean"]))
    patients = int((summary.get("test") or {}).get("patients") or 0)
    differences = best.get("differences") or {}
    return {
        "sites": len(summary.get("sites", [])),
        "best": best["name"],
        "answers": [
            answer(value, words, patients)
            for role, words in REFERENCES.items()
            if (value := (differences.get(role) or {}).get("auroc"))
        ],
        "who": "drawn images" if is_drawn(summary.get("data")) else "children",
        "sensitivity": pooled(best, "sensitivity").get("mean"),
        "specificity": pooled(best, "specificity").get("mean"),
        "several": len(federated) > 1,
    }


def answer(value: Statistic, reference: str, patients: int) -> Values:
    """Describe what a difference in AUROC to a reference means with this number of patients."""
    low, high, mean = value.get("low"), value.get("high"), float(value["mean"])
    if low is None or high is None:
        verdict = "unknown"
    elif too_few(value, patients):
        verdict = "too few"
    else:
        verdict = "better" if low > 0 else "worse" if high < 0 else "not shown"
    close = mean >= -MARGIN
    found = {"verdict": verdict, "reference": reference, "patients": patients, "close": close}
    return {**found, "mean": mean, "low": low, "high": high}


def comparison_warnings(summary: Values, problems: Sequence[str]) -> Values:
    """Return what could make the numbers better or worse than they look."""
    found: list[Found] = []
    if is_drawn(summary.get("data")):
        found.append((SERIOUS, "drawn_comparison", {}))
    if summary.get("state") != "finished":
        found.append((SERIOUS, "unfinished_comparison", {}))
    found += [(CAUTION, "other", {"text": without_paths(text)}) for text in summary.get("warnings", [])]
    return in_words([*found, *((NOTE, "missing_here", {"problem": problem}) for problem in problems)])
