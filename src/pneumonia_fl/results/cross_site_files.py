"""The cross-site matrix of a run, from its journal into its folder: JSON, CSV and heat map."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pneumonia_fl.evaluation.cross_site_matrix import matrix
from pneumonia_fl.files import inner_folder, write_atomic
from pneumonia_fl.metrics.binary import CELL
from pneumonia_fl.runs.folder import RunFolder
from pneumonia_fl.runs.journal import Event
from pneumonia_fl.runs.record import RunRecord

SPLIT = "val"


def write_matrix(run: RunFolder, events: list[Event]) -> dict[str, Any]:
    """Write `cross_site.json`, `cross_site.csv` and `figures/cross_site.png`, also in the place of earlier ones.

    Returns:
        The matrix; empty when no cell is known, and then nothing is written.

    Raises:
        OutputError: the folder cannot be written.
    """
    found = matrix_of(events)
    if not any(found["cells"].values()):
        return {}
    write_atomic(run.cross_site, json.dumps(found, indent=2).encode())
    draw_matrix(run.path, found)
    return found


def draw_matrix(folder: Path, found: Mapping[str, Any]) -> None:
    """Write a matrix as `cross_site.csv` and `figures/cross_site.png` into `folder`."""
    from pneumonia_fl.report.figures.canvas import save
    from pneumonia_fl.report.figures.heat_map import heat_map, to_csv

    write_atomic(folder / "cross_site.csv", to_csv(found).encode())
    inner_folder(folder / "figures")
    save(heat_map(found), folder / "figures" / "cross_site.png")


def matrix_of(events: list[Event]) -> dict[str, Any]:
    """Return the matrix in a run's journal (see `crosssite.matrix`): global models, then sites' own ones."""
    record = RunRecord.of_events(events)
    started = record.of_kind("started")
    sites = started[-1]["sites"] if started else record.metrics["sites"]
    rounds = {entry["round"]: entry["sites"] for entry in record.rounds}
    numbers = {"best": record.metrics["best_round"], "last": record.last_judged_round}
    cells = {name: _row(rounds[number]) for name, number in numbers.items() if number in rounds}
    reasons: dict[str, list[str]] = {}
    for event in record.of_kind("cross_site_missing"):
        said = reasons.setdefault(event["site"], [])
        said += [event["reason"]] if event["reason"] not in said else []
    missing = {site: "; ".join(all_of) for site, all_of in reasons.items()}
    for site in sites:
        if unseen := [name for name, row in cells.items() if site not in row]:
            missing.setdefault(site, f"did not evaluate the global model: {', '.join(unseen)}")
    asked = next(iter(record.of_kind("evaluation_started")), None)
    for event in record.of_kind("cross_site"):
        cells.setdefault(event["model"], {}).update(_row({event["site"]: event["values"]}))
    names = asked["models"] if asked else list(cells)
    return matrix(asked["split"] if asked else SPLIT, names, list(sites), cells, missing)


def as_markdown(found: Mapping[str, Any]) -> str:
    """Format a matrix as a Markdown table of AUROC: models down, sites across."""
    sites = found["sites"]
    rows = [["AUROC of the model", *(f"on {site}" for site in sites)], ["---"] * (1 + len(sites))]
    for model, row in found["cells"].items():
        areas = [row.get(site, {}).get("auroc") for site in sites]
        rows.append([model, *("n/a" if area is None else f"{area:.3f}" for area in areas)])
    return "\n".join(f"| {' | '.join(cells)} |" for cells in rows)


def _row(sites: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return the cells of the sites that evaluated: in a cyclic pass some only train."""
    return {
        site: {key: values[key] for key in CELL}
        for site, values in sorted(sites.items())
        if values.keys() >= set(CELL)
    }
