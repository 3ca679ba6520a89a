"""The runs below a folder, a line each; one that is damaged is a line too and hides no other."""

import time
from pathlib import Path
from typing import Any

from pneumonia_fl.errors import RunError
from pneumonia_fl.runs.folder import STATE_FILE, RunFolder, damaged
from pneumonia_fl.runs.record import best_metrics

DAMAGED = "damaged"


def list_runs(root: Path) -> list[dict[str, Any]]:
    """Return what is known of each run below `root`, oldest first; of a damaged one only name, path and reason."""
    found = [_line(RunFolder(path.parent)) for path in sorted(root.glob(f"*/{STATE_FILE}"))]
    return sorted(found, key=lambda line: line["started"] or 0.0)


def describe(run: RunFolder) -> dict[str, Any]:
    """Return a run in one line: for lists and scripts.

    Raises:
        RunError: `run.json` or `metrics.json` is damaged, or holds something else than a run's.
    """
    state, best, number = run.state(), None, None
    if run.metrics_file.is_file():
        best, number = _best(run)
    fields: dict[str, type | tuple[type, ...]]
    fields = {"job": str, "state": str, "started": (int, float), "rounds": int, "sites": list}
    if strange := [key for key, kind in fields.items() if not isinstance(state.get(key), kind)]:
        raise damaged(run.state_file, f"no {' and no '.join(strange)}")
    return {
        "name": run.path.name,
        "path": str(run.path),
        "job": state["job"],
        "state": state["state"],
        "started": _seconds(run, state["started"]),
        "rounds": state["rounds"],
        "sites": len(state["sites"]),
        "best_round": number,
        "best_auroc": best,
    }


def _line(run: RunFolder) -> dict[str, Any]:
    try:
        return {**describe(run), "reason": ""}
    except RunError as error:
        unknown = dict.fromkeys(("job", "started", "rounds", "sites", "best_round", "best_auroc"))
        known = {"name": run.path.name, "path": str(run.path), "state": DAMAGED, "reason": str(error)}
        return unknown | known


def _best(run: RunFolder) -> tuple[float | None, int | None]:
    """Return AUROC and round of the best global model."""
    metrics = run.metrics()
    try:
        found, number = best_metrics(metrics), metrics["best_round"]
        area = found["auroc"] if found else None
        return (None if area is None else float(area)), number and int(number)
    except (KeyError, TypeError, ValueError, AttributeError):
        raise damaged(run.metrics_file, "its rounds are none") from None


def _seconds(run: RunFolder, value: float) -> float:
    try:
        time.localtime(value)  # a time that there is
    except (ValueError, OverflowError, OSError):
        raise damaged(run.state_file, "no time at which it started") from None
    return float(value)
