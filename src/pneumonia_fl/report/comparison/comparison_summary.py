"""The headline of a comparison's report, and what to doubt about it."""

from collections.abc import Mapping, Sequence
from typing import Any

from pneumonia_fl.evaluation.comparison import too_few
from pneumonia_fl.report.run_folder_reader import is_drawn, without_paths
from pneumonia_fl.report.view.blocks import Notes, Section, Text, Tiles, Voices, number, plural

REFERENCES = {"central": "central training", "best_alone": "the best site alone"}
MARGIN = 0.010
"""AUROC: closer than this to central training is called close."""

Arm = Mapping[str, Any]
Statistic = Mapping[str, Any]


def headline(summary: Mapping[str, Any], arms: Sequence[Arm]) -> Section:
    """The answer in words and in numbers; `arms` are those that are trained."""
    federated = [arm for arm in arms if arm.get("kind") == "federated" and pooled(arm, "auroc")]
    shown = [arm for arm in arms if arm.get("kind") != "alone" or arm["name"] == summary.get("best_alone")]
    values = [(str(arm["name"]), pooled(arm, "auroc")) for arm in shown]
    tiles = [(f"{name} · AUROC, test", number(value.get("mean")), _spread(value)) for name, value in values]
    if not federated:
        text = "No federated model is trained yet, so there is nothing to compare."
        return Section("summary", "In short", "", [Tiles(tiles), Text((text,))])
    findings = [without_paths(text) for text in summary.get("findings", [])]
    voices = [
        ("For a clinician", _plain(summary, federated)),
        ("For a statistician", findings or ["No findings."]),
    ]
    return Section("summary", "In short", "AUROC on the pooled test images.", [Tiles(tiles), Voices(voices)])


def _plain(summary: Mapping[str, Any], federated: Sequence[Arm]) -> list[str]:
    """The best federated model in words; which is best was seen on test data, and is said."""
    best = max(federated, key=lambda arm: float(pooled(arm, "auroc")["mean"]))
    lines = [
        f"{plural(len(summary.get('sites', [])), 'hospital')} trained one model without sharing an image "
        f"({best['name']}). Is that as good as bringing all images together, and better than training alone?"
    ]
    for role, words in REFERENCES.items():
        value = ((best.get("differences") or {}).get(role) or {}).get("auroc")
        if value:
            lines.append(_answer(value, words, int((summary.get("test") or {}).get("patients") or 0)))
    who = "drawn images" if is_drawn(summary.get("data")) else "children"
    sensitivity, specificity = pooled(best, "sensitivity"), pooled(best, "specificity")
    if sensitivity and specificity:
        lines.append(
            f"At its saved threshold it finds {round(100 * sensitivity['mean'])} of 100 {who} with pneumonia and "
            f"raises a false alarm for {round(100 - 100 * specificity['mean'])} of 100 without."
        )
    if len(federated) > 1:
        lines.append(
            "It is the best of several federated models on these very images, which flatters it a little."
        )
    return lines


def _answer(value: Statistic, reference: str, patients: int) -> str:
    low, high, mean = value.get("low"), value.get("high"), float(value["mean"])
    points = f"{abs(100 * mean):.1f} points of AUROC"
    if low is None or high is None:
        return (
            f"Against {reference}: {'+' if mean >= 0 else '-'}{points}; whether that is chance is not known."
        )
    if too_few(value, patients):
        way = "more" if mean >= 0 else "less"
        return (
            f"Too few patients ({patients}) to tell from {reference}: {points} {way}, but anything between "
            f"{100 * low:+.1f} and {100 * high:+.1f} would fit these images."
        )
    if low > 0:
        return f"Better than {reference}, by {points}; chance does not explain it."
    if high < 0:
        close = ", which is little" if -mean <= MARGIN else ""
        return f"Worse than {reference}, by {points}{close}; chance does not explain it."
    return (
        f"No difference to {reference} is shown ({points} {'more' if mean >= 0 else 'less'}, within chance)."
    )


def pooled(arm: Arm, key: str) -> Statistic:
    """A measure on all test images; empty where it is not defined."""
    return (arm.get("pooled") or {}).get(key) or {}


def _spread(value: Statistic) -> str:
    return (
        f"95 % CI {number(value['low'])} to {number(value['high'])}" if value.get("low") is not None else ""
    )


def comparison_warnings(summary: Mapping[str, Any], problems: Sequence[str]) -> Section:
    """What could make the numbers better or worse than they look."""
    items = [("caution", without_paths(text)) for text in summary.get("warnings", [])]
    if summary.get("state") != "finished":
        items.insert(0, ("serious", "The comparison is not finished; models and seeds are missing."))
    if is_drawn(summary.get("data")):
        items.insert(0, ("serious", "Trained on drawn images: this says nothing about real X-rays."))
    items += [("note", f"Missing here: {problem}") for problem in problems]
    return Section("warnings", "Read this first", "", [Notes(items or [("note", "Nothing stood out.")])])
