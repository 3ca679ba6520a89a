"""What a reader of a run must be told before believing a number: warnings in words, the worst first."""

from collections.abc import Iterator
from itertools import pairwise

from pneumonia_fl.evaluation.comparison import FEW_PATIENTS
from pneumonia_fl.report.performance import Performance
from pneumonia_fl.report.run_folder_reader import RunFiles, is_drawn, without_paths
from pneumonia_fl.report.view.blocks import listed, number, plural

SERIOUS, CAUTION, NOTE = "serious", "caution", "note"
"""Below this the bootstrap's intervals are wide and not reliable."""
FEW_OF_A_CLASS = 30
FEW_IMAGES = 20
SHIFT = 0.05
"""A change from validation to test that is worth a sentence."""
POOR_ECE = 0.10

Warning_ = tuple[str, str]


def warnings_of(run: RunFiles, test: Performance | None, validation: Performance | None) -> list[Warning_]:
    """All warnings about a run, serious ones first, each once."""
    found = [
        *_ending(run),
        *_origin(run),
        *_readings(run, test),
        *(_shift(test, validation) if test and validation else ()),
        *(_sample(test or validation)),
        *_calibration(test or validation),
        *_sites(run),
        *_limits(run),
        *_training(run),
        *_records(run),
    ]
    order = (SERIOUS, CAUTION, NOTE)
    return sorted(dict.fromkeys(found), key=lambda item: order.index(item[0]))


def _ending(run: RunFiles) -> Iterator[Warning_]:
    state, reason = run.state.get("state"), without_paths(run.state.get("error") or "")
    rounds = [entry["round"] for entry in run.rounds if entry.get("global")]
    after = (
        f" after round {max(rounds)} of {run.state.get('rounds', '?')}"
        if rounds
        else " before the first round"
    )
    if state == "running":
        yield SERIOUS, "The run is not over, or its program was killed: everything here is provisional."
    elif state in ("failed", "interrupted"):
        yield (
            SERIOUS,
            f"The run {'failed' if state == 'failed' else 'was interrupted'}{after}: {reason or 'no reason known'}",
        )
    if missing := run.metrics.get("missing"):
        why = {problem.get("site"): problem.get("problem") for problem in run.metrics.get("problems") or []}
        named = [f"{site} ({without_paths(str(why[site]))})" if why.get(site) else site for site in missing]
        yield (
            SERIOUS,
            f"Never contributed: {listed(named)}. The model has learned nothing from {_them(missing)}.",
        )


def _them(sites: list[str]) -> str:
    return "that site" if len(sites) == 1 else "those sites"


def _limits(run: RunFiles) -> Iterator[Warning_]:
    for event in run.events:
        values = event.get("values")
        if event.get("event") == "limited" and isinstance(values, dict):
            said = ", ".join(f"{key} {most}" for key, most in sorted(values.items()))
            yield (
                NOTE,
                f"{event.get('site')} trained within its own limits from round {event['round'] + 1} on: {said}.",
            )


def _origin(run: RunFiles) -> Iterator[Warning_]:
    if is_drawn(run.data):
        text = "Trained on drawn images: the figures show that the software works and say nothing about real X-rays."
        yield SERIOUS, text


def _readings(run: RunFiles, test: Performance | None) -> Iterator[Warning_]:
    if test is None:
        yield (
            SERIOUS,
            "Never measured on a test split. Validation data chose the model, its calibration and the threshold, "
            "so figures from them flatter the model.",
        )
        return
    sources = [values.get("source") for values in run.on("test")]
    for source in sorted({str(source) for source in sources if sources.count(source) > 1}):
        text = f"The test split ({source}) was read {sources.count(source)} times."
        yield CAUTION, f"{text} Whatever was changed in between was chosen on it, and its figures flatter."


def _shift(test: Performance, validation: Performance) -> Iterator[Warning_]:
    for key in ("specificity", "sensitivity", "auroc"):
        before, after = validation.metrics.get(key), test.metrics.get(key)
        if before is None or after is None or abs(after - before) < SHIFT:
            continue
        name = "AUROC" if key == "auroc" else key
        verb = "fell" if after < before else "rose"
        text = f"Validation-to-test shift: {name} {verb} from {_short(before)} to {_short(after)}"
        ends = test.intervals.get(key)
        beyond = ends is not None and not ends[0] <= before <= ends[1]
        chance = ", more than chance explains" if beyond else ", within what chance could do" if ends else ""
        yield (SERIOUS if beyond and after < before else CAUTION), f"{text}{chance}."


def _short(value: float) -> str:
    """`.93`, as in a paper."""
    return f"{value:.2f}".removeprefix("0")


def _sample(shown: Performance | None) -> Iterator[Warning_]:
    if shown is None:
        return
    where = "test" if shown.split == "test" else "validation"
    if shown.patients is not None and shown.patients < FEW_PATIENTS:
        yield (
            CAUTION,
            f"Only {plural(shown.patients, 'patient')} on the {where} split: wide, rough intervals.",
        )
    for name, count in (("pneumonia", shown.positives), ("normal", shown.n - shown.positives)):
        if count == 0:
            yield (
                SERIOUS,
                f"The {where} split has no {name} image: AUROC and one of the two rates do not exist.",
            )
        elif count < FEW_OF_A_CLASS:
            yield CAUTION, f"Only {plural(count, name + ' image')} on the {where} split."
    area = shown.intervals.get("auroc")
    if area is not None and area[0] <= 0.5:
        yield SERIOUS, "The interval of the AUROC includes .50: the model may know nothing at all."
    accuracy, floor = shown.metrics.get("accuracy"), max(shown.prevalence, 1 - shown.prevalence)
    if accuracy is not None and accuracy <= floor:
        usual = f"always giving the more frequent answer ({_short(floor)})"
        yield CAUTION, f"Accuracy ({_short(accuracy)}) does not exceed that of {usual}."


def _calibration(shown: Performance | None) -> Iterator[Warning_]:
    ece = shown.metrics.get("ece") if shown else None
    if shown is None or ece is None:
        return
    before = shown.uncalibrated_metrics.get("ece")
    if ece > POOR_ECE:
        text = f"a probability is off by {100 * ece:.0f} points on average (ECE {_short(ece)})."
        yield CAUTION, f"Poor calibration: {text}"
    if before is not None and shown.exact and ece > before + 0.01:
        text = f"ECE {number(before)} before, {number(ece)} after."
        yield CAUTION, f"The calibration from validation made the probabilities worse: {text}"


def _sites(run: RunFiles) -> Iterator[Warning_]:
    for site, splits in sorted(run.counts().items()):
        if site == "test":
            continue
        for split, name in (("train", "training"), ("val", "validation")):
            images = splits.get(split) or {}
            total, absent = sum(images.values()), [label for label, count in images.items() if not count]
            if not total:
                yield CAUTION, f"{site} has no {name} images."
            elif absent:
                yield CAUTION, f"{site} has one class only in its {name} images (no {listed(absent)})."
            if 0 < total < FEW_IMAGES and split == "train":
                yield CAUTION, f"{site} trained on {plural(total, 'image')} only."
    yield from _problems(run)


def _problems(run: RunFiles) -> Iterator[Warning_]:
    counted: dict[tuple[str, str], list[str]] = {}
    for problem in run.metrics.get("problems", []):
        counted.setdefault((problem["site"], problem["state"]), []).append(problem.get("problem", ""))
    for (site, state), reasons in sorted(counted.items()):
        what = {"late": "was late", "failed": "failed", "refused": "was refused"}.get(state, state)
        yield CAUTION, f"{site} {what} in {plural(len(reasons), 'round')}: {without_paths(reasons[-1])}"


def _training(run: RunFiles) -> Iterator[Warning_]:
    areas = [(entry.get("global") or {}).get("auroc") for entry in run.rounds]
    known = [area for area in areas if area is not None]
    last = max((entry["round"] for entry in run.rounds), default=0)
    if run.best_round and run.best_round == last and len(known) > 2 and known[-1] - known[-2] > 0.005:
        yield NOTE, "The last round was the best and still rising: more rounds might help."
    falls = [before - after for before, after in pairwise(known[1:])]
    if falls and max(falls) > 0.1:
        text = f"the pooled validation AUROC fell by {_short(max(falls))} in one round."
        yield NOTE, f"Unsteady training: {text}"


def _records(run: RunFiles) -> Iterator[Warning_]:
    if run.card and "offset" not in run.card:
        how = "calibrated by a temperature alone" if "temperature" in run.card else "not calibrated"
        yield NOTE, f"The model was saved by an older version: its probabilities are {how}."
    if run.rounds and not any("f1" in (entry.get("global") or {}) for entry in run.rounds):
        yield NOTE, "The run is of an older version: F1 by round is not known."
    undelivered = (run.state.get("mlflow") or {}).get("undelivered")
    if undelivered:
        yield NOTE, f"MLflow did not take {plural(int(undelivered), 'point')}; metrics.json has them all."
