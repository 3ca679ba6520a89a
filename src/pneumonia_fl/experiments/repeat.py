"""A run, repeated from its folder: the same job on the same data, and how far the metrics are from the first time.

On one machine nothing may differ: sites train with seeded streams and a fixed number of threads, and the server adds
their weights in the order of their names. On another machine sums of floats are taken in another order, and after
some hundred steps of training that is another draw of the same experiment (docs/reproducibility.md has figures).
"""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from pneumonia_fl import __version__
from pneumonia_fl.data.manifest import DatasetInfo
from pneumonia_fl.errors import DataError, RunError
from pneumonia_fl.fl.simulator.simulation import Request, Watcher, run_simulation
from pneumonia_fl.runs.folder import RunFolder
from pneumonia_fl.runs.machine import machine
from pneumonia_fl.runs.provenance import git_revision
from pneumonia_fl.runs.record import best_metrics

TOLERANCE_ELSEWHERE = 0.02
"""On another machine, or a GPU: largest difference of the best models' pooled AUROC."""
WALL_CLOCK = {"seconds"}
"""What a site reports of a round and may differ: nothing but time."""


@dataclass(frozen=True)
class Difference:
    """The largest difference between two runs' metrics, and where it is; all 0 and empty when there is none."""

    largest: float = 0.0
    round: int | None = None
    who: str = ""
    metric: str = ""


@dataclass(frozen=True)
class Repetition:
    """Record of a repetition in `run.json`, under `repeat`."""

    of: str
    """Name of the first run's folder."""
    same_machine: bool
    rounds: int
    """Rounds that both runs have."""
    difference: Difference
    auroc: float
    """Difference of the best models' pooled AUROC."""
    same_weights: bool
    """Whether the best models are equal, bit by bit."""
    tolerance: float
    within: bool

    @property
    def text(self) -> str:
        """Describe the comparison as text."""
        found = self.difference
        if not found.largest:
            weights = "the best models are equal bit by bit" if self.same_weights else "the weights differ"
            return f"repeats {self.of}: all metrics of {self.rounds} rounds are equal; {weights}"
        verdict = "within" if self.within else "BEYOND"
        what = "any metric" if not self.tolerance else "that AUROC"
        return (
            f"differs from {self.of}: largest difference {found.largest:.3g} ({found.metric} of {found.who}, "
            f"round {found.round}), {self.auroc:.2g} in the best models' pooled AUROC; "
            f"{verdict} the tolerance of {self.tolerance:g} for {what} on "
            f"{'the same' if self.same_machine else 'another'} machine"
        )


def repeat_run(earlier: RunFolder, request: Request, watcher: Watcher) -> tuple[RunFolder, Repetition]:
    """Run the job of `earlier` again, compare, and write the outcome into the new run's `run.json`.

    Args:
        earlier: a run of the simulator with at least one round.
        request: where the data is and where the run goes; job and number of sites come from `earlier`.
        watcher: whoever shows what happens.

    Raises:
        DataError: the data is not that of `earlier`.
        RunError: `earlier` has nothing to compare with, or ran on real sites; or the run failed.
    """
    state = _repeatable(earlier)
    again = replace(request, job=str(earlier.config), clients=len(state["sites"]))
    run = run_simulation(again, watcher, lambda info: _check_data(state, info))
    found = compare(earlier, run)
    run.update_state(repeat={**asdict(found), "text": found.text})
    return run, found


def warnings(earlier: RunFolder) -> list[str]:
    """List what differs from the conditions of `earlier`, which may change the metrics."""
    state = _repeatable(earlier)
    known = state.get("machine")
    then = {**(known or {}), "version": state["version"], "revision": state["revision"]}
    now = {**machine(), "version": __version__, "revision": git_revision()}
    unknown = [] if known else [f"{earlier.path.name} does not say on which machine it ran"]
    return unknown + [
        f"{key} was {then[key]}, is {now.get(key)}" for key in then if then[key] != now.get(key)
    ]


def compare(earlier: RunFolder, again: RunFolder) -> Repetition:
    """Compare two runs round by round; `RunError` when one has no metrics."""
    first, second = earlier.metrics(), again.metrics()
    old, new = earlier.state(), again.state()
    # One record of the machine is worth nothing: without it the stricter claim cannot be made.
    same = old.get("machine") is not None and old.get("machine") == new.get("machine")
    same = same and old.get("threads") == new.get("threads")
    difference = _largest(list(_differences(first, second)))
    shift = _gap(_best_auroc(first), _best_auroc(second))
    # A GPU adds in whatever order its threads come.
    exact = same and old["machine"]["device"] == "cpu"
    return Repetition(
        of=earlier.path.name,
        same_machine=same,
        rounds=len({e["round"] for e in first["rounds"]} & {e["round"] for e in second["rounds"]}),
        difference=difference,
        auroc=shift,
        same_weights=_weights(earlier) is not None and _weights(earlier) == _weights(again),
        tolerance=0.0 if exact else TOLERANCE_ELSEWHERE,
        within=not difference.largest if exact else shift <= TOLERANCE_ELSEWHERE,
    )


def _repeatable(earlier: RunFolder) -> dict[str, Any]:
    state = earlier.state()
    if "partition" not in state["data"]:
        raise RunError(
            f"{earlier.path} ran on real sites, whose data is not here; `pneumonia-fl clone` submits the job again"
        )
    if not earlier.metrics()["rounds"]:
        raise RunError(f"{earlier.path} has no finished round to compare with; run its job again")
    return state


def _check_data(state: Mapping[str, Any], info: DatasetInfo) -> None:
    """Refuse data that is not what the earlier run saw."""
    wanted = state["data"]["manifest_sha256"]
    if info.manifest_sha256 != wanted:
        raise DataError(
            f"this is other data: its manifest is {info.manifest_sha256[:12]}…, the run had {wanted[:12]}… "
            f"({state['data']['source']}, {state['data']['partition']}); "
            "pass --data with the folder that the run used, or without --data a job makes its own X-rays again"
        )
    sites = list(info.sites[: len(state["sites"])])
    if sites != state["sites"]:
        raise DataError(f"the run had the sites {', '.join(state['sites'])}, here are {', '.join(sites)}")


def _differences(first: Mapping[str, Any], second: Mapping[str, Any]) -> Iterator[Difference]:
    """Yield every metric of a round that both runs have, also where one of them lacks the metric."""
    later = {entry["round"]: entry for entry in second["rounds"]}
    for entry in first["rounds"]:
        number = entry["round"]
        if number not in later:
            continue
        for who, one, other in _pairs(entry, later[number]):
            for metric in sorted((one.keys() | other.keys()) - WALL_CLOCK):
                yield Difference(_gap(one.get(metric), other.get(metric)), number, who, metric)


def _pairs(first: Mapping[str, Any], second: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    yield "global", first["global"] or {}, second["global"] or {}
    for site in sorted(first["sites"].keys() | second["sites"].keys()):
        yield site, first["sites"].get(site, {}), second["sites"].get(site, {})


def _gap(one: float | None, other: float | None) -> float:
    """Return the difference of two values; 1 when only one run has the value."""
    if one is None or other is None:
        return float(one is not other)
    return abs(one - other)


def _largest(found: list[Difference]) -> Difference:
    largest = max(found, key=lambda item: item.largest, default=Difference())
    return largest if largest.largest else Difference()


def _best_auroc(metrics: Mapping[str, Any]) -> float | None:
    best = best_metrics(metrics)
    return best["auroc"] if best else None


def _weights(run: RunFolder) -> bytes | None:
    file = run.model / "model.safetensors"
    return file.read_bytes() if file.is_file() else None
