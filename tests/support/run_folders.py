"""Run and comparison folders for the report, made by code in the shape that real runs leave, without any training."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from pneumonia_fl import INTENDED_USE
from pneumonia_fl.config.algorithm import OperatingPoint
from pneumonia_fl.config.job import JobConfig
from pneumonia_fl.config.sections import Preprocess
from pneumonia_fl.data.store import ImageSet
from pneumonia_fl.evaluation.assess import assess
from pneumonia_fl.evaluation.comparison import VERSION, summarise_comparison
from pneumonia_fl.evaluation.cross_site_matrix import matrix
from pneumonia_fl.metrics.binary import ScoreHistogram, summarise
from pneumonia_fl.metrics.calibration import calibrate
from pneumonia_fl.metrics.platt import Scaling
from pneumonia_fl.models.checkpoint import LIMITATIONS
from pneumonia_fl.runs.journal import read_journal, summarise_rounds

SITES = ("site-1", "site-2", "site-3")
START = 1_795_000_000.0
Scores = tuple[np.ndarray, np.ndarray]


def draw(rng: np.random.Generator, images: int, ill: float, skill: float) -> Scores:
    """Margins and labels of a model of some skill; every second image shows pneumonia when `ill` is .5."""
    labels = (rng.random(images) < ill).astype(np.int64)
    if 0 < ill < 1 and images > 1:
        labels[:2] = 0, 1
    return rng.normal(1.6 * skill * (2 * labels - 1), 1.4), labels


def write_json(path: Path, values: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values))


def write_run(
    folder: Path,
    sites: Sequence[str] = SITES,
    rounds: int = 4,
    images: int = 120,
    ill: Sequence[float] = (0.5, 0.8, 0.6),
    source: str = "zip",
    state: str = "finished",
) -> Path:
    """A run without evaluations; `images` are each site's validation images, `ill` their shares of pneumonia."""
    folder.mkdir(parents=True, exist_ok=True)
    job = JobConfig(name="fedavg", rounds=rounds, preprocess=Preprocess(size=64))
    (folder / "config.yml").write_text(yaml.safe_dump(job.model_dump(mode="json", exclude_none=True)))
    events = _events(sites, rounds, images, ill, source)
    with (folder / "journal.jsonl").open("w") as file:
        file.writelines(json.dumps(event) + "\n" for event in events)
    metrics = summarise_rounds(read_journal(folder / "journal.jsonl"))
    write_json(folder / "metrics.json", metrics)
    data = {
        "source": source,
        "licence": "CC BY 4.0",
        "credit": "Somebody (2018)",
        "manifest_sha256": "ab" * 32,
    }
    about = {"job": "fedavg", "rounds": rounds, "sites": list(sites), "state": state, "started": START}
    about |= {"finished": START + 300, "version": "0.1.0", "revision": "c0ffee" * 6 + "c0ff"}
    write_json(folder / "run.json", {**about, "data": {**data, "partition": "dirichlet:0.5", "seed": 7}})
    if metrics["best_round"] is not None:
        write_json(folder / "model" / "model_card.json", _card(job, events, metrics["best_round"], data))
    return folder


def _events(
    sites: Sequence[str], rounds: int, images: int, ill: Sequence[float], source: str
) -> list[dict[str, Any]]:
    rng = np.random.default_rng(7)
    events: list[dict[str, Any]] = [
        {"event": "started", "time": START, "rounds": rounds, "sites": list(sites)}
    ]
    best = -1.0
    for number in range(rounds + 1):
        pool = ScoreHistogram.empty()
        for index, site in enumerate(sites):
            scores = draw(rng, images, ill[index % len(ill)], min(1.0, 0.4 * number))
            histogram = ScoreHistogram.from_scores(*scores)
            pool += histogram
            if number == 0:
                events.append(
                    {
                        "event": "data",
                        "time": START,
                        "site": site,
                        "values": _site_data(site, scores[1], source),
                    }
                )
            training = {"train_loss": 0.7 / (1 + number), "train_samples": 4 * images, "steps": 30}
            training |= {"seconds": 3.5 + index + 0.1 * number, "bytes": 2_790_144}
            values = {**asdict(summarise(histogram)), **(training if number < rounds else {})}
            events += [
                {
                    "event": "loss",
                    "time": START,
                    "site": site,
                    "step": 10 * (3 * number + k),
                    "value": 0.7 / (1 + number),
                }
                for k in range(3 if number < rounds else 0)
            ]
            events.append({"event": "site", "time": START, "round": number, "site": site, "values": values})
        metrics = summarise(pool)
        better = number > 0 and (metrics.auroc or 0) > best
        best = max(best, metrics.auroc or 0) if number else best
        events.append(
            {
                "event": "global",
                "time": START + 60 * number,
                "round": number,
                "values": asdict(metrics),
                "best": better,
            }
            | {"histogram": pool.to_dict()}
        )
    return [*events, {"event": "finished", "time": START + 300, "reason": "", "missing": []}]


def _site_data(site: str, labels: np.ndarray, source: str) -> dict[str, Any]:
    normal, ill = (int((labels == label).sum()) for label in (0, 1))
    counts = {
        "train": {"NORMAL": 4 * normal, "PNEUMONIA": 4 * ill},
        "val": {"NORMAL": normal, "PNEUMONIA": ill},
    }
    return {
        "source": source,
        "licence": "CC BY 4.0",
        "credit": "Somebody (2018)",
        "counts": {site: counts},
    } | {"manifest_sha256": f"{site[-1]}" * 64}


def _card(job: JobConfig, events: list[dict[str, Any]], best: int, data: dict[str, Any]) -> dict[str, Any]:
    pooled = next(e["histogram"] for e in events if e["event"] == "global" and e["round"] == best)
    histogram = ScoreHistogram.from_dict(pooled)
    chosen = calibrate(histogram, OperatingPoint())
    counts: dict[str, Any] = {}
    for event in events:
        counts |= event["values"]["counts"] if event["event"] == "data" else {}
    return {
        "version": 3, "job": job.name, "round": best, "seed": 7,
        "model": job.model.model_dump(), "preprocess": Preprocess(size=64).model_dump(),
        "classes": ["NORMAL", "PNEUMONIA"], **asdict(chosen.scaling),
        "threshold": chosen.threshold, "operating_point": chosen.operating_point,
        "metrics": asdict(summarise(histogram, chosen.threshold, chosen.scaling)),
        "data": {**data, "counts": counts}, "software": {"torch": "2.14.1", "nvflare": "2.9.0"},
        "intended_use": INTENDED_USE, "limitations": LIMITATIONS, "disclaimer": "Not a medical device.",
    }  # fmt: skip


def add_evaluation(
    run: Path,
    split: str = "test",
    images: int = 200,
    skill: float = 0.8,
    shift: float = 0.0,
    ill: float = 0.7,
) -> Path:
    """One more reading of a split; `shift` moves all margins up, which costs specificity."""
    card = json.loads((run / "model" / "model_card.json").read_text())
    rng = np.random.default_rng(11)
    margins, labels = draw(rng, images, ill, skill)
    kinds = [
        "normal" if not label else ("viral" if index % 3 else "bacterial")
        for index, label in enumerate(labels)
    ]
    patients = [f"secret-patient-{index // 2}" for index in range(images)]
    data = ImageSet(np.zeros((images, 1, 1), np.uint8), labels, patients, kinds)
    values = {"version": 1, "model": "fedavg", "round": card["round"], "source": "zip", "split": split}
    number = len(list((run / "evaluations").glob(f"{split}-*.json"))) + 1
    values |= {
        "time": START + 400 + number,
        "manifest_sha256": None,
        "operating_point": card["operating_point"],
    }
    values |= {key: card[key] for key in ("threshold", "temperature", "offset")}
    values |= {"validation": {key: card["metrics"][key] for key in ("sensitivity", "specificity", "ece")}}
    values |= assess(margins + shift, data, card["threshold"], Scaling.of(card))
    path = run / "evaluations" / f"{split}-{number:02d}.json"
    write_json(path, values)
    return path


def add_cross_site(run: Path, sites: Sequence[str] = SITES) -> None:
    """Three models on three sites, one cell of one class, one site that does not share its model."""
    models = ["best", "last", *sites[:2]]
    cells = {
        model: {
            site: {"auroc": None if (x, y) == (0, 2) else 0.97 - 0.04 * abs(x - y), "sensitivity": 0.9}
            | {"specificity": 0.8, "brier": 0.1, "ece": 0.05, "n": 40}
            for y, site in enumerate(sites)
        }
        for x, model in enumerate(models)
    }
    missing = {sites[2]: "does not share its model"}
    write_json(run / "cross_site.json", matrix("val", models, list(sites), cells, missing))


def write_comparison(folder: Path, skip: str = "", sites: Sequence[str] = SITES) -> Path:
    """A comparison of five models with two seeds; `skip` names one that was left out."""
    rng = np.random.default_rng(3)
    labels = (rng.random(120) < 0.6).astype(int)
    skills = {"central": 1.0, **{f"{site} alone": 0.5 for site in sites}, "fedavg": 0.95, "fedprox": 0.9}
    kinds = {"central": "central", "fedavg": "federated", "fedprox": "federated"}
    arms = [
        {
            "name": name,
            "kind": kinds.get(name, "alone"),
            "skipped": "marked private" if name == skip else None,
        }
        for name in skills
    ]
    results = [
        {
            "arm": name, "seed": seed, "margins": (skill * (2 * labels - 1) + rng.normal(size=120)).tolist(),
            "threshold": 0.4, "temperature": 1.2, "offset": 0.1, "best_round": 3, "validation_auroc": 0.9, "steps": 300,
            "seconds": 30.0 + seed, "bytes": 8_000_000 if name.startswith("fed") else 0,
        }
        for name, skill in skills.items() for seed in (7, 8) if name != skip
    ]  # fmt: skip
    counts = {site: {"train": {"NORMAL": 40, "PNEUMONIA": 60}} for site in sites}
    data = {
        "source": "zip",
        "licence": "CC BY 4.0",
        "credit": "Somebody",
        "manifest_sha256": "cd" * 32,
        "counts": counts,
    }
    raw = {
        "version": VERSION, "settings": {}, "data": data, "partition": "dirichlet:0.5", "sites": list(sites),
        "seeds": [7, 8], "rounds": 4, "jobs": {}, "arms": arms, "results": results, "cross_site": None,
        "test": {"labels": labels.tolist(), "patients": [i // 2 for i in range(120)],
                 "sites": [sites[i % len(sites)] for i in range(120)]},
    }  # fmt: skip
    write_json(folder / "summary.json", summarise_comparison(raw, samples=60))
    return folder
