"""A site under stock NVFlare, as its examples write one: receive, evaluate, train, send."""

import json
import sys
from pathlib import Path

import nvflare.client as flare
from nvflare.client.tracking import SummaryWriter

from bench.engines.work import Site
from pneumonia_fl.metrics.binary import summarise
from pneumonia_fl.runs.journal import LOSS_POINTS


def main(data: str, rounds: int, epochs: int, spent: str) -> None:
    """Answer the server's models until it ends the job."""
    flare.init()
    writer = SummaryWriter()
    site, steps = Site(Path(data), flare.get_site_name(), rounds, epochs), 0
    every = max(1, epochs * len(site.train_data) // site.settings.train.batch_size // LOSS_POINTS)

    def publish(step: int, loss: float) -> None:
        if step % every == 0:
            writer.add_scalar("train_loss", loss, steps + step)

    while flare.is_running():
        message = flare.receive()
        if message is None:
            break
        site.load(message.params)
        auroc = summarise(site.evaluate()).auroc or 0.0
        writer.add_scalar("auroc", auroc, message.current_round)
        result = site.train(message.current_round, on_step=publish)
        steps += result.steps
        file = Path(spent) / f"{site.name}.json"
        file.write_text(json.dumps(vars(site.spent)), encoding="utf-8")
        counted = {"NUM_STEPS_CURRENT_ROUND": len(site.train_data)}
        state = {key: value.cpu() for key, value in site.model.state_dict().items()}
        flare.send(flare.FLModel(params=state, metrics={"auroc": auroc}, meta=counted))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
