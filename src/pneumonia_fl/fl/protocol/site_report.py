"""Validate a site's report in one place: typed, bounded, finite, printable, or refused with a reason.

A site may be broken or hostile, so the server takes nothing of a report before all of it has been accepted.
"""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from pneumonia_fl.errors import AnswerError
from pneumonia_fl.inputs.text import printable
from pneumonia_fl.metrics.binary import BINS, ScoreHistogram

MAX_IMAGES = 10_000_000
"""More images than any site has, or passes in a round."""
MAX_VALUE = 1e30
"""Bound of losses: a model that diverges reaches absurd ones, and their sum over all sites must stay finite."""
MAX_PASSES = 100
"""The most local epochs that a job may ask for."""
MAX_SIZE = 64_000
"""Bytes of a whole report, about; one of ours has some 17,000, nearly all in the histogram."""
MAX_DEPTH = 6
MAX_CITATION = 500

Count = Annotated[int, Field(ge=0, le=MAX_IMAGES)]
Positive = Annotated[int, Field(ge=1, le=MAX_IMAGES)]
Share = Annotated[float, Field(ge=0, le=1)]
Mean = Annotated[float, Field(ge=0, le=1 + 1e-6)]
"""A mean of numbers from 0 to 1, which rounding may lift above."""
Loss = Annotated[float, Field(ge=0, le=MAX_VALUE)]
Row = Annotated[list[Count], Field(min_length=BINS, max_length=BINS)]
Text = Annotated[str, BeforeValidator(lambda text: printable(text) if isinstance(text, str) else text)]
Citation = Annotated[
    str, BeforeValidator(lambda text: printable(text, MAX_CITATION) if isinstance(text, str) else text)
]

Task = Literal["train", "validate", "cross_site", "evaluate"]
TELLING = ("train", "validate")
"""Tasks whose answers say what the model card tells of a site's data set."""


class _Said(BaseModel):
    """A part of a report: nothing unknown in it, no type converted, no NaN, no infinity."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Histogram(_Said):
    """A `ScoreHistogram` as it travels."""

    counts: Annotated[list[Row], Field(min_length=2, max_length=2)]
    loss_sum: Loss

    @property
    def n(self) -> int:
        """Return the number of images; Python integers do not overflow."""
        return sum(map(sum, self.counts))


class Training(_Said):
    """Cost of a round's training at a site; `train_samples` are images times local epochs."""

    train_loss: Loss
    train_samples: Positive
    steps: Positive
    seconds: Annotated[float, Field(ge=0, le=1e9)]


class Facts(_Said):
    """Facts for the model card about a site's data set; `counts` are images by site, split and class."""

    source: Text
    licence: Citation
    credit: Citation
    manifest_sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    counts: dict[str, dict[Literal["train", "val", "test"], dict[Literal["NORMAL", "PNEUMONIA"], Count]]]

    def of(self, site: str) -> "Facts":
        """Drop other sites' counts: a site reports for itself only."""
        return self.model_copy(update={"counts": {site: self.counts.get(site, {})}})

    def images(self, site: str, split: Literal["train", "val"]) -> int:
        """Count the images in one split of a site."""
        return sum(self.by_class(site, split))

    def by_class(self, site: str, split: Literal["train", "val"]) -> tuple[int, int]:
        """Count normal and pneumonia images in one split of a site."""
        counts = self.counts.get(site, {}).get(split, {})
        return counts.get("NORMAL", 0), counts.get("PNEUMONIA", 0)


class Personal(_Said):
    """`Metrics` of a site's own model on its validation images."""

    auroc: Share | None
    sensitivity: Share | None
    specificity: Share | None
    f1: Share | None
    accuracy: Share
    balanced_accuracy: Share | None
    brier: Mean
    ece: Mean
    loss: Loss
    n: Count
    positives: Count


class Sample(_Said):
    """Parameters of a site's patient samples; `pooling.Sampled` has the meaning, and checks it."""

    patients: Annotated[list[Count], Field(min_length=3, max_length=3)]
    starts: Annotated[list[list[Count]], Field(min_length=2, max_length=2)]


class Limits(_Said):
    """Training settings that a site has lowered, and their values."""

    local_epochs: Annotated[int, Field(ge=1, le=MAX_PASSES)] | None = None
    batch_size: Annotated[int, Field(ge=2, le=MAX_IMAGES)] | None = None


class SiteReport(_Said):
    """A report that may count; see `parse_report`."""

    histogram: Histogram
    training: Annotated[Training | None, BeforeValidator(lambda value: value or None)] = None
    data: Facts | None = None
    personal: Personal | None = None
    sample: Sample | None = None
    readings: Count | None = None
    """How often the site has had this split read, this time included."""
    limits: Limits | None = None

    @property
    def scores(self) -> ScoreHistogram:
        """Return the histogram to pool."""
        return ScoreHistogram.from_dict(self.histogram.model_dump())

    def values(self) -> dict[str, Any]:
        """Return what the journal keeps beside the metrics of the histogram."""
        personal = {"personal": self.personal.model_dump()} if self.personal else {}
        return (self.training.model_dump() if self.training else {}) | personal


class SiteProblem(_Said):
    """Reason why a site could not do its task: a valid result, which contributes nothing."""

    problem: Text


@dataclass(frozen=True)
class Expected:
    """Known properties of a result before it is read.

    Args:
        site: who answers; authenticated, and not what the answer says.
        task: what was asked: `cross_site` is the evaluation of another site's model, `evaluate` of a saved one.
        data: what the site's first valid answer in this job said of its data set; None: this may be the first.
        passes: local epochs that the job wants of this site.
    """

    site: str
    task: Task = "train"
    data: Facts | None = None
    passes: int = MAX_PASSES


def parse_report(raw: object, expected: Expected) -> SiteReport | SiteProblem:
    """Read one site's report.

    Raises:
        AnswerError: it must not count; the message names the first fault and quotes nothing that is not printable.
    """
    _check_size(raw)
    kind = SiteProblem if isinstance(raw, dict) and "problem" in raw else SiteReport
    try:
        report = kind.model_validate(raw)
    except ValidationError as error:
        raise AnswerError(f"its report is broken: {_first_fault(error)}") from None
    if isinstance(report, SiteReport):
        report = _own_facts(report, expected)
        _check_task(report, expected)
        _check_images(report, expected)
    return report


def _check_size(raw: object) -> None:
    """Refuse what is large, deep or not plain, before anything else walks through it."""
    left, parts = MAX_SIZE, [(raw, 0)]
    while parts:
        value, depth = parts.pop()
        left -= 8 + (len(value) if isinstance(value, str) else 0)
        if isinstance(value, int):
            left -= value.bit_length() // 8
        if left < 0 or depth > MAX_DEPTH:
            raise AnswerError(f"its report is broken: larger than {MAX_SIZE} bytes, or too deep")
        if type(value) is dict:
            parts += [(part, depth + 1) for item in value.items() for part in item]
        elif type(value) is list:
            parts += [(part, depth + 1) for part in value]
        elif value is not None and type(value) not in (bool, int, float, str):
            raise AnswerError(f"its report is broken: it holds a {printable(type(value).__name__, 40)}")


def _first_fault(error: ValidationError) -> str:
    """Locate the first fault and name the expected type; never quote the value itself."""
    fault = error.errors(include_url=False, include_context=False, include_input=False)[0]
    place = ".".join(str(part) for part in fault["loc"])
    return printable(f"{place}: {fault['msg']}" if place else fault["msg"])


def _own_facts(report: SiteReport, expected: Expected) -> SiteReport:
    data = report.data.of(expected.site) if report.data else None
    return report.model_copy(update={"data": data})


def _check_task(report: SiteReport, expected: Expected) -> None:
    """Require training results and facts about the data exactly when they were requested."""
    if (report.training is not None) != (expected.task == "train"):
        raise AnswerError(f"its report is broken: training does not belong to a task {expected.task}")
    if (report.data is not None) != (expected.task in TELLING):
        raise AnswerError(f"its report is broken: data does not belong to a task {expected.task}")
    if (report.readings is not None) != (expected.task == "evaluate"):
        raise AnswerError(f"its report is broken: readings do not belong to a task {expected.task}")
    if report.sample is not None and expected.task != "evaluate":
        raise AnswerError(f"its report is broken: a sample does not belong to a task {expected.task}")
    if report.data and expected.data and report.data != expected.data:
        raise AnswerError("its data set is not that of its first answer in this job")


def _check_images(report: SiteReport, expected: Expected) -> None:
    """Require every count of images to equal that of the data set, so that no site is weighted by more."""
    facts, site, counted = report.data or expected.data, expected.site, report.histogram.n
    if not 1 <= counted <= MAX_IMAGES:
        raise AnswerError(f"its histogram counts {counted} validation images")
    if facts and counted != facts.images(site, "val"):
        raise AnswerError(
            f"its histogram counts {counted} validation images, its data set has {facts.images(site, 'val')}"
        )
    classes = sum(report.histogram.counts[0]), sum(report.histogram.counts[1])
    if facts and classes != facts.by_class(site, "val"):
        have, want = ("{} and {}".format(*each) for each in (classes, facts.by_class(site, "val")))
        raise AnswerError(f"its histogram counts {have} validation images by class, its data set has {want}")
    if report.training and report.training.steps > report.training.train_samples:
        raise AnswerError(
            f"it made {report.training.steps} steps with {report.training.train_samples} images"
        )
    if report.personal and (report.personal.n, report.personal.positives) != _sums(report.histogram):
        raise AnswerError("its own model was not judged on its validation images")
    if facts and report.training:
        most = facts.images(site, "train") * expected.passes
        if report.training.train_samples > most:
            raise AnswerError(f"it trained on {report.training.train_samples} images; {most} are possible")


def _sums(histogram: Histogram) -> tuple[int, int]:
    return histogram.n, sum(histogram.counts[1])
