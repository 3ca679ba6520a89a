"""The report of a comparison: central training, each site alone and the federated jobs on the same test images."""

from collections.abc import Mapping, Sequence
from typing import Any

from pneumonia_fl.report.comparison.comparison_summary import (
    REFERENCES,
    Arm,
    Statistic,
    comparison_warnings,
    headline,
    pooled,
)
from pneumonia_fl.report.figures import charts
from pneumonia_fl.report.run.card_page import card
from pneumonia_fl.report.run_folder_reader import ComparisonFiles, is_drawn
from pneumonia_fl.report.view.blocks import (
    Block,
    Cell,
    Columns,
    Commands,
    Facts,
    Figure,
    Figures,
    Page,
    Section,
    Table,
    Text,
    guarded,
    listed,
    number,
    plural,
    serious_first,
    worded,
)
from pneumonia_fl.report.view.tables import area_cell, count_table, cross_site_section, duration, size

_MEASURES = {
    "auroc": "AUROC",
    "sensitivity": "Sensitivity",
    "specificity": "Specificity",
    "f1": "F1",
    "balanced_accuracy": "Balanced accuracy",
    "brier": "Brier",
    "ece": "ECE",
}


def compare_page(files: ComparisonFiles) -> Page:
    """Put the report of a comparison together."""
    summary = files.summary
    arms: list[Arm] = [arm for arm in summary.get("arms", []) if arm.get("pooled")]
    makers = (
        ("summary", "In short", lambda: headline(summary, arms)),
        ("warnings", "Read this first", lambda: comparison_warnings(summary, files.problems)),
        ("results", "All models on the same test images", lambda: _results(summary, arms)),
        ("differences", "Is the difference real?", lambda: _differences(arms)),
        ("sites", "Hospital by hospital", lambda: _sites(summary, arms)),
        (
            "cross-site",
            "Every model on every site's data",
            lambda: cross_site_section(summary.get("cross_site") or {}),
        ),
        ("data", "What it was trained on", lambda: _data(summary)),
        ("cost", "What it cost", lambda: _cost(arms)),
        ("limits", "Limits and intended use", _limits),
        ("repeat", "How to repeat it", lambda: _repeat(summary)),
    )
    made = [guarded(key, title, make) for key, title, make in makers]
    return Page(
        title="Is the federated model worth it?",
        subtitle=worded(lambda: _subtitle(summary, arms)),
        state=str(summary.get("state", "unknown")),
        sections=serious_first(made),
    )


def _subtitle(summary: Mapping[str, Any], arms: Sequence[Arm]) -> str:
    parts = (
        plural(len(arms), "model"),
        plural(len(summary.get("sites", [])), "site"),
        str(summary.get("partition", "")),
        plural(len(summary.get("seeds", [])), "seed"),
        plural(int(summary.get("rounds") or 0), "round"),
    )
    return " · ".join(part for part in parts if part)


def _results(summary: Mapping[str, Any], arms: Sequence[Arm]) -> Section | None:
    if not arms:
        return None
    rows: list[list[Cell | str]] = [
        [str(arm["name"]), *(_summary(arm, key) for key in _MEASURES)] for arm in arms
    ]
    lines = [
        (str(arm["name"]), float(value["mean"]), value.get("low"), value.get("high"))
        for arm in arms
        if (value := pooled(arm, "auroc"))
    ]
    test = summary.get("test") or {}
    note = "Mean over seeds ± SD between seeds. Brier and ECE: lower is better. Threshold and calibration: validation."
    blocks: list[Block] = [Table(("Model", *_MEASURES.values()), rows, note=note)]
    if lines:
        figure = charts.estimates(lines, "models", "AUROC with 95 % CI", zero=False)
        blocks.append(Figures([Figure(figure, "Intervals: bootstrap by patient, 1,000 samples.")]))
    counted = [str(test.get(key, "?")) for key in ("n", "patients", "positives")]
    kind = "drawn " if is_drawn(summary.get("data")) else ""
    lead = "{} {}images of {} patients, {} with pneumonia.".format(counted[0], kind, *counted[1:])
    return Section("results", "All models on the same test images", lead, blocks)


def _summary(arm: Arm, key: str) -> Cell:
    value = pooled(arm, key)
    if not value:
        return Cell("n/a")
    sd = "" if value.get("sd") is None else f" ± {number(value['sd'])}"
    return Cell(number(value["mean"]) + sd, strong=key == "auroc")


def _differences(arms: Sequence[Arm]) -> Section | None:
    found = [
        (f"{arm['name']} less {REFERENCES.get(role, role)}", values or {})
        for arm in arms
        if arm.get("kind") == "federated"
        for role, values in (arm.get("differences") or {}).items()
    ]
    if not found:
        return None
    rows: list[list[Cell | str]] = [
        [title, *(_signed(values.get(key)) for _, values in found)] for key, title in _MEASURES.items()
    ]
    blocks: list[Block] = [Table(("Difference", *(name for name, _ in found)), rows)]
    known = [(name, values["auroc"]) for name, values in found if values.get("auroc")]
    lines = [
        (name.replace(" training", ""), value["mean"], value["low"], value["high"]) for name, value in known
    ]
    if lines:
        figure = charts.estimates(lines, "differences", "Difference in AUROC", zero=True)
        caption = "Right of the dotted line the federated model is better. An interval across it: no difference shown."
        blocks.append(Figures([Figure(figure, caption)]))
    lead = "The same test patients for both models, so the difference has an interval of its own (95 %)."
    return Section("differences", "Is the difference real?", lead, blocks)


def _signed(value: Statistic | None) -> str:
    if not value:
        return "n/a"
    ends = "" if value.get("low") is None else f" ({value['low']:+.3f} to {value['high']:+.3f})"
    return f"{value['mean']:+.3f}{ends}"


def _sites(summary: Mapping[str, Any], arms: Sequence[Arm]) -> Section | None:
    sites, counts = summary.get("sites", []), (summary.get("test") or {}).get("sites") or {}
    if not any(arm.get("sites") for arm in arms):
        return None
    rows: list[list[Cell | str]] = [
        [str(arm["name"]), *(_site_cell(arm, site, counts.get(site) or {}) for site in sites)] for arm in arms
    ]
    rows.append(["Images (with pneumonia)", *(_site_count(counts.get(site) or {}) for site in sites)])
    lead = "AUROC of each model on each hospital's own test images. Few images: a wide interval, which is not shown."
    return Section("sites", "Hospital by hospital", lead, [Table(("Model", *map(str, sites)), rows)])


def _site_cell(arm: Arm, site: str, count: Mapping[str, int]) -> Cell:
    value = ((arm.get("sites") or {}).get(site) or {}).get("auroc")
    if value:
        return area_cell(float(value["mean"]))
    return Cell("one class" if count.get("n") else "–")


def _site_count(count: Mapping[str, int]) -> str:
    return f"{count['n']:,} ({count['positives']:,})" if count else "–"


def _data(summary: Mapping[str, Any]) -> Section:
    data = summary.get("data") or {}
    images: list[Block] = [count_table(data["counts"])] if data.get("counts") else []
    facts = [
        ("Source", str(data.get("source", "unknown"))),
        ("Licence", str(data.get("licence", "unknown"))),
        ("Credit", str(data.get("credit", "unknown"))),
        ("Dealt to sites", str(summary.get("partition", "unknown"))),
        ("Manifest (SHA-256)", str(data.get("manifest_sha256", "unknown"))),
        ("Seeds", listed(map(str, summary.get("seeds", [])))),
    ]
    lead = "Central training pools all sites' images, which is allowed on simulated hospitals only."
    return Section("data", "What it was trained on", lead, [Columns([images, [Facts(facts)]])])


def _cost(arms: Sequence[Arm]) -> Section | None:
    columns = (("steps", "{:,.0f}".format), ("seconds", duration), ("bytes", size))
    rows: list[list[Cell | str]] = [
        [str(arm["name"]), *(_range(arm, key, say) for key, say in columns)] for arm in arms
    ]
    head = ("Model", "Optimiser steps", "Seconds", "Weights sent by the sites")
    lead = "The same number of optimiser steps for all, so that none has an advantage. For one seed, least to most."
    return Section("cost", "What it cost", lead, [Table(head, rows)]) if rows else None


def _range(arm: Arm, key: str, say: Any) -> str:
    values = [value for value in arm.get(key) or [] if value is not None]
    if not values:
        return "n/a"
    low, high = say(min(values)), say(max(values))
    return str(low) if low == high else f"{low} to {high}"


def _limits() -> Section:
    lines = (
        "Simulated hospitals from one public data set differ less than real ones do.",
        "The best site alone was picked by its test AUROC, which makes it hard to beat.",
        "Three seeds say little about the spread between trainings. Intervals are about patients, not about seeds.",
        "Not for: diagnosis, triage, treatment, or any decision about a person.",
    )
    return Section("limits", "Limits and intended use", "", [Text(lines)])


def _repeat(summary: Mapping[str, Any]) -> Section:
    jobs = ",".join(str(arm["name"]) for arm in summary.get("arms", []) if arm.get("kind") == "federated")
    command = f"pneumonia-fl compare --data DATA --jobs {jobs or 'fedavg'} --seeds {len(summary.get('seeds', [])) or 3}"
    commands = [
        (command, "trains all models again; with the same --out it only does what is missing"),
        ("pneumonia-fl report FOLDER", "makes this page again from summary.json, without training"),
    ]
    return Section("repeat", "How to repeat it", "", [Commands(commands)])


def comparison_card(files: ComparisonFiles, page: Page) -> dict[str, Any]:
    """What the template needs for a comparison's model card, which describes several models."""
    summary = files.summary
    details = {
        "Models": ", ".join(str(arm.get("name")) for arm in summary.get("arms", [])),
        "Sites": ", ".join(map(str, summary.get("sites", []))),
        "Seeds": ", ".join(map(str, summary.get("seeds", []))),
        "Rounds": summary.get("rounds"),
    }
    return card(page, details, {})
