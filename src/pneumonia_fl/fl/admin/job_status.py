"""Describe a running job: pure functions on the snapshot that our controller gives to `show_stats`."""

from collections.abc import Mapping
from typing import Any

from pneumonia_fl.fl.admin.job_record import age
from pneumonia_fl.fl.protocol.messages import SETTLING_PHASE, VALIDATE_TASK

Snapshot = Mapping[str, Any]


def position(snapshot: Snapshot) -> str:
    """Describe the job's progress: `round 3/10`, the evaluation after the last round, or the ending."""
    if snapshot["state"] == "stopped":
        return f"stopped: {snapshot.get('reason') or 'no reason given'}"
    if snapshot["state"] == "finished":
        return snapshot.get("stopped_early") or ("all rounds done" if snapshot["rounds"] else "evaluated")
    if snapshot.get("task") == VALIDATE_TASK:
        return "evaluating the final model" if snapshot["rounds"] else "evaluating"
    words = f"round {min(snapshot['round'] + 1, snapshot['rounds'])}/{snapshot['rounds']}"
    return f"{words}: batch norm's statistics" if snapshot.get("task") == SETTLING_PHASE else words


def quality(snapshot: Snapshot) -> str:
    """Describe the best global model so far; empty before there is one."""
    auroc, number = snapshot.get("best_auroc"), snapshot.get("best_round")
    return "" if auroc is None else f"best global AUROC {auroc:.4f} (round {number})"


def seconds_left(snapshot: Snapshot) -> float | None:
    """Estimate the seconds left from the mean duration of completed rounds; None before the first."""
    # A round whose average is being settled has trained.
    trained = snapshot["round"] + (snapshot.get("task") == SETTLING_PHASE)
    done = trained - snapshot.get("start_round", 0)
    if done < 1 or snapshot["state"] != "running" or snapshot.get("task") == VALIDATE_TASK:
        return None
    each = (snapshot["round_started"] - snapshot["started"]) / done
    in_round = snapshot["now"] - snapshot["round_started"]
    return float(max(0.0, each * (snapshot["rounds"] - trained) - in_round))


def time_left(snapshot: Snapshot) -> str:
    """Return `about 3:05 left`, or nothing when it is not known."""
    seconds = seconds_left(snapshot)
    return "" if seconds is None else f"about {age(seconds)} left"


def site_cells(site: Mapping[str, Any], snapshot: Snapshot) -> tuple[str, str, str, str, str]:
    """Return a site's row: state, last accepted round, contributions, last AUROC, last contact.

    Rounds count from 1, as everywhere where a person reads them.
    """
    accepted, auroc, heard = site.get("accepted_round"), site.get("auroc"), site.get("heard")
    problem = site.get("problem")
    return (
        f"{site['state']}: {problem}" if problem else str(site["state"]),
        "–" if accepted is None else str(accepted + 1),
        str(site.get("contributions", 0)),
        "n/a" if auroc is None else f"{auroc:.4f}",
        "never" if heard is None else f"{age(snapshot['now'] - heard)} ago",
    )


def changes(old: Snapshot | None, new: Snapshot) -> list[str]:
    """List the changes between two snapshots, a line each, for logs and pipes."""
    lines = []
    if old is None or position(old) != position(new):
        lines.append(", ".join(filter(None, (position(new), quality(new), time_left(new)))))
    before = {} if old is None else old["sites"]
    for name, site in sorted(new["sites"].items()):
        line = _site_change(before.get(name, {}), site, trains=bool(new["rounds"]))
        if line:
            lines.append(f"  {name}: {line}")
    return lines


def _site_change(old: Mapping[str, Any], new: Mapping[str, Any], trains: bool) -> str:
    if new.get("contributions", 0) > old.get("contributions", 0):
        if new.get("problem"):
            return str(new["problem"])
        auroc = new.get("auroc")
        metric = "" if auroc is None else f", AUROC {auroc:.4f}"
        return f"round {new['accepted_round'] + 1} accepted{metric}" if trains else f"evaluated{metric}"
    troubled = new["state"] not in ("waiting", "answered")
    if troubled and (new["state"], new.get("problem")) != (old.get("state"), old.get("problem")):
        return ": ".join(filter(None, (new["state"], new.get("problem"))))
    return ""
