"""The training in stock NVFlare: `python -m bench.engines.stock DATA SITES ROUNDS EPOCHS WORKSPACE`.

NVFlare's FedAvg recipe in its SimEnv with TensorBoard, as its own examples use them. No final evaluation, no pooled
metrics, no records but TensorBoard's. The sites leave what they spent in WORKSPACE/spent.
"""

import contextlib
import os
import sys
from pathlib import Path

from nvflare.app_opt.pt.recipes.fedavg import FedAvgRecipe
from nvflare.recipe import SimEnv, add_experiment_tracking

from bench.processes import ROOT
from pneumonia_fl.data.manifest import read_info

SPENT = "spent"


def main(data: str, sites: int, rounds: int, epochs: int, workspace: str) -> None:
    """Train with NVFlare's simulator."""
    spent = Path(workspace) / SPENT
    spent.mkdir(parents=True)
    os.environ["PYTHONPATH"] = str(ROOT)  # NVFlare copies the script, which imports `bench`
    size = read_info(Path(data)).preprocess.size
    with contextlib.chdir(Path(__file__).parent):  # a script is found by a relative name only
        recipe = FedAvgRecipe(
            name="stock",
            model={"class_path": "pneumonia_fl.models.architectures.SmallResNet", "args": {"size": size}},
            min_clients=sites,
            num_rounds=rounds,
            train_script="stock_client.py",
            train_args=f"{data} {rounds} {epochs} {spent}",
            key_metric="auroc",
        )
        add_experiment_tracking(recipe, "tensorboard")
        names = [f"site-{number}" for number in range(1, sites + 1)]
        recipe.execute(SimEnv(clients=names, workspace_root=workspace))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), sys.argv[5])
