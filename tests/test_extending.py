"""docs/extending.md: its code, applied to a copy of the repository, works as the page says."""

import csv
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from speed import scaled
from xrays import jpeg

from conftest import CLI, ROOT, read_json, scalars
from pneumonia_fl.errors import DataError

PAGE = ROOT / "docs" / "extending.md"
NEW_FILE = re.compile(r"`([\w./]+)`:\n\n```(?:python|yaml)\n(.*?)^```", re.M | re.S)
DIFF = re.compile(r"^```diff\n(.*?)^```", re.M | re.S)
COPIED = ("src", "jobs", "docs", "scripts", "tests", "pyproject.toml")
Run = Callable[..., str]


@pytest.fixture(scope="module")
def extended(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the repository with everything that the page adds."""
    copy = tmp_path_factory.mktemp("extended")
    for name in COPIED:
        source, ignored = ROOT / name, shutil.ignore_patterns("__pycache__", "*.egg-info", "images")
        if source.is_dir():
            shutil.copytree(source, copy / name, ignore=ignored)
        else:
            shutil.copy(source, copy / name)
    text = PAGE.read_text(encoding="utf-8")
    for name, content in NEW_FILE.findall(text):
        assert not (copy / name).exists(), name
        (copy / name).write_text(content, encoding="utf-8")
    for diff in DIFF.findall(text):
        for part in re.split(r"^--- ", diff, flags=re.M)[1:]:
            name, _, hunks = part.partition("\n")
            apply(hunks, copy / name)
    return copy


def apply(hunks: str, path: Path) -> None:
    """Apply hunks, whose lines need no numbers: each must fit in one place only."""
    text = path.read_text(encoding="utf-8")
    for hunk in re.split(r"^@@\n", hunks, flags=re.M):
        lines = [(line[:1], f"{line[1:]}\n") for line in hunk.splitlines()]
        assert {mark for mark, _ in lines} <= set(" +-"), hunk
        before = "".join(line for mark, line in lines if mark != "+")
        after = "".join(line for mark, line in lines if mark != "-")
        assert f"\n{text}".count(f"\n{before}") == 1, f"{path.name} does not have once:\n{before}"
        text = f"\n{text}".replace(f"\n{before}", f"\n{after}")[1:]
    path.write_text(text, encoding="utf-8")


@pytest.fixture(scope="module")
def run(extended: Path) -> Run:
    """Run a program with the extended package in the copy's folder; return what it prints."""

    def start(*words: object) -> str:
        done = subprocess.run(
            list(map(str, words)),
            cwd=extended,
            env={**os.environ, "PYTHONPATH": str(extended / "src")},
            capture_output=True,
            text=True,
            timeout=scaled(300),
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return start


def test_every_block_of_code_is_applied() -> None:
    text = PAGE.read_text(encoding="utf-8")
    kinds = re.findall(r"^```(\w+)$", text, re.M)
    assert set(kinds) == {"python", "yaml", "diff", "bash"}
    assert len(NEW_FILE.findall(text)) == kinds.count("python") + kinds.count("yaml")
    assert len(DIFF.findall(text)) == kinds.count("diff")


def test_every_path_on_the_page_exists(extended: Path) -> None:
    paths = re.findall(r"`([\w.]+/[\w./]*)`", PAGE.read_text(encoding="utf-8"))
    assert len(paths) > 20
    tops = (extended, extended / "src" / "pneumonia_fl")
    assert [path for path in paths if not any((top / path).exists() for top in tops)] == []


def test_the_code_of_the_page_keeps_the_rules_of_the_repository(run: Run) -> None:
    ruff = Path(sys.executable).with_name("ruff")
    run(ruff, "check", "src")
    run(ruff, "format", "--check", "src")
    modules = " or ".join(Path(name).stem for name, _ in NEW_FILE.findall(PAGE.read_text(encoding="utf-8")))
    words = ["-p", "no:cacheprovider", "tests/test_layers.py", "-k", f"{modules} or crowded or help"]
    run(sys.executable, "-m", "pytest", *words)


def test_the_reference_has_the_new_job_and_the_new_command(run: Run, extended: Path) -> None:
    run(sys.executable, "scripts/make_docs.py")
    reference = extended / "docs" / "reference"
    assert "## `pneumonia-fl patients`" in (reference / "cli.md").read_text(encoding="utf-8")
    config = (reference / "config.md").read_text(encoding="utf-8")
    assert "| `max_update` | number | `10.0` | > 0 and ≤ 1e+06 |" in config
    assert "### `fedmedian`" in config


NUMBERS = """
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from nvflare.app_common.abstract.fl_model import FLModel
from sklearn.metrics import precision_score

from pneumonia_fl.config.algorithm import Algorithm
from pneumonia_fl.config.job import load_job
from pneumonia_fl.config.job_files import find_job
from pneumonia_fl.errors import ConfigError
from pneumonia_fl.fl.algorithms.registry import server_algorithm, site_algorithm
from pneumonia_fl.fl.job.recipe import export_job
from pneumonia_fl.fl.parent.expected_job import read_job
from pneumonia_fl.fl.protocol.site_report import Personal
from pneumonia_fl.fl.state.site_state import SiteState
from pneumonia_fl.metrics.binary import ScoreHistogram, exact_metrics, summarise
from pneumonia_fl.metrics.series import is_site_tag, series

# the metric: exact, pooled, as a series, and from a site
generator = np.random.default_rng(1)
margins, labels = generator.normal(size=200), generator.integers(0, 2, 200)
wanted = precision_score(labels, margins >= 0)
assert exact_metrics(margins, labels).precision == pytest.approx(wanted)
pooled = summarise(ScoreHistogram.from_scores(margins, labels))
assert series(pooled)["validation_precision"] == pytest.approx(wanted)
assert is_site_tag("validation_precision")
assert exact_metrics([-1.0, -2.0], [0, 1]).precision is None
assert Personal.model_validate(asdict(pooled)).precision == pytest.approx(wanted)
with pytest.raises(ValueError):
    Personal.model_validate(asdict(replace(pooled, precision=2.0)))

# the algorithm: one site far away moves neither its own update nor the median
settings = Algorithm(name="fedmedian", max_update=0.5)
model = torch.nn.Linear(2, 2)
sent = {name: value.numpy().copy() for name, value in model.state_dict().items()}
site = site_algorithm(settings, "a")
site.begin(model, FLModel(params=model.state_dict(), current_round=0), SiteState(None))
with torch.no_grad():
    model.weight += 3.0
assert site.end(model, None, None) == {}
moved = np.concatenate([(value.numpy() - sent[name]).ravel() for name, value in model.state_dict().items()])
assert np.linalg.norm(moved) == pytest.approx(0.5, rel=1e-4)
server = server_algorithm(settings, {"weight"})
assert server.outgoing(0, 3) == {}
for name, value in {"a": 1.0, "b": 2.0, "c": 1000.0}.items():
    params = {"weight": np.full(2, value, np.float32), "count": np.float32(value)}
    server.accept(name, FLModel(params=params))
average = {"weight": np.full(2, 334.0, np.float32), "count": np.float32(334)}
new = server.update(average, average)
assert new["weight"].tolist() == [2.0, 2.0] and new["weight"].dtype == np.float32
assert new["count"] == 334

# the job: a strict site takes it, and refuses what the algorithm has no use for
job = load_job(find_job("fedmedian"), ["preprocess.size=32"])
app = export_job(job, ("a", "b"), Path("exported")) / "app"
assert read_job(app)[2] == ""
for word in ("sites.a.weight=2", "algorithm.mu=0.1"):
    with pytest.raises(ConfigError, match="fedmedian has no"):
        load_job(find_job("fedmedian"), [word])
with pytest.raises(ConfigError, match="fedavg has no max_update"):
    load_job(find_job("fedavg"), ["algorithm.max_update=2"])
"""


def test_the_metric_the_algorithm_and_the_job_do_what_the_page_says(run: Run) -> None:
    run(sys.executable, "-c", NUMBERS)


def write_table(folder: Path) -> Path:
    """Images of 24 patients with two pictures each, and a table of them."""
    folder.mkdir()
    table = folder / "table.csv"
    with table.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "label", "patient", "split"])
        for number in range(48):
            (folder / f"{number}.jpg").write_bytes(jpeg(number))
            split = "test" if number >= 40 else "train"
            writer.writerow([f"{number}.jpg", ("NORMAL", "PNEUMONIA")[number // 2 % 2], number // 2, split])
    return table


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("x.jpg,NORMAL,p1,other", "split 'other'"),
        ("x.jpg,ILL,p1,", "label 'ILL'"),
        ("x.jpg,NORMAL,,", "patient ''"),
        ("../x.jpg,NORMAL,p1,", "is not a path below"),
        ("/x.jpg,NORMAL,p1,", "is not a path below"),
    ],
)
def test_a_table_with_a_wrong_line_is_refused(line: str, fault: str, extended: Path, tmp_path: Path) -> None:
    module = runpy.run_path(str(extended / "src/pneumonia_fl/data/sources/csv_table.py"))
    table = tmp_path / "table.csv"
    table.write_text(f"image,label,patient,split\n{line}\n")
    with pytest.raises(DataError, match=fault):
        module["open_csv"](table)


@pytest.mark.e2e
def test_a_run_shows_all_of_it(run: Run, extended: Path, tmp_path: Path) -> None:
    data, out = tmp_path / "data", tmp_path / "run"
    table = write_table(tmp_path / "images")
    run(CLI, "data", "prepare", "--source", table, "--out", data, "--sites", "2", "--size", "16")
    counted = json.loads(run(CLI, "patients", data, "--json"))
    assert sum(number for splits in counted.values() for number in splits.values()) == 24
    assert counted["test"] == {"test": 4}
    assert "Patients" in run(CLI, "patients", data)
    words = ["rounds=1", "train.local_epochs=1", "tracking=[tensorboard]"]
    run(
        CLI, "run", "fedmedian", "--data", data, "--out", out, *(w for word in words for w in ("--set", word))
    )
    last = read_json(out / "metrics.json")["rounds"][-1]
    assert "precision" in last["global"]
    for place in ("site-1", "global"):
        assert "validation_precision" in scalars(out / "tb_events" / place)
    report = (out / "report.html").read_text(encoding="utf-8")
    assert "Number of sites with a result in each of 2 rounds; 2 took part" in report
    assert "Precision" in report
    assert "fedmedian, max_update 5.0" in report
