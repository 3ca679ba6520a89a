"""What a command imports is most of what a person waits for: each has the list of packages that it may load."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from imports import packages_of
from PIL import Image
from run_folders import write_run

from pneumonia_fl.config.sections import ModelConfig, Preprocess
from pneumonia_fl.models.architectures import build_model
from pneumonia_fl.models.checkpoint import ModelCard, save_model

COMMAND_LINE = {"pneumonia_fl", "typer", "annotated_doc", "shellingham", "rich"}
TYPED_WORDS = {"pydantic", "pydantic_core", "annotated_types", "typing_extensions", "typing_inspection"}
"""Typer's own way to check what was typed."""
HELP_PAGES = {"markdown_it", "mdurl", "linkify_it", "pygments", "attr"}
FILES = {"yaml", "psutil"}
PAGES = {"jinja2", "markupsafe"}
FIGURES = {
    *(
        "matplotlib",
        "mpl_toolkits",
        "cycler",
        "dateutil",
        "fontTools",
        "kiwisolver",
        "packaging",
        "pyparsing",
    ),
    *("six", "numpy", "PIL"),
}
HEAVY = {
    *(
        "torch",
        "torchvision",
        "nvflare",
        "mlflow",
        "matplotlib",
        "scipy",
        "sklearn",
        "kaggle",
        "numpy",
        "PIL",
        "flask",
    ),
    *("cryptography", "yaml", "psutil"),
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with an untrained model, and nothing in MLflow."""
    folder = write_run(tmp_path_factory.mktemp("runs") / "one", rounds=1, images=20)
    spec = Preprocess(size=16)
    card = ModelCard(job="fedavg", round=1, seed=7, model=ModelConfig(), preprocess=spec, threshold=0.49)
    save_model(folder / "model", build_model(size=16, seed=5).state_dict(), card)
    return folder


def test_the_version_loads_the_command_line_only() -> None:
    assert packages_of("--version") <= COMMAND_LINE | TYPED_WORDS


def test_help_loads_what_draws_it() -> None:
    assert packages_of("--help") <= COMMAND_LINE | HELP_PAGES


def test_no_commands_help_loads_anything_heavy() -> None:
    """All in one process; what the first of them loads the others need not."""
    code = (
        "import sys, typer\n"
        "from pneumonia_fl.cli.main import app\n"
        "top = typer.main.get_command(app)\n"
        "for words in [[name] for name in top.commands] + [['data', name] for name in top.commands['data'].commands]:\n"
        "    try: app([*words, '--help'])\n"
        "    except SystemExit as ended: assert not ended.code\n"
        "print('loaded:', *sorted(sys.modules))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "Usage: " in done.stdout
    assert not {name.split(".")[0] for name in done.stdout.rpartition("loaded:")[2].split()} & HEAVY


def test_runs_lists_them_from_their_files(run: Path) -> None:
    assert packages_of("runs", "--root", run.parent) <= COMMAND_LINE | TYPED_WORDS | FILES


def test_status_of_kits_needs_no_nvflare(tmp_path: Path) -> None:
    startup = tmp_path / "server" / "startup"
    startup.mkdir(parents=True)
    server = {"admin_server": "localhost", "name": "project", "service": {"target": "localhost:8002"}}
    (startup / "fed_server.json").write_text(json.dumps({"servers": [server]}))
    assert packages_of("status", tmp_path) <= COMMAND_LINE | TYPED_WORDS | FILES


def test_report_draws_without_torch_and_mlflow(run: Path, tmp_path: Path) -> None:
    words = ("report", run, "--out", tmp_path / "report.html")
    assert packages_of(*words) <= COMMAND_LINE | TYPED_WORDS | FILES | PAGES | FIGURES


@pytest.mark.parametrize("command", ["evaluate", "predict"])
def test_a_saved_model_is_used_without_federation_figures_and_tracking(
    command: str, run: Path, tmp_path: Path
) -> None:
    noise = np.random.default_rng(3).integers(0, 255, (32, 32), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "x.png")
    source = "synthetic:images=30,size=32,seed=7,sites=2"
    words = {"predict": (run, tmp_path / "x.png"), "evaluate": (run, "--source", source)}[command]
    found = packages_of(command, *words)
    assert "torch" in found
    assert not found & {
        "nvflare",
        "grpc",
        "mlflow",
        "sqlalchemy",
        "matplotlib",
        "scipy",
        "pandas",
        "cryptography",
    }
