"""The headline of a run's report: the same result for two kinds of readers, before anything else."""

from pneumonia_fl.metrics.binary import NAMES
from pneumonia_fl.report.figures import charts
from pneumonia_fl.report.performance import SPLITS, Performance
from pneumonia_fl.report.run_folder_reader import RunFiles
from pneumonia_fl.report.view.blocks import (
    Block,
    Figure,
    Figures,
    Section,
    Text,
    Tiles,
    Voices,
    interval,
    number,
    out_of_hundred,
    plural,
)

RARE = 0.10
"""A share of pneumonia as a general clinic may see, for what an alarm is worth there."""
_TILES = ("auroc", "sensitivity", "specificity", "ece")


def headline(run: RunFiles, test: Performance | None, validation: Performance | None) -> Section:
    """The result in words and in numbers, before anything else."""
    shown = test or validation
    if shown is None:
        text = "There is no model to judge: the run left neither validation scores nor an evaluation."
        return Section("summary", "In short", "", [Text((text,))])
    blocks: list[Block] = [
        Tiles([_tile(shown, key) for key in _TILES]),
        Voices(
            [("For a clinician", _clinician(run, shown)), ("For a statistician", _statistician(run, shown))]
        ),
    ]
    blocks += _dots(shown, _subjects(run))
    return Section("summary", "In short", "", blocks)


def _tile(shown: Performance, key: str) -> tuple[str, str, str]:
    said = {
        "auroc": "1 is perfect, .5 is guessing",
        "sensitivity": "pneumonia that is found",
        "specificity": "healthy that is left alone",
        "ece": "average error of a probability",
    }[key]
    ends = shown.intervals.get(key)
    name = f"{NAMES[key]} · {SPLITS.get(shown.split, shown.split).lower()}"
    return name, number(shown.metrics.get(key)), f"95 % CI {interval(ends)}" if ends else said


def _subjects(run: RunFiles) -> str:
    """Whom the numbers are about: drawn images are no children."""
    return "drawn images" if run.drawn else "children"


def _dots(shown: Performance, subjects: str) -> list[Block]:
    """What becomes of a hundred children, and what a hundred alarms are worth."""
    sensitivity, specificity = shown.metrics.get("sensitivity"), shown.metrics.get("specificity")
    if sensitivity is None or specificity is None:
        return []
    children = [("100 with pneumonia", sensitivity), ("100 without", specificity)]
    alarms = [
        (f"100 alarms at {share:.0%} ill", _predictive_value(sensitivity, specificity, share))
        for share in (shown.prevalence, RARE)
    ]
    figures = [
        Figure(
            charts.frequencies(
                children, "children", f"Right and wrong answers in 100 ill and 100 healthy {subjects}"
            ),
            "Blue dots: right answers. Orange crosses: missed pneumonia (left), false alarms (right).",
        ),
        Figure(
            charts.frequencies(alarms, "alarms", "Right and wrong ones among 100 alarms"),
            "Of 100 alarms, how many are right (blue): among these images, and where pneumonia is rarer.",
        ),
    ]
    return [Figures(figures)]


def _where(run: RunFiles, shown: Performance) -> str:
    """Which images, and whether they are a fair judge."""
    kind = "drawn " if run.drawn else ""
    patients = f" of {plural(shown.patients, kind + 'patient')}" if shown.patients else ""
    if shown.split == "test":
        unseen = (
            "training has not seen" if len(run.on("test")) > 1 else "neither training nor any choice has seen"
        )
        return f"{plural(shown.n, kind + 'test image')}{patients}, which {unseen}"
    return f"{plural(shown.n, kind + 'validation image')}{patients}, which also chose the model and its threshold"


def _clinician(run: RunFiles, shown: Performance) -> list[str]:
    sites = plural(len(run.metrics.get("sites", [])) or len(run.sites), "hospital")
    lines = [f"A network trained by {sites} without sharing images was tried on {_where(run, shown)}."]
    sensitivity, specificity = shown.metrics.get("sensitivity"), shown.metrics.get("specificity")
    if sensitivity is not None:
        found = f"{out_of_hundred(sensitivity)}{_range(shown, 'sensitivity')}"
        lines.append(f"Of 100 {_subjects(run)} with pneumonia it finds {found}.")
    if specificity is not None:
        alarms = out_of_hundred(1 - specificity)
        lines.append(
            f"Of 100 without, it raises a false alarm for {alarms}{_range(shown, 'specificity', flip=True)}."
        )
    if sensitivity is not None and specificity is not None:
        rare = _predictive_value(sensitivity, specificity, RARE)
        lines.append(
            f"Here {shown.prevalence:.0%} of the images show pneumonia. Where only {RARE:.0%} do, "
            f"{out_of_hundred(rare)} of 100 alarms would be right."
        )
    unknown = "real X-rays" if run.drawn else "patients of any other clinic"
    return [*lines, f"It is not a medical device. How it does on {unknown} is not known."]


def _range(shown: Performance, key: str, flip: bool = False) -> str:
    ends = shown.intervals.get(key)
    if ends is None:
        return ""
    low, high = (1 - ends[1], 1 - ends[0]) if flip else ends
    return f" (probably between {round(100 * low)} and {round(100 * high)})"


def _predictive_value(sensitivity: float, specificity: float, prevalence: float) -> float:
    """Share of alarms that are right (Bayes); 0 when there is no alarm at all."""
    right, wrong = sensitivity * prevalence, (1 - specificity) * (1 - prevalence)
    return right / (right + wrong) if right + wrong else 0.0


def _statistician(run: RunFiles, shown: Performance) -> list[str]:
    values = [
        f"{NAMES[key]} {number(shown.metrics.get(key))}{_brackets(shown, key)}"
        for key in NAMES
        if key != "loss"
    ]
    positives = f"n = {shown.n:,}, {shown.positives:,} positive ({shown.prevalence:.3f})"
    how = (
        "95 % percentile intervals from a bootstrap over patients, 1,000 samples."
        if shown.exact
        else "From pooled score histograms (bins of 1/32 logit), so without intervals; optimistic."
    )
    rule = shown.operating_point or "rule not recorded"
    return [
        f"{SPLITS.get(shown.split, shown.split)}, {positives}. " + "; ".join(values) + ".",
        f"Threshold {number(shown.threshold)} ({rule}), temperature {number(shown.scaling.temperature)}, "
        f"offset {number(shown.scaling.offset)}, all from validation.",
        f"{how} The model: {run.model_words}, chosen on pooled validation AUROC.",
    ]


def _brackets(shown: Performance, key: str) -> str:
    ends = shown.intervals.get(key)
    return f" [{interval(ends)}]" if ends else ""
