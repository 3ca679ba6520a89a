"""The training without a federation around it: `python -m bench.engines.bare DATA SITES ROUNDS EPOCHS`.

One process per site imports PyTorch, opens its data, evaluates, trains and sends its weights through a pipe to a parent
that averages them. In the first rounds the sites measure batch norm's statistics of the average, as in `run`. At the
end they evaluate the last average. No records. Prints one JSON line: what `Bare` holds.
"""

import json
import multiprocessing
import sys
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

SETTLING_ROUNDS = 3
"""As in fl/server/batch_norm_exchange.py, which would import NVFlare."""

Answer = tuple[int, Any]
"""Training images of the site, and what it was asked for."""


def main(data: str, sites: int, rounds: int, epochs: int) -> None:
    """Train with `sites` processes and print what it took."""
    pipes, settling = _start(data, sites, rounds, epochs), 0.0
    state: dict[str, Any] | None = None
    for number in range(rounds):
        state = _average(_ask(pipes, "train", state))
        if number < SETTLING_ROUNDS:
            start = time.perf_counter()
            state |= _average(_ask(pipes, "settle", state))
            settling += time.perf_counter() - start
    histograms = [histogram for _, histogram in _ask(pipes, "evaluate", state)]
    spent = [spent for _, spent in _ask(pipes, "end", None)]
    print(json.dumps({"settling": settling, "sites": spent, "auroc": _auroc(histograms)}))


def _start(data: str, sites: int, rounds: int, epochs: int) -> list[Connection]:
    context = multiprocessing.get_context("spawn")
    pipes: list[Connection] = []
    for number in range(1, sites + 1):
        ours, theirs = context.Pipe()
        words = (theirs, Path(data), f"site-{number}", rounds, epochs)
        context.Process(target=_site, args=words, daemon=True).start()
        pipes.append(ours)
    return pipes


def _ask(pipes: Sequence[Connection], task: str, state: dict[str, Any] | None) -> list[Answer]:
    for pipe in pipes:
        pipe.send((task, state))
    return [pipe.recv() for pipe in pipes]


def _average(answers: Sequence[Answer]) -> dict[str, Any]:
    total = sum(count for count, _ in answers)
    return {key: sum(state[key] * (count / total) for count, state in answers) for key in answers[0][1]}


def _auroc(histograms: Sequence[dict[str, Any]]) -> float | None:
    """Return the pooled AUROC: that the engines agree shows that they did the same work."""
    from pneumonia_fl.metrics.binary import ScoreHistogram, summarise

    first, *others = (ScoreHistogram.from_dict(histogram) for histogram in histograms)
    return summarise(sum(others, start=first)).auroc


def _site(pipe: Connection, data: Path, name: str, rounds: int, epochs: int) -> None:
    from bench.engines.work import Site

    site, number = Site(data, name, rounds, epochs), 0
    while True:
        task, state = pipe.recv()
        if task == "end":
            pipe.send((0, vars(site.spent)))
            return
        if state is not None:
            site.load(state)
        answer: Any = site.settle() if task == "settle" else site.evaluate().to_dict()
        if task == "train":
            site.train(number)
            number, answer = number + 1, site.model.state_dict()
        if task != "evaluate":
            answer = {key: value.numpy() for key, value in answer.items()}
        pipe.send((len(site.train_data), answer))


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
