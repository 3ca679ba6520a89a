"""Warnings for a reader of a run before its numbers: when each is given, and how severe it is."""

from collections import Counter
from collections.abc import Iterator
from itertools import pairwise

from pneumonia_fl.evaluation.comparison import FEW_PATIENTS
from pneumonia_fl.metrics.calibration import shifts
from pneumonia_fl.report.figures.site_lines import MANY_SITES
from pneumonia_fl.report.performance import Performance
from pneumonia_fl.report.run_folder_reader import without_paths
from pneumonia_fl.report.view.severity import CAUTION, NOTE, SERIOUS, Found
from pneumonia_fl.runs.record import RunRecord, is_drawn

FEW_OF_A_CLASS = 30
FEW_IMAGES = 20
POOR_ECE = 0.10
FIRST_ALIKE = 5
"""How many warnings of one kind name a single site each, where there are many of it."""


def warnings_of(run: RunRecord, test: Performance | None, validation: Performance | None) -> list[Found]:
    """Find what could make a run's numbers better or worse than they look."""
    return _each_kind_few_times(
        *_ending(run),
        *_origin(run),
        *_readings(run, test),
        *(_shift(test, validation) if test and validation else ()),
        *(_sample(test or validation)),
        *_calibration(test or validation),
        *_sites(run),
        *_problems(run),
        *_limits(run),
        *_training(run),
        *_records(run),
    )


def _each_kind_few_times(*found: Found) -> list[Found]:
    """Give a warning for the first sites that it concerns, and count the others."""
    kept: list[Found] = []
    others: dict[tuple[str, str], dict[str, None]] = {}
    kinds = Counter((level, name) for level, name, values in found if "site" in values)
    given: Counter[tuple[str, str]] = Counter()
    for level, name, values in found:
        kind = level, name
        given[kind] += "site" in values
        if kinds[kind] <= MANY_SITES or given[kind] <= FIRST_ALIKE:
            kept.append((level, name, values))
        else:
            others.setdefault(kind, {})[str(values["site"])] = None
    return [
        *kept,
        *(
            (level, "more_alike", {"sites": list(sites), "like": name})
            for (level, name), sites in others.items()
        ),
    ]


def _ending(run: RunRecord) -> Iterator[Found]:
    state = run.state.get("state")
    if state == "running":
        yield SERIOUS, "provisional", {}
    elif state in ("failed", "interrupted"):
        last = max((entry["round"] for entry in run.rounds if entry.get("global")), default=None)
        reason, rounds = without_paths(run.state.get("error") or ""), run.state.get("rounds", "?")
        yield SERIOUS, "ended", {"state": state, "last": last, "rounds": rounds, "reason": reason}
    if missing := run.metrics.get("missing"):
        why = {problem.get("site"): problem.get("problem") for problem in run.metrics.get("problems") or []}
        named = [f"{site} ({without_paths(str(why[site]))})" if why.get(site) else site for site in missing]
        yield SERIOUS, "never_contributed", {"sites": named}


def _limits(run: RunRecord) -> Iterator[Found]:
    for event in run.events:
        values = event.get("values")
        if event.get("event") == "limited" and isinstance(values, dict):
            first = event["round"] + 1
            yield NOTE, "limited", {"site": event.get("site"), "values": values, "first": first}


def _origin(run: RunRecord) -> Iterator[Found]:
    if is_drawn(run.data):
        yield SERIOUS, "drawn_run", {}


def _readings(run: RunRecord, test: Performance | None) -> Iterator[Found]:
    if test is None:
        yield SERIOUS, "never_tested", {}
        return
    sources = [str(values.get("source")) for values in run.on("test")]
    for source in sorted({source for source in sources if sources.count(source) > 1}):
        yield CAUTION, "read_again", {"source": source, "times": sources.count(source)}


def _shift(test: Performance, validation: Performance) -> Iterator[Found]:
    for shift in shifts(validation.metrics, test.metrics, test.intervals):
        if shift.verb != "held" or shift.large:
            serious = shift.verb == "fell" and shift.large and shift.interval
            yield SERIOUS if serious else CAUTION, "shifted", {"shift": shift}


def _sample(shown: Performance | None) -> Iterator[Found]:
    if shown is None:
        return
    split = "test" if shown.split == "test" else "validation"
    if shown.patients is not None and shown.patients < FEW_PATIENTS:
        yield CAUTION, "few_patients", {"count": shown.patients, "split": split}
    for kind, count in (("pneumonia", shown.positives), ("normal", shown.n - shown.positives)):
        if count == 0:
            yield SERIOUS, "no_image", {"kind": kind, "split": split}
        elif count < FEW_OF_A_CLASS:
            yield CAUTION, "few_images", {"count": count, "kind": kind, "split": split}
    area = shown.intervals.get("auroc")
    if area is not None and area[0] <= 0.5:
        yield SERIOUS, "may_be_guessing", {}
    accuracy, floor = shown.metrics.get("accuracy"), max(shown.prevalence, 1 - shown.prevalence)
    if accuracy is not None and accuracy <= floor:
        yield CAUTION, "not_above_floor", {"accuracy": accuracy, "floor": floor}


def _calibration(shown: Performance | None) -> Iterator[Found]:
    ece = shown.metrics.get("ece") if shown else None
    if shown is None or ece is None:
        return
    before = shown.uncalibrated_metrics.get("ece")
    if ece > POOR_ECE:
        yield CAUTION, "poor_calibration", {"ece": ece}
    if before is not None and shown.exact and ece > before + 0.01:
        yield CAUTION, "calibration_hurt", {"before": before, "after": ece}


def _sites(run: RunRecord) -> Iterator[Found]:
    for site, splits in sorted(run.counts().items()):
        if site == "test":
            continue
        for split, kind in (("train", "training"), ("val", "validation")):
            images = splits.get(split) or {}
            total, absent = sum(images.values()), [label for label, count in images.items() if not count]
            if not total:
                yield CAUTION, "site_without_images", {"site": site, "kind": kind}
            elif absent:
                yield CAUTION, "site_of_one_class", {"site": site, "kind": kind, "absent": absent}
            if 0 < total < FEW_IMAGES and split == "train":
                yield CAUTION, "small_site", {"site": site, "count": total}


def _problems(run: RunRecord) -> Iterator[Found]:
    counted: dict[tuple[str, str], list[str]] = {}
    for problem in run.metrics.get("problems", []):
        counted.setdefault((problem["site"], problem["state"]), []).append(problem.get("problem", ""))
    for (site, state), reasons in sorted(counted.items()):
        last = {"rounds": len(reasons), "reason": without_paths(reasons[-1])}
        yield CAUTION, "site_problem", {"site": site, "state": state, **last}


def _training(run: RunRecord) -> Iterator[Found]:
    areas = [(entry.get("global") or {}).get("auroc") for entry in run.rounds]
    known = [area for area in areas if area is not None]
    last = max((entry["round"] for entry in run.rounds), default=0)
    if run.best_round and run.best_round == last and len(known) > 2 and known[-1] - known[-2] > 0.005:
        yield NOTE, "still_rising", {}
    falls = [before - after for before, after in pairwise(known[1:])]
    if falls and max(falls) > 0.1:
        yield NOTE, "unsteady", {"fall": max(falls)}


def _records(run: RunRecord) -> Iterator[Found]:
    if run.card and "offset" not in run.card:
        yield NOTE, "older_model", {"temperature": "temperature" in run.card}
    if run.rounds and not any("f1" in (entry.get("global") or {}) for entry in run.rounds):
        yield NOTE, "older_run", {}
    undelivered = (run.state.get("mlflow") or {}).get("undelivered")
    if undelivered:
        yield NOTE, "undelivered", {"points": int(undelivered)}
