"""The report of a comparison: central training, each site alone and the federated jobs on the same test images."""

from collections.abc import Mapping, Sequence
from typing import Any

from pneumonia_fl.metrics.binary import COLUMN_NAMES, COMPARED
from pneumonia_fl.report.comparison.comparison_summary import comparison_warnings, headline
from pneumonia_fl.report.figures import charts
from pneumonia_fl.report.figures.forest_plot import (
    REFERENCES,
    Arm,
    Statistic,
    difference_estimates,
    model_estimates,
    pooled,
)
from pneumonia_fl.report.figures.svg import to_svg
from pneumonia_fl.report.run_folder_reader import ComparisonFiles
from pneumonia_fl.report.view.cross_site_tables import cross_site_values
from pneumonia_fl.report.view.page_tables import Cell, Row, Table, area_cell
from pneumonia_fl.report.view.rendering import Maker, Page, Values, make_sections
from pneumonia_fl.report.view.site_tables import count_table
from pneumonia_fl.report.view.wording import duration, join_and, number, plural, size, text_or_empty
from pneumonia_fl.runs.record import is_drawn

_MEASURES = {name: COLUMN_NAMES[name] for name in COMPARED}


def compare_page(files: ComparisonFiles) -> Page:
    """Build the report of a comparison."""
    summary = files.summary
    arms: list[Arm] = [arm for arm in summary.get("arms", []) if arm.get("pooled")]
    matrix = summary.get("cross_site") or {}
    makers: tuple[Maker, ...] = (
        ("summary", "In short", lambda: headline(summary, arms)),
        ("warnings", "Read this first", lambda: comparison_warnings(summary, files.problems)),
        ("results", "All models on the same test images", lambda: _results(summary, arms)),
        ("differences", "Is the difference real?", lambda: _differences(arms)),
        ("sites", "Hospital by hospital", lambda: _sites(summary, arms)),
        ("cross-site", "Every model on every site's data", lambda: cross_site_values(matrix)),
        ("data", "What it was trained on", lambda: _data(summary)),
        ("cost", "What it cost", lambda: _cost(arms)),
        ("limits", "Limits and intended use", dict),
        ("repeat", "How to repeat it", lambda: _repeat(summary)),
    )
    return Page(
        title="Is the federated model worth it?",
        subtitle=text_or_empty(lambda: _subtitle(summary, arms)),
        state=str(summary.get("state", "unknown")),
        sections=make_sections("comparison", makers),
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


def _results(summary: Mapping[str, Any], arms: Sequence[Arm]) -> Values | None:
    if not arms:
        return None
    rows: list[Row] = [[str(arm["name"]), *(_summary(arm, key) for key in _MEASURES)] for arm in arms]
    return {
        "tables": {"models": Table(("Model", *_MEASURES.values()), rows)},
        "figure": to_svg(charts.estimates(model_estimates(arms), "AUROC with 95 % CI", zero=False)),
        "counts": [(summary.get("test") or {}).get(key, "?") for key in ("n", "patients", "positives")],
        "drawn": is_drawn(summary.get("data")),
    }


def _summary(arm: Arm, key: str) -> Cell:
    value = pooled(arm, key)
    if not value:
        return Cell("n/a")
    sd = "" if value.get("sd") is None else f" ± {number(value['sd'])}"
    return Cell(number(value["mean"]) + sd, strong=key == "auroc")


def _differences(arms: Sequence[Arm]) -> Values | None:
    found = [
        (f"{arm['name']} less {REFERENCES.get(role, role)}", values or {})
        for arm in arms
        if arm.get("kind") == "federated"
        for role, values in (arm.get("differences") or {}).items()
    ]
    if not found:
        return None
    rows: list[Row] = [
        [title, *(_signed(values.get(key)) for _, values in found)] for key, title in _MEASURES.items()
    ]
    chart = charts.estimates(difference_estimates(arms), "Difference in AUROC", zero=True)
    return {
        "tables": {"differences": Table(("Difference", *(name for name, _ in found)), rows)},
        "figure": to_svg(chart),
    }


def _signed(value: Statistic | None) -> str:
    if not value:
        return "n/a"
    ends = "" if value.get("low") is None else f" ({value['low']:+.3f} to {value['high']:+.3f})"
    return f"{value['mean']:+.3f}{ends}"


def _sites(summary: Mapping[str, Any], arms: Sequence[Arm]) -> Values | None:
    sites, counts = summary.get("sites", []), (summary.get("test") or {}).get("sites") or {}
    if not any(arm.get("sites") for arm in arms):
        return None
    rows: list[Row] = [
        [str(arm["name"]), *(_site_cell(arm, site, counts.get(site) or {}) for site in sites)] for arm in arms
    ]
    rows.append(["Images (with pneumonia)", *(_site_count(counts.get(site) or {}) for site in sites)])
    return {"tables": {"sites": Table(("Model", *map(str, sites)), rows)}}


def _site_cell(arm: Arm, site: str, count: Mapping[str, int]) -> Cell:
    value = ((arm.get("sites") or {}).get(site) or {}).get("auroc")
    if value:
        return area_cell(float(value["mean"]))
    return Cell("one class" if count.get("n") else "–")


def _site_count(count: Mapping[str, int]) -> str:
    return f"{count['n']:,} ({count['positives']:,})" if count else "–"


def _data(summary: Mapping[str, Any]) -> Values:
    data = summary.get("data") or {}
    facts = {
        "Source": data.get("source", "unknown"),
        "Licence": data.get("licence", "unknown"),
        "Credit": data.get("credit", "unknown"),
        "Dealt to sites": summary.get("partition", "unknown"),
        "Manifest (SHA-256)": data.get("manifest_sha256", "unknown"),
        "Seeds": join_and(map(str, summary.get("seeds", []))),
    }
    return {"facts": facts, "tables": {"counts": count_table(data["counts"])} if data.get("counts") else {}}


def _cost(arms: Sequence[Arm]) -> Values | None:
    columns = (("steps", "{:,.0f}".format), ("seconds", duration), ("bytes", size))
    rows: list[Row] = [[str(arm["name"]), *(_range(arm, key, say) for key, say in columns)] for arm in arms]
    head = ("Model", "Optimiser steps", "Seconds", "Weights sent by the sites")
    return {"tables": {"cost": Table(head, rows)}} if rows else None


def _range(arm: Arm, key: str, say: Any) -> str:
    values = [value for value in arm.get(key) or [] if value is not None]
    if not values:
        return "n/a"
    low, high = say(min(values)), say(max(values))
    return str(low) if low == high else f"{low} to {high}"


def _repeat(summary: Mapping[str, Any]) -> Values:
    jobs = [str(arm["name"]) for arm in summary.get("arms", []) if arm.get("kind") == "federated"]
    return {"jobs": jobs or ["fedavg"], "seeds": len(summary.get("seeds", [])) or 3}
