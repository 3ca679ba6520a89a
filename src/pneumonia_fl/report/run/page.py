"""The report of one run: what it says, section by section."""

import contextlib
import time
from collections.abc import Callable, Mapping
from typing import Any

from pneumonia_fl import __version__
from pneumonia_fl.config.algorithm import KEYS
from pneumonia_fl.metrics.binary import NAMES
from pneumonia_fl.report.figures import charts
from pneumonia_fl.report.performance import Performance, of_card, of_evaluation, of_histogram
from pneumonia_fl.report.run.performance_sections import performance_section, subtype_section
from pneumonia_fl.report.run.summary import headline
from pneumonia_fl.report.run.warnings import warnings_of
from pneumonia_fl.report.run_folder_reader import RunFiles, without_paths
from pneumonia_fl.report.view.blocks import (
    Block,
    Cell,
    Columns,
    Commands,
    Facts,
    Figure,
    Figures,
    Folded,
    Notes,
    Page,
    Section,
    Table,
    Text,
    flat,
    guarded,
    listed,
    number,
    plural,
    serious_first,
    worded,
)
from pneumonia_fl.report.view.tables import area_cell, count_table, cross_site_section, duration, size

_PANELS = {
    "auroc": "AUROC",
    "loss": "Loss",
    "sensitivity": "Sensitivity at .5",
    "specificity": "Specificity at .5",
}
_AT_HALF = ("sensitivity", "specificity", "brier", "ece")
"""What is known of a single site, at the threshold .5 only."""
_PRIVATE_SETTINGS = ("mlflow.", "tracking")


def run_page(run: RunFiles, gallery: Section | None = None) -> Page:
    """Put the report of a run together; a part that cannot be made says so and the others stand."""
    problems = list(run.problems)
    test, validation = _performance(run, problems)
    makers: list[tuple[str, str, Callable[[], Section | None]]] = [
        ("summary", "In short", lambda: headline(run, test, validation)),
        ("warnings", "Read this first", lambda: _warnings(run, test, validation, problems)),
        ("performance", "How good is the model?", lambda: performance_section(run, test, validation)),
        ("subtypes", "Bacterial and viral pneumonia", lambda: subtype_section(test)),
        ("gallery", "Where it went wrong", lambda: gallery),
        ("sites", "Site by site", lambda: _sites(run)),
        ("cross-site", "Every model on every site's data", lambda: cross_site_section(run.cross_site)),
        ("training", "How it was trained", lambda: _training(run)),
        ("data", "What it was trained on", lambda: _data(run)),
        ("cost", "What it cost", lambda: _cost(run)),
        ("limits", "Limits and intended use", lambda: _limits(run)),
        ("repeat", "How to repeat it", lambda: _repeat(run)),
    ]
    made = [guarded(key, title, make) for key, title, make in makers]
    return Page(
        title=f"Run of {run.state.get('job', 'an unknown job')}",
        subtitle=worded(lambda: _subtitle(run)),
        state=str(run.state.get("state", "unknown")),
        sections=serious_first(made),
        holds_images=gallery is not None,
    )


def _performance(run: RunFiles, problems: list[str]) -> tuple[Performance | None, Performance | None]:
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


def _subtitle(run: RunFiles) -> str:
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
    run: RunFiles, test: Performance | None, validation: Performance | None, problems: list[str]
) -> Section:
    items = warnings_of(run, test, validation)
    items += [("note", f"Missing here: {without_paths(problem)}") for problem in problems]
    lead = "What could make the numbers below better or worse than they look."
    return Section("warnings", "Read this first", lead, [Notes(items or [("note", "Nothing stood out.")])])


def _sites(run: RunFiles) -> Section | None:
    entry = next((entry for entry in run.rounds if entry["round"] == run.best_round), None)
    if entry is None:
        return None
    places = [(site, entry["sites"].get(site)) for site in run.sites] + [("All pooled", entry.get("global"))]
    areas: list[list[Cell | str]] = [
        [Cell(name, strong=name not in run.sites), *_area_cells(values)] for name, values in places
    ]
    at_half: list[list[Cell | str]] = [
        [name, *(number(values.get(key)) for key in _AT_HALF)] for name, values in places if values
    ]
    head = ("Site", "Images", "With pneumonia", "AUROC")
    note = "Each site's own validation images. Pooled: all sites' images together, not the mean."
    caption = "Another threshold: .5, before calibration"
    why = (
        "Not to be compared with the numbers above, which are at the saved threshold of "
        f"{number(run.card.get('threshold'))} after calibration: of a single site only these are known."
    )
    tables = [
        Table(head, areas, note=note),
        Table(("Site", *(NAMES[key] for key in _AT_HALF)), at_half, caption, why),
    ]
    lead = f"The model that was saved ({run.model_words}) at each hospital."
    return Section("sites", "Site by site", lead, [Columns([[table] for table in tables])])


def _area_cells(values: Mapping[str, Any] | None) -> list[Cell | str]:
    if not values:
        return [Cell("no answer"), "", ""]
    return [f"{values.get('n', 0):,}", f"{values.get('positives', 0):,}", area_cell(values.get("auroc"))]


def _training(run: RunFiles) -> Section | None:
    rounds = [entry for entry in run.rounds if entry.get("sites") or entry.get("global")]
    if not rounds:
        return None
    sites = [str(site) for site in run.metrics.get("sites", [])]
    figures = [
        Figure(charts.by_round(rounds, sites, key, title, run.best_round)) for key, title in _PANELS.items()
    ]
    losses: dict[str, list[tuple[int, float]]] = {}
    for event in run.events:
        if event["event"] == "loss":
            losses.setdefault(event["site"], []).append((event["step"], event["value"]))
    if losses:
        figures.append(Figure(charts.training_loss(losses, sites)))
    best = "" if run.best_round is None else f" The star is the model that was saved: {run.model_words}."
    lead = f"Measured on the sites' validation images before each round's training.{best}"
    legend = [("currentColor", "thick", "all sites pooled"), *charts.site_legend(sites)]
    blocks: list[Block] = [Figures(figures, legend), Facts(_settings(run))]
    return Section("training", "How it was trained", lead, blocks)


def _settings(run: RunFiles) -> list[tuple[str, str]]:
    """The settings that matter most, in words; all of them stand at the end of the page."""
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
        *((f"At {site} only", words) for site, words in run.own_settings()),
    ]


def _origin(run: RunFiles) -> list[tuple[str, str]]:
    """The saved model that the run went on from, where there is one."""
    origin = run.config.get("init_from") or {}
    return [("Went on from", f"{origin.get('name')} ({origin.get('weights')})")] if origin else []


class _Known(dict[str, Any]):
    """Settings in which one that is not known is a question mark."""

    def __missing__(self, key: str) -> str:
        return "?"


def _data(run: RunFiles) -> Section:
    data, counts = run.data, run.counts()
    facts = [
        ("Source", str(data.get("source", "unknown"))),
        ("Licence", str(data.get("licence", "unknown"))),
        ("Credit", str(data.get("credit", "unknown"))),
        ("Dealt to sites", str(data.get("partition", "each site has its own"))),
        ("Manifest (SHA-256)", str(data.get("manifest_sha256", "unknown"))),
    ]
    facts += [
        (f"Manifest of {site}", str(values.get("manifest_sha256", "unknown")))
        for site, values in sorted(run.site_data().items())
    ]
    images: Block = count_table(counts) if counts else Text(("How many images there were is not known.",))
    lead = "Images by hospital, split and class. Split by patient: nobody's images are in two splits or at two sites."
    return Section("data", "What it was trained on", lead, [Columns([[images], [Facts(facts)]])])


def _cost(run: RunFiles) -> Section | None:
    entries = [entry for entry in run.rounds if any("seconds" in site for site in entry["sites"].values())]
    if not entries:
        return None
    sites = [str(site) for site in run.metrics.get("sites", [])]
    rows: list[list[Cell | str]] = []
    for site in sites:
        answers = [entry["sites"][site] for entry in entries if site in entry["sites"]]
        sums = {key: sum(answer.get(key) or 0 for answer in answers) for key in ("steps", "seconds", "bytes")}
        sent = [size(sums["bytes"] / max(len(answers), 1)), size(sums["bytes"])]
        rows.append([site, str(len(answers)), f"{sums['steps']:,}", duration(sums["seconds"]), *sent])
    started, finished = run.state.get("started"), run.state.get("finished")
    wall = duration(finished - started) if started and finished else "unknown"
    total = sum(site.get("bytes") or 0 for entry in entries for site in entry["sites"].values())
    note = f"Whole run: {wall} from start to end; {size(total)} of weights sent by all sites, about as much received."
    head = ("Site", "Rounds", "Steps", "Work", "Sent a round", "Sent in all")
    table = Table(head, rows, note=note)
    figure = Figures([Figure(charts.seconds_by_round(entries, sites))], charts.site_legend(sites))
    blocks: list[Block] = [Columns([[table], [figure]])]
    lead = "Only model weights and counts travel. Images, scores and names of patients never leave a site."
    return Section("cost", "What it cost", lead, blocks)


def _limits(run: RunFiles) -> Section:
    card = run.card
    paragraphs = tuple(
        str(card[key]) for key in ("intended_use", "limitations", "disclaimer") if card.get(key)
    )
    always = (
        "Not for: diagnosis, triage, treatment, or any decision about a person.",
        "The labels are pneumonia or normal. Any other disease is called one of the two.",
    )
    return Section("limits", "Limits and intended use", "", [Text((*paragraphs, *always))])


def _repeat(run: RunFiles) -> Section:
    settings = [f"{key}: {value}" for key, value in flat(run.config) if not key.startswith(_PRIVATE_SETTINGS)]
    software = {"pneumonia-fl": run.state.get("version"), "revision": run.state.get("revision")}
    software |= run.card.get("software") or {}
    said = [f"{name} {version}" for name, version in software.items() if version]
    commands = [
        ("pneumonia-fl run --from RUN --data DATA", "trains again with the same settings and seed"),
        (
            "pneumonia-fl evaluate RUN --source DATA --split test",
            "measures the saved model; read a test split once",
        ),
        ("pneumonia-fl report RUN", "makes this page again"),
    ]
    lead = f"RUN is the run's folder, DATA the prepared images with the manifest named above. Made with {listed(said)}."
    blocks: list[Block] = [Commands(commands)]
    if run.state.get("version") not in (None, __version__):
        blocks.append(Text((f"This page was drawn by version {__version__}.",), "small"))
    if settings:
        blocks.append(Folded("All settings of the job", without_paths("\n".join(settings))))
    return Section("repeat", "How to repeat it", lead, blocks)
