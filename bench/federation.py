"""What federation costs: the whole `run` command against bare PyTorch processes that do the same steps.

The bare run is three single-thread processes that import PyTorch, open their site's data, evaluate, train and
send their weights through a pipe to a parent that averages them: no NVFlare, no records. Both sides count from
the start of the command to its end.
"""

import json
import multiprocessing
import subprocess
import sys
import tempfile
import threading
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import psutil

ROUNDS, EPOCHS, SITES = 5, 3, 3
IMAGES, SIZE = 6300, 128  # about 4,300 for training, as in the public data set
TARGET_RATIO = 1.25
TARGET_MEMORY = 600
"""MB that a site's process may hold beyond its store."""
CLI = Path(sys.executable).with_name("pneumonia-fl")


def run() -> None:
    """Print both wall times, their ratio, where the difference goes, bytes per round and memory per site."""
    with tempfile.TemporaryDirectory() as temporary:
        data, out = Path(temporary) / "data", Path(temporary) / "run"
        _prepare(data)
        print(f"{SITES} sites x {ROUNDS} rounds x {EPOCHS} epochs, {IMAGES:,} synthetic images of {SIZE} px")
        bare = _timed(lambda: _bare_run(data))
        peak: dict[str, tuple[int, int]] = {}
        federated = _timed(lambda: _federated_run(data, out, peak))
        print(f"bare processes      {bare:7.1f} s")
        print(f"pneumonia-fl run    {federated:7.1f} s")
        print(f"ratio               {federated / bare:7.3f} (wanted: at most {TARGET_RATIO})")
        _print_phases(out, federated)
        _print_traffic(out)
        _print_memory(data, peak)


def _prepare(data: Path) -> None:
    source = f"synthetic:images={IMAGES},size={SIZE},seed=7,sites={SITES}"
    words = ["data", "prepare", "--source", source, "--out", data, "--sites", SITES, "--size", SIZE]
    subprocess.run([CLI, *map(str, words)], check=True, capture_output=True)


def _timed(work: Any) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _federated_run(data: Path, out: Path, peak: dict[str, tuple[int, int]]) -> None:
    words = ["run", "fedavg", "--data", data, "--out", out, "--rounds", ROUNDS, "--json"]
    words += ["--set", f"train.local_epochs={EPOCHS}"]
    process = subprocess.Popen([CLI, *map(str, words)], stdout=subprocess.DEVNULL)
    sampler = threading.Thread(target=_sample_memory, args=(process, peak))
    sampler.start()
    if process.wait() != 0:
        sys.exit("the federated run failed")
    sampler.join()


def _sample_memory(process: "subprocess.Popen[bytes]", peak: dict[str, tuple[int, int]]) -> None:
    while process.poll() is None:
        for child in psutil.Process(process.pid).children(recursive=True):
            try:
                command = child.cmdline()
                if "--client" in command:
                    site = command[command.index("--client") + 1]
                    memory = child.memory_full_info()
                    peak[site] = max(peak.get(site, (0, 0)), (memory.rss, memory.uss))
            except (psutil.Error, IndexError):
                continue
        time.sleep(1.0)


def _bare_run(data: Path) -> None:
    context = multiprocessing.get_context("spawn")
    pipes: list[Connection] = []
    for number in range(1, SITES + 1):
        ours, theirs = context.Pipe()
        context.Process(target=_bare_site, args=(theirs, data, f"site-{number}"), daemon=True).start()
        pipes.append(ours)
    state: Any = None
    for _ in range(ROUNDS + 1):
        for pipe in pipes:
            pipe.send(state)
        answers = [pipe.recv() for pipe in pipes]
        state = _average(answers)


def _average(answers: list[tuple[int, dict[str, Any]]]) -> dict[str, Any]:
    total = sum(count for count, _ in answers)
    return {key: sum(state[key] * (count / total) for count, state in answers) for key in answers[0][1]}


def _bare_site(pipe: Connection, data: Path, site: str) -> None:
    import torch

    from pneumonia_fl.config.job import load_job
    from pneumonia_fl.config.job_files import find_job
    from pneumonia_fl.config.sections import Preprocess
    from pneumonia_fl.data.store import open_site
    from pneumonia_fl.evaluation.scoring import margins
    from pneumonia_fl.models.architectures import build_model
    from pneumonia_fl.training.local import RoundContext, train_epochs

    torch.set_num_threads(1)
    job = load_job(find_job("fedavg"), [f"train.local_epochs={EPOCHS}"])
    spec, store = job.preprocess or Preprocess(size=SIZE), open_site(data, site)
    settings = job.model_copy(update={"preprocess": spec}).site_settings()
    train, validation = store.split("train"), store.split("val")
    model = build_model(job.model.name, job.model.norm, SIZE, seed=job.train.seed)
    for number in range(ROUNDS + 1):
        state = pipe.recv()
        if state is not None:
            target = model.state_dict()
            model.load_state_dict(
                {key: torch.as_tensor(value).to(target[key].dtype) for key, value in state.items()}
            )
        margins(model, validation.images, spec)
        if number < ROUNDS:
            train_epochs(model, train, settings, context=RoundContext(site, number, ROUNDS))
        pipe.send((len(train), {key: value.numpy() for key, value in model.state_dict().items()}))


def _print_phases(out: Path, total: float) -> None:
    """Split the federated wall time at the journal's events."""
    state = json.loads((out / "run.json").read_text())
    events = [json.loads(line) for line in (out / "journal.jsonl").read_text().splitlines()]
    at = {
        name: [event["time"] for event in events if event["event"] == name]
        for name in ("round_started", "loss", "finished")
    }
    first_round, first_loss, end = at["round_started"][0], at["loss"][0], at["finished"][-1]
    training = sum(
        max(
            event["values"]["seconds"]
            for event in events
            if event["event"] == "site" and event["round"] == number
        )
        for number in range(ROUNDS)
    )
    rounds = end - first_loss
    phases = {
        "command and imports until the server sends round 1": first_round - state["started"],
        "site processes start, import, evaluate, first steps": first_loss - first_round,
        "in rounds: training of the slowest site": training,
        "in rounds: evaluation, exchange, averaging, polling": rounds - training,
        "NVFlare's shutdown; models, figures, MLflow": state["finished"] - end,
        "the command's own start and end": total - (state["finished"] - state["started"]),
    }
    for name, seconds in phases.items():
        print(f"  {name:<55}{seconds:7.1f} s")


def _print_traffic(out: Path) -> None:
    rounds = json.loads((out / "metrics.json").read_text())["rounds"]
    for site, values in rounds[0]["sites"].items():
        print(f"bytes per round, {site}: {values['bytes']:,} up, about as many down (weights, float32)")


def _print_memory(data: Path, peak: dict[str, tuple[int, int]]) -> None:
    script = "import torch, psutil; print(psutil.Process().memory_info().rss)"
    torch_alone = int(subprocess.run([sys.executable, "-c", script], capture_output=True, check=True).stdout)
    print(f"memory of `import torch` alone: {torch_alone / 1e6:,.0f} MB resident")
    for site, (rss, private) in sorted(peak.items()):
        store = (data / site / "images.npy").stat().st_size
        extra = (rss - store) / 1e6
        print(
            f"memory, {site}: resident {extra:,.0f} MB beyond its store of {store / 1e6:,.0f} MB "
            f"(wanted: at most {TARGET_MEMORY}); of all, {private / 1e6:,.0f} MB are its own"
        )


if __name__ == "__main__":
    run()
