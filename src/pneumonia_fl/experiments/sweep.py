"""A small grid of settings, one run after another: which does best on validation data?

The state of a sweep is the state of its run folders: a point whose run has ended is not run again, so that a killed
sweep is resumed where it stopped. The test split is never read.

sweeps/NAME/
    sweep.json    job, grid, data and the results so far      mlflow.db    parent and child runs
    point-01/     the run folder of the first point           …
"""

import itertools
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pneumonia_fl import __version__
from pneumonia_fl.config.environment import data_root
from pneumonia_fl.config.job import JobConfig, load_job
from pneumonia_fl.config.job_files import find_job
from pneumonia_fl.config.overrides import flatten
from pneumonia_fl.data.manifest import read_info
from pneumonia_fl.errors import ConfigError, OutputError, PneumoniaFLError, RunError
from pneumonia_fl.files import inner_folder, private_folder, write_atomic
from pneumonia_fl.fl.job.initial_model import begin
from pneumonia_fl.fl.simulator.simulation import Request, Watcher, check, run_simulation
from pneumonia_fl.inputs.folder_locks import in_use
from pneumonia_fl.inputs.json_files import MAX_RECORD_BYTES, read_json
from pneumonia_fl.metrics.binary import CELL
from pneumonia_fl.runs.folder import RunFolder
from pneumonia_fl.runs.record import best_metrics
from pneumonia_fl.tracking.mlflow_sweep import SweepRecords

MOST_RUNS = 24
"""More runs than this need the user's word."""
SUMMARY = "sweep.json"
VERSION = 1
ENDED = ("finished", "incomplete", "failed")
SHOWN_PROBLEMS = 3
TRACKING = "tracking=[tensorboard]"
"""The sweep logs to MLflow itself, so its points do not."""

Grid = dict[str, list[str]]


@dataclass(frozen=True)
class Point:
    """One place in the grid: what is set there, and the job that comes of it."""

    name: str
    settings: dict[str, str]
    job: JobConfig

    @property
    def words(self) -> list[str]:
        """Return the settings as `key=value`."""
        return [f"{key}={value}" for key, value in self.settings.items()]


Show = Callable[[int, int, Point], AbstractContextManager[Watcher]]
"""Given number, total and point: whoever shows that run."""


def run_sweep(request: Request, grid: Grid, show: Show, yes: bool = False) -> tuple[Path, dict[str, Any]]:
    """Run what is left of the sweep; return its folder and what `sweep.json` then holds.

    Args:
        request: the run that every point is, but for its settings; `out` is the folder of the sweep.
        grid: what is set at the points.
        show: makes whoever shows the run of a point.
        yes: run also more than `MOST_RUNS` points.

    Raises:
        ConfigError: the grid is too large, or a point of it cannot be run.
        OutputError: the folder holds another sweep, or another process works in it.
        RunError: no point has finished.
    """
    request = replace(request, overrides=[TRACKING, *request.overrides])
    job = _load(request.job, request.overrides)
    about = _about(job, grid, request)
    points = points_of(request, grid)
    if len(points) > MOST_RUNS and not yes:
        raise ConfigError(f"the grid has {len(points)} points, each a whole run; pass --yes to run them all")
    folder = (request.out or Path("sweeps") / job.name).absolute()
    known = _earlier(folder, about).get("mlflow", {})
    with in_use(folder):
        return folder, _run_points(
            request, folder, points, about, SweepRecords(folder, job, grid, known), show
        )


def _run_points(
    request: Request,
    folder: Path,
    points: list[Point],
    about: Mapping[str, Any],
    records: SweepRecords,
    show: Show,
) -> dict[str, Any]:
    rows = [_row(folder, point) for point in points]
    for index, point in enumerate(points):
        if rows[index]["state"] not in ENDED:
            with show(index + 1, len(points), point) as watcher:
                rows[index] = _run(folder, point, request, watcher)
        records.add(point.job, rows[index], RunFolder(folder / point.name))
        _write(folder, about, rows, records)
    records.close()
    summary = _write(folder, about, rows, records)
    if summary["best"] is None:
        reasons = "; ".join(f"{row['name']}: {row['reason']}" for row in rows[:3])
        raise RunError(f"no point of the sweep has finished; {reasons}; see {folder}")
    return summary


def parse_grid(words: list[str]) -> Grid:
    """Read `key=v1,v2` words; `ConfigError` when one is malformed or says something twice."""
    grid: Grid = {}
    for word in words:
        key, separator, text = word.partition("=")
        values = [value.strip() for value in text.split(",")]
        if not (separator and key.strip() and all(values)):
            raise ConfigError(f"--grid {word!r}: write key=value,value, for example train.lr=0.001,0.002")
        if key.strip() in grid or len(set(values)) < len(values):
            raise ConfigError(f"--grid {word!r}: a setting or a value occurs twice")
        grid[key.strip()] = values
    if "init_from" in grid:
        raise ConfigError(
            "init_from is no setting to sweep, its paths stay here; write it into the job's file"
        )
    if not grid:
        raise ConfigError("nothing to sweep; pass --grid key=value,value, for example train.lr=0.001,0.002")
    return grid


def _load(job: str, overrides: Sequence[str]) -> JobConfig:
    """Load the job as it is recorded: with the name of its initial model in place of the path."""
    return begin(load_job(find_job(job), overrides), find_job(job))[0]


def points_of(request: Request, grid: Grid) -> list[Point]:
    """Return all combinations, the first setting changing slowest.

    Raises:
        ConfigError: some cannot be run; the message names each.
    """
    points, problems = [], []
    for number, values in enumerate(itertools.product(*grid.values()), start=1):
        settings = dict(zip(grid, values, strict=True))
        words = " ".join(f"{key}={value}" for key, value in settings.items())
        try:
            job = check(_at(request, settings)).job
        except PneumoniaFLError as error:
            problems.append(f"{words}: {error}")
        else:
            points.append(Point(f"point-{number:02d}", settings, job))
    if problems:
        more = f" (and {len(problems) - SHOWN_PROBLEMS} more)" if len(problems) > SHOWN_PROBLEMS else ""
        raise ConfigError(f"nothing was run: {'; '.join(problems[:SHOWN_PROBLEMS])}{more}")
    return points


def _at(request: Request, settings: Mapping[str, str], out: Path | None = None) -> Request:
    """Return the run request of one point."""
    words = [f"{key}={value}" for key, value in settings.items()]
    return replace(request, out=out, overrides=[*words, *request.overrides])


def ranked(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Sort the sweep's rows by pooled validation AUROC, best first, unfinished points last."""
    return sorted(summary["points"], key=_rank)


def _about(job: JobConfig, grid: Grid, request: Request) -> dict[str, Any]:
    """Return the settings that identify a sweep."""
    data = request.data or data_root()
    return {
        "version": VERSION,
        "program": __version__,
        "job": job.name,
        "settings": [
            f"{key}={value}" for key, value in flatten(job).items() if not key.startswith("mlflow.")
        ],
        "grid": grid,
        "manifest_sha256": read_info(data).manifest_sha256 if data else None,
    }


def _earlier(folder: Path, about: Mapping[str, Any]) -> dict[str, Any]:
    """Read the summary of an unfinished sweep that is to be resumed; empty when there is none.

    Raises:
        OutputError: the folder holds something else.
    """
    private_folder(folder)
    file = folder / SUMMARY
    if not file.is_file():
        if any(folder.iterdir()):
            raise OutputError(f"{folder} exists already and is no sweep; choose another --out")
        write_atomic(file, json.dumps(about, indent=2).encode())
    found = _read(file)
    changed = [key for key in about if found.get(key) != about[key]]
    if changed:
        raise OutputError(
            f"{folder} holds a sweep with another {' and '.join(changed)}; choose another --out to start a new one"
        )
    return found


def _read(file: Path) -> dict[str, Any]:
    try:
        found = read_json(file, MAX_RECORD_BYTES)
        if not isinstance(found, dict) or not isinstance(found.get("mlflow", {}), dict):
            raise ValueError("not a sweep's")
    except (OSError, ValueError) as error:
        raise OutputError(
            f"{file} is damaged ({error}); remove it to run its points again, or choose another --out"
        ) from None
    return found


def _run(folder: Path, point: Point, request: Request, watcher: Watcher) -> dict[str, Any]:
    """Run one point; what goes wrong stays with it."""
    out = folder / point.name
    shutil.rmtree(out, ignore_errors=True)  # of a sweep that was killed
    try:
        inner_folder(out)
        run_simulation(_at(request, point.settings, out), watcher)
    except PneumoniaFLError as error:
        row = _row(folder, point)
        return row if row["state"] in ENDED else {**row, "state": "failed", "reason": str(error)}
    return _row(folder, point)


def _row(folder: Path, point: Point) -> dict[str, Any]:
    """Read a point's row from its run folder; a damaged run counts as not yet run."""
    try:
        return _known(RunFolder(folder / point.name), point)
    except (RunError, KeyError, TypeError):
        nothing = {"reason": "", "best_round": None, "validation": None, "seconds": None}
        return {"name": point.name, "settings": point.settings, "state": "waiting", **nothing}


def _known(run: RunFolder, point: Point) -> dict[str, Any]:
    state = run.state() if run.is_run else {}
    metrics = run.metrics() if run.metrics_file.is_file() else {"rounds": [], "best_round": None}
    best = best_metrics(metrics)
    return {
        "name": point.name,
        "settings": point.settings,
        "state": state.get("state", "waiting"),
        "reason": state.get("error", ""),
        "best_round": metrics["best_round"],
        "validation": {key: best[key] for key in (*CELL, "loss")} if best else None,
        "seconds": round(state["finished"] - state["started"], 1) if "finished" in state else None,
    }


def _write(
    folder: Path, about: Mapping[str, Any], rows: list[dict[str, Any]], records: SweepRecords
) -> dict[str, Any]:
    first = min(rows, key=_rank)
    best = first["name"] if first["state"] == "finished" else None
    summary = {**about, "points": rows, "best": best, "mlflow": records.summary()}
    write_atomic(folder / SUMMARY, json.dumps(summary, indent=2).encode())
    return summary


def _rank(row: Mapping[str, Any]) -> tuple[bool, float]:
    auroc = (row["validation"] or {}).get("auroc")
    return row["state"] != "finished", -(auroc if auroc is not None else -1.0)
