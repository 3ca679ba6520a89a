"""One whole comparison: plan, train what is missing, score the test images, write table, figure and report."""

import json
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from pneumonia_fl.data.manifest import TEST
from pneumonia_fl.data.prepare.output_folder import held
from pneumonia_fl.errors import RunError
from pneumonia_fl.evaluation.comparison import RAW, SUMMARY, summarise_comparison
from pneumonia_fl.evaluation.cross_site_matrix import cross_site
from pneumonia_fl.experiments.compare.baseline_worker import COST, Spec
from pneumonia_fl.experiments.compare.baselines import Work, train_all
from pneumonia_fl.experiments.compare.compare_plan import Arm, ComparePlan, plan_comparison
from pneumonia_fl.experiments.compare.comparison_file import Record
from pneumonia_fl.experiments.compare.scoring_tests import TestImages
from pneumonia_fl.files import inner_folder, write_atomic
from pneumonia_fl.fl.simulator.simulation import Request, Watcher, run_simulation
from pneumonia_fl.inputs.folder_locks import in_use, refuse_in_use
from pneumonia_fl.inputs.names import path_word
from pneumonia_fl.models.checkpoint import CARD, DataSummary, load_model
from pneumonia_fl.results.cross_site_files import draw_matrix
from pneumonia_fl.runs.folder import RunFolder

ARMS = "arms"
FIGURE = Path("figures") / "comparison.png"


@dataclass(frozen=True)
class CompareRequest:
    """Options of a comparison; the names are those of `pneumonia-fl compare`'s options."""

    data: Path
    jobs: list[str]
    seeds: int
    overrides: list[str]
    alone: bool
    out: Path


class CompareWatcher(Protocol):
    """Whoever shows the user what happens."""

    def planned(self, plan: ComparePlan, out: Path, left: int, total: int) -> None:
        """Called when everything is checked; `left` of `total` trainings are to be done."""

    def progress(self, stage: str, done: int, total: int | None) -> None:
        """Called with the progress of counted work: rounds of a baseline, images scored, resamples drawn."""

    def federated(self, label: str) -> AbstractContextManager[Watcher]:
        """Return the watcher of a federated run that starts."""

    def trained(self, label: str, auroc: float | None) -> None:
        """Called when a training is done, with its validation AUROC."""


def compare(request: CompareRequest, watcher: CompareWatcher) -> dict[str, Any]:
    """Run the missing trainings of a comparison and return its summary; a killed one can be resumed.

    Raises:
        PneumoniaFLError: the request cannot work, or a training failed; what was done is kept.
    """
    plan = plan_comparison(request.data, request.jobs, request.seeds, request.overrides, request.alone)
    refuse_in_use(request.out)
    record = Record.begin(request.out, plan)
    with in_use(request.out):
        return _compare(request, plan, record, watcher)


def _compare(
    request: CompareRequest, plan: ComparePlan, record: Record, watcher: CompareWatcher
) -> dict[str, Any]:
    wanted = [(arm, seed) for arm in plan.arms if not arm.skipped for seed in plan.seeds]
    missing = [(arm, seed) for arm, seed in wanted if not record.has(arm.name, seed)]
    watcher.planned(plan, request.out, len(missing), len(wanted))
    _Session(request, plan, record, watcher).train(missing)
    if missing or record.values["cross_site"] is None:
        record.values["cross_site"] = _matrix(request.out, plan, watcher)
        record.save()
    return write_summary(request.out, watcher)


def write_summary(out: Path, watcher: CompareWatcher) -> dict[str, Any]:
    """Rebuild table and figure from `comparison.json`; nothing is trained.

    Raises:
        RunError: there is no comparison in `out`.
    """
    from pneumonia_fl.report.build import build_report
    from pneumonia_fl.report.figures.forest_plot import forest

    if not (out / RAW).is_file():
        raise RunError(f"{out} holds no comparison; start one with `pneumonia-fl compare --data DIR`")
    raw = json.loads((out / RAW).read_text(encoding="utf-8"))
    summary = summarise_comparison(raw, watcher.progress)
    write_atomic(out / SUMMARY, json.dumps(summary, indent=2).encode())
    inner_folder((out / FIGURE).parent)
    forest(summary, out / FIGURE)
    if summary["cross_site"]:
        draw_matrix(out, summary["cross_site"])
    build_report(out)
    return summary


class _Session:
    """Trains what is missing and scores it."""

    def __init__(
        self, request: CompareRequest, plan: ComparePlan, record: Record, watcher: CompareWatcher
    ) -> None:
        self._request, self._plan, self._record, self._watcher = request, plan, record, watcher
        self._test = TestImages(plan)

    def train(self, missing: list[tuple[Arm, int]]) -> None:
        """Train baselines in parallel, then the federated jobs one by one: each of those uses all cores."""
        with held(self._plan.data):
            self._train(missing)

    def _train(self, missing: list[tuple[Arm, int]]) -> None:
        baselines = {_label(arm, seed): (arm, seed) for arm, seed in missing if arm.kind != "federated"}
        works = [self._work(arm, seed) for arm, seed in baselines.values()]
        for work in train_all(works, self._watcher.progress):
            arm, seed = baselines[work.label]
            cost = json.loads((work.folder / COST).read_text(encoding="utf-8"))
            self._keep(arm, seed, work.folder, cost)
        for arm, seed in missing:
            if arm.kind == "federated":
                self._keep(arm, seed, *self._run(arm, seed))

    def _work(self, arm: Arm, seed: int) -> Work:
        job = self._plan.base
        train = job.train.model_copy(update={"seed": seed})
        job = job.model_copy(update={"name": arm.kind, "train": train})
        info = self._plan.info
        summary = DataSummary(
            **info.model_dump(include=set(DataSummary.model_fields) - {"counts"}),
            counts={site: info.counts[site] for site in arm.sites},
        )
        spec = Spec(
            arm=arm.name,
            job=job.model_dump(mode="json", exclude_none=True),
            data=str(self._plan.data.absolute()),
            sites=list(arm.sites),
            summary=summary.model_dump(mode="json"),
            steps=self._plan.steps,
            threads=1,
        )
        return Work(_label(arm, seed), arm_folder(self._request.out, arm.name, seed), spec, job.rounds)

    def _run(self, arm: Arm, seed: int) -> tuple[Path, Mapping[str, Any]]:
        """Run one federated training in the simulator; return its folder and its cost."""
        folder = arm_folder(self._request.out, arm.name, seed)
        request = Request(
            job=self._plan.files[arm.name],
            data=self._plan.data,
            out=folder,
            runs=folder.parent,
            overrides=[*self._request.overrides, f"train.seed={seed}"],
            force=RunFolder(folder).is_run,
        )
        with self._watcher.federated(_label(arm, seed)) as watcher:
            run = run_simulation(request, watcher)
        return folder, _cost(run)

    def _keep(self, arm: Arm, seed: int, folder: Path, cost: Mapping[str, Any]) -> None:
        point = self._plan.jobs.get(arm.name, self._plan.base).operating_point
        scored = self._test.score(folder, point)
        self._record.add(arm.name, seed, scored, cost)
        self._watcher.trained(_label(arm, seed), scored.validation_auroc)


def arm_folder(out: Path, arm: str, seed: int) -> Path:
    """Return the folder of one training's files."""
    return out / ARMS / _slug(arm) / f"seed-{seed}"


def _cost(run: RunFolder) -> dict[str, Any]:
    """Compute the optimizer steps and bytes of all sites together, and the seconds of the whole run."""
    metrics, state = run.metrics(), run.state()
    sites = [values for entry in metrics["rounds"] for values in entry["sites"].values()]
    return {
        "steps": sum(int(values.get("steps", 0)) for values in sites),
        "seconds": round(state["finished"] - state["started"], 1),
        "bytes": sum(int(values.get("bytes", 0)) for values in sites),
    }


def _matrix(out: Path, plan: ComparePlan, watcher: CompareWatcher) -> dict[str, Any]:
    """Evaluate every model of the first seed on every site's own test images."""
    seed = plan.seeds[0]
    folders = {
        arm.name.removesuffix(" alone"): RunFolder(arm_folder(out, arm.name, seed)).model
        for arm in plan.arms
        if not arm.skipped
    }
    folders |= {
        f"{name}, last round": RunFolder(arm_folder(out, name, seed)).model_last for name in plan.jobs
    }
    models = {}
    for name, folder in folders.items():
        if (folder / CARD).is_file():  # sites' own models have no common one
            model, card = load_model(folder)
            models[name] = model, card.preprocess
    test = TestImages(plan)
    sites = {site: test.of(site)[1] for site in plan.info.sites}
    return cross_site(models, sites, TEST, watcher.progress)


def _label(arm: Arm, seed: int) -> str:
    return f"{arm.name}, seed {seed}"


def _slug(name: str) -> str:
    return path_word(name.replace(" ", "_"), "arm")
