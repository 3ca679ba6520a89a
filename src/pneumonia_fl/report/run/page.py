"""The report of one run: the values that its templates and its model card show, section by section."""

import contextlib
import time
from collections.abc import Callable, Mapping
from typing import Any

from pneumonia_fl.config.algorithm import KEYS
from pneumonia_fl.metrics.binary import NAMES
from pneumonia_fl.report.figures import charts
from pneumonia_fl.report.figures.site_lines import MANY_SITES, site_looks
from pneumonia_fl.report.figures.svg import to_svg
from pneumonia_fl.report.performance import Performance, of_card, of_evaluation, of_histogram
from pneumonia_fl.report.run.own_settings import own_settings
from pneumonia_fl.report.run.performance_sections import performance_values, subtype_values
from pneumonia_fl.report.run.summary import headline
from pneumonia_fl.report.run.warnings import warnings_of
from pneumonia_fl.report.run_folder_reader import without_paths
from pneumonia_fl.report.view.cross_site_tables import cross_site_values
from pneumonia_fl.report.view.page_tables import Cell, Row, area_cell
from pneumonia_fl.report.view.rendering import Maker, Page, Values, make_sections
from pneumonia_fl.report.view.severity import NOTE, in_words
from pneumonia_fl.report.view.site_tables import Told, count_table, site_table, whole
from pneumonia_fl.report.view.wording import (
    duration,
    flatten_settings,
    number,
    plural,
    size,
    text_or_empty,
)
from pneumonia_fl.runs.record import RunRecord

_AT_HALF = ("sensitivity", "specificity", "brier", "ece")
"""What is known of a single site, at the threshold .5 only."""
POOLED = "All pooled"
_PRIVATE_SETTINGS = ("mlflow.", "tracking")


def run_page(run: RunRecord, gallery: Values | None = None) -> Page:
    """Build the report of a run; a part that fails is replaced by its error."""
    problems = list(run.problems)
    test, validation = _performance(run, problems)
    makers: tuple[Maker, ...] = (
        ("summary", "In short", lambda: headline(run, test, validation)),
        ("warnings", "Read this first", lambda: _warnings(run, test, validation, problems)),
        ("performance", "How good is the model?", lambda: performance_values(run, test, validation)),
        ("subtypes", "Bacterial and viral pneumonia", lambda: subtype_values(test)),
        ("gallery", "Where it went wrong", lambda: gallery),
        ("sites", "Site by site", lambda: _sites(run)),
        ("cross-site", "Every model on every site's data", lambda: cross_site_values(run.cross_site)),
        ("training", "How it was trained", lambda: _training(run)),
        ("data", "What it was trained on", lambda: _data(run)),
        ("cost", "What it cost", lambda: _cost(run)),
        ("limits", "Limits and intended use", lambda: {"card": run.card}),
        ("repeat", "How to repeat it", lambda: _repeat(run)),
    )
    return Page(
        title=f"Run of {run.state.get('job', 'an unknown job')}",
        subtitle=text_or_empty(lambda: _subtitle(run)),
        state=str(run.state.get("state", "unknown")),
        sections=make_sections("run", makers),
        holds_images=gallery is not None,
    )


def _performance(run: RunRecord, problems: list[str]) -> tuple[Performance | None, Performance | None]:
    """Test and validation: the last exact evaluation, else what the pooled histogram or the model card says."""

    def read(what: str, make: Callable[[Any], Performance], values: Any) -> Performance | None:
        try:
            return make(values) if values else None
        except Exception as error:  # a file of another version may hold anything
            problems.append(f"{what} cannot be shown, it is damaged or of another version ({error!r}).")
            return None

    test = read("The test evaluation", of_evaluation, run.latest("test"))
    exact = read("The validation evaluation", of_evaluation, run.latest("val"))
    pooled = run.histogram_of_best()
    return test, (
        exact
        or read("The pooled validation scores", lambda counts: of_histogram(counts, run.card), pooled)
        or read("The model card", of_card, run.card)
    )


def _subtitle(run: RunRecord) -> str:
    algorithm = (run.config.get("algorithm") or {}).get("name", "")
    parts = [
        (run.config.get("model") or {}).get("name", ""),
        algorithm,
        plural(len(run.sites), "site"),
        plural(int(run.state.get("rounds") or 0), "round"),
        f"{day} (UTC)" if (day := _day(run.state.get("started"))) else "",
    ]
    return " · ".join(part for part in parts if part)


def _day(seconds: Any) -> str:
    with contextlib.suppress(TypeError, ValueError, OverflowError, OSError):  # no time that there is
        return time.strftime("%Y-%m-%d %H:%M", time.gmtime(float(seconds))) if seconds else ""
    return ""


def _warnings(
    run: RunRecord, test: Performance | None, validation: Performance | None, problems: list[str]
) -> Values:
    missing = ((NOTE, "missing_here", {"problem": without_paths(problem)}) for problem in problems)
    return in_words([*warnings_of(run, test, validation), *missing])


def _sites(run: RunRecord) -> Values | None:
    entry = next((entry for entry in run.rounds if entry["round"] == run.best_round), None)
    if entry is None:
        return None
    places = {site: entry["sites"].get(site) for site in run.sites}
    pooled = entry.get("global")
    areas: Told = {site: _areas(values) if values else "no answer" for site, values in places.items()}
    at_half: Told = {site: _at_half(values) for site, values in places.items() if values}
    rates: list[Row] = [[POOLED, *map(number, _at_half(pooled))]] if pooled else []
    return {
        "tables": {
            "areas": site_table(
                ("Site", "Images", "With pneumonia", "AUROC"),
                areas,
                (whole, whole, area_cell),
                2,
                last=[[Cell(POOLED, strong=True), *_area_cells(pooled)]],
            ),
            "at_half": site_table(
                ("Site", *(NAMES[key] for key in _AT_HALF)),
                at_half,
                (number,) * len(_AT_HALF),
                0,
                "Another threshold: .5, before calibration",
                rates,
            ),
        },
        "model": run.model_words,
        "threshold": run.card.get("threshold"),
    }


def _areas(values: Mapping[str, Any]) -> list[float | None]:
    return [values.get("n", 0), values.get("positives", 0), values.get("auroc")]


def _at_half(values: Mapping[str, Any]) -> list[float | None]:
    return [values.get(key) for key in _AT_HALF]


def _area_cells(values: Mapping[str, Any] | None) -> Row:
    if not values:
        return [Cell("no answer"), "", ""]
    return [f"{values.get('n', 0):,}", f"{values.get('positives', 0):,}", area_cell(values.get("auroc"))]


def _training(run: RunRecord) -> Values | None:
    if not any(entry.get("sites") or entry.get("global") for entry in run.rounds):
        return None
    sites = [str(site) for site in run.metrics.get("sites", [])]
    figures = [charts.by_round(run.metrics, key, run.best_round) for key in charts.BY_ROUND]
    losses: dict[str, list[tuple[int, float]]] = {}
    for event in run.events:
        if event["event"] == "loss" and {"site", "step", "value"} <= event.keys():
            losses.setdefault(event["site"], []).append((event["step"], event["value"]))
    if losses:
        figures.append(charts.training_loss(losses, sites))
    return {
        "figures": [to_svg(figure) for figure in figures],
        "sites": site_looks(sites),
        "best": None if run.best_round is None else run.model_words,
        "settings": _settings(run),
    }


def _settings(run: RunRecord) -> list[tuple[str, str]]:
    """Describe the most important settings; the end of the page lists all."""
    model, train, algorithm, spec = (
        _Known(run.config.get(key) or {}) for key in ("model", "train", "algorithm", "preprocess")
    )
    own = KEYS.get(str(algorithm["name"]), set()) | {"average_last"}
    words = [f"{key} {value}" for key, value in algorithm.items() if key in own and value]
    return [
        ("Algorithm", ", ".join([str(algorithm["name"]), *words])),
        ("Network", f"{model['name']}, {model['norm']} normalisation, pretrained: {model['pretrained']}"),
        *_origin(run),
        ("Input", f"{spec['size']} x {spec['size']} px, {spec['mode']}, normalised {spec['normalisation']}"),
        (
            "Rounds",
            f"{run.state.get('rounds', '?')}, local epochs in each: {train['local_epochs']}",
        ),
        ("Optimiser", f"{train['optimizer']}, learning rate {train['lr']}, batch {train['batch_size']}"),
        ("Seed", str(train["seed"])),
        *own_settings(run),
    ]


def _origin(run: RunRecord) -> list[tuple[str, str]]:
    """Return the saved model that the run started from, where there is one."""
    origin = run.config.get("init_from") or {}
    return [("Went on from", f"{origin.get('name')} ({origin.get('weights')})")] if origin else []


class _Known(dict[str, Any]):
    """Settings in which one that is not known is a question mark."""

    def __missing__(self, key: str) -> str:
        return "?"


def _data(run: RunRecord) -> Values:
    facts = {
        "Source": run.data.get("source", "unknown"),
        "Licence": run.data.get("licence", "unknown"),
        "Credit": run.data.get("credit", "unknown"),
        "Dealt to sites": run.data.get("partition", "each site has its own"),
        "Manifest (SHA-256)": run.data.get("manifest_sha256", "unknown"),
    }
    manifests = {
        f"Manifest of {site}": values.get("manifest_sha256", "unknown")
        for site, values in sorted(run.site_data().items())
    }
    many = {"Manifests of the sites": f"{len(manifests):,}, each in the run's journal.jsonl"}
    facts |= many if len(manifests) > MANY_SITES else manifests
    counts = run.counts()
    return {"facts": facts, "tables": {"counts": count_table(counts)} if counts else {}}


COSTS = ("steps", "seconds", "bytes", "received_bytes")
"""What a site's result of a round costs; runs of earlier versions do not say what was received."""


def _cost(run: RunRecord) -> Values | None:
    entries = [entry for entry in run.rounds if any("seconds" in site for site in entry["sites"].values())]
    if not entries:
        return None
    sites = [str(site) for site in run.metrics.get("sites", [])]
    told: dict[str, list[float | None]] = {}
    for site in sites:
        answers = [entry["sites"][site] for entry in entries if site in entry["sites"]]
        sums = {key: sum(answer.get(key) or 0 for answer in answers) for key in COSTS}
        rounds = max(len(answers), 1)
        sent = [sums["bytes"] / rounds, sums["bytes"], sums["received_bytes"] / rounds or None]
        told[site] = [len(answers), sums["steps"], sums["seconds"], *sent]
    started, finished = run.state.get("started"), run.state.get("finished")
    wall = duration(finished - started) if started and finished else "unknown"
    total = sum(site.get("bytes") or 0 for entry in entries for site in entry["sites"].values())
    head = ("Site", "Rounds", "Steps", "Work", "Sent a round", "Sent in all", "Received a round")
    return {
        "tables": {"cost": site_table(head, told, (whole, whole, duration, size, size, size), 2)},
        "figure": to_svg(charts.seconds_by_round(entries, sites)),
        "sites": site_looks(sites),
        "wall": wall,
        "sent": size(total),
    }


def _repeat(run: RunRecord) -> Values:
    settings = [
        f"{key}: {value}"
        for key, value in flatten_settings(run.config)
        if not key.startswith(_PRIVATE_SETTINGS)
    ]
    software = {"pneumonia-fl": run.state.get("version"), "revision": run.state.get("revision")}
    software |= run.card.get("software") or {}
    return {
        "made_with": [f"{name} {version}" for name, version in software.items() if version],
        "made_by": run.state.get("version"),
        "settings": without_paths("\n".join(settings)),
    }
