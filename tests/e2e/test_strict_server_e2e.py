"""A strict server, live: a job runs only if it is what the recipe makes; nothing else of it ever runs.

What a job may bring beside its configuration, a saved model, works there too.
"""

import json
import math
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import pytest
from job_changes import MARK, REFUSED
from refusals import Audit, audit_from_now

from conftest import pneumonia_fl, read_json
from federation import LEAD, SERVER, SITES, Federation, free_port, provision_kits, running
from pneumonia_fl.config.job import load_job
from pneumonia_fl.config.job_files import find_job
from pneumonia_fl.config.sections import ModelConfig, Origin, Preprocess
from pneumonia_fl.data.store import concatenate, open_site, open_split
from pneumonia_fl.evaluation.assess import assess
from pneumonia_fl.evaluation.scoring import evaluate, margins
from pneumonia_fl.fl.job.recipe import export_job
from pneumonia_fl.fl.protocol.carried_weights import sha256_of
from pneumonia_fl.fl.simulator import evaluation_job
from pneumonia_fl.metrics.binary import CELL, summarise
from pneumonia_fl.models.architectures import build_model
from pneumonia_fl.models.checkpoint import ModelCard, load_model, read_card, save_model

pytestmark = [pytest.mark.e2e, pytest.mark.slow]
SMOKE = ("rounds=1", "train.local_epochs=1", "preprocess.size=32")
LIVE = (
    "a reference to another value",
    "a class below a mapping",
    "a class that the recipe does not use",
    "a checkpoint that may hold code",
    "an environment file",
    "a file name of the job's own choice",
    "a configuration in another format",
    "a configuration in a sub-folder",
    "a variable of the environment",
    "weights that nothing names",
    "a job to resume that is a path",
    "a tracking server at a site",
)


@pytest.fixture(scope="module")
def strict(hospital_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    """A federation in which the server is strict as well, as `provision` makes it."""
    port = free_port()
    kits = provision_kits(tmp_path_factory, tmp_path_factory.mktemp("strict"), port, policy="strict")
    with running(Federation(kits, hospital_data, port)) as started:
        yield started


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_job(load_job(find_job("smoke"), SMOKE), SITES, tmp_path_factory.mktemp("exported"))


@pytest.mark.parametrize("name", LIVE)
def test_refused(name: str, strict: Federation, exported: Path, tmp_path: Path) -> None:
    audit, kit = audit_from_now(strict), strict.kit(LEAD)
    job = Path(shutil.copytree(exported, tmp_path / "greedy"))
    REFUSED[name](job / "app")
    done = pneumonia_fl("submit", job, "--kit", kit, "--wait", "--timeout", 2)
    assert done.returncode == 4, done.stdout + done.stderr
    audit.tells(f"[U:{LEAD}]", "refused: ")
    assert not [path for each in (SERVER, *SITES) for path in strict.kit(each).rglob(MARK)]


def test_the_job_that_the_recipe_makes_runs_and_is_in_the_audit_logs(
    strict: Federation, exported: Path
) -> None:
    files = [strict.kit(name) / "audit.log" for name in (SERVER, *SITES)]
    logs = [Audit(file, file.stat().st_size) for file in files]
    done = pneumonia_fl("submit", exported, "--kit", strict.kit(LEAD), "--wait", "--json")
    assert done.returncode == 0, done.stderr
    job_id = json.loads(done.stdout)["id"]
    told = [log.file.read_text()[log.start :] for log in logs]
    hashes = {text.partition("sha256 ")[2][:64] for text in told}
    assert all(f"[R:{job_id}]" in text and "[A:job_configuration]" in text for text in told)
    assert len(hashes) == 1, "the server and all sites have run the same configuration"


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with an untrained model."""
    run = tmp_path_factory.mktemp("runs") / "saved"
    state = build_model(size=32, seed=5).state_dict()
    card = ModelCard(job="smoke", round=1, seed=5, model=ModelConfig(), preprocess=Preprocess(size=32))
    save_model(run / "model", state, card.model_copy(update={"threshold": 0.48, "offset": 0.1}))
    (run / "run.json").write_text("{}")
    return run


@contextmanager
def opted_out(kit: Path) -> Iterator[None]:
    """A site whose owner takes part in no evaluation."""
    settings = kit / "local" / "pneumonia_fl.yml"
    before = settings.read_text()
    settings.write_text(f"{before}\njoin_evaluations: false\n")
    try:
        yield
    finally:
        settings.write_text(before)


def test_hospitals_evaluate_a_saved_model_on_their_own_test_images_and_only_counts_come_back(
    strict: Federation, saved: Path, hospital_data: Path
) -> None:
    asia, europe, us = SITES
    logs = [strict.kit(name) / "audit.log" for name in (SERVER, *SITES)]
    with opted_out(strict.kit(us)):
        done = pneumonia_fl("evaluate", saved, "--kit", strict.kit(LEAD), "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (list(found["sites"]), found["missing"]) == ([asia, europe], {us: "takes no part in evaluations"})
    assert read_json(saved / "evaluations" / "test-01.json") == found
    assert all(site["readings"] == 1 for site in found["sites"].values())

    model, card = load_model(saved / "model")
    data = concatenate([open_split(hospital_data, site, "test")[1] for site in (asia, europe)])
    exact = assess(margins(model, data.images, card.preprocess), data, card.threshold, card.scaling)
    assert {key: found[key] for key in ("n", "positives", "patients")} == {
        key: exact[key] for key in ("n", "positives", "patients")
    }
    for name in ("brier", "loss"):
        assert found["metrics"][name] == pytest.approx(exact["metrics"][name], abs=1 / 64)
    for interval in found["intervals"].values():
        assert interval is None or interval[0] <= interval[1]

    subject = evaluation_job.subject("model", saved)
    for log in logs:
        assert f"evaluates on split test: model {subject.sha256}" in log.read_text()
    for site in (asia, europe):
        kept = strict.kit(site) / "pneumonia_fl_site_state" / "readings.jsonl"
        (line,) = map(json.loads, kept.read_text().splitlines())
        assert (line["split"], line["model"], line["images"]) == (
            "test", subject.sha256, found["sites"][site]["n"],
        )  # fmt: skip


def test_models_that_exist_are_evaluated_across_sites_on_demand(strict: Federation, saved: Path) -> None:
    words = ("--kit", strict.kit(LEAD), "--models", "best", "--sites", SITES[0], "--json")
    done = pneumonia_fl("cross-site", saved, *words)
    assert done.returncode == 0, done.stderr
    matrix = json.loads(done.stdout)
    assert matrix == read_json(saved / "cross_site.json")
    assert (matrix["models"], matrix["sites"], matrix["split"]) == (["best"], [SITES[0]], "val")
    model, card = load_model(saved / "model")
    images = open_site(strict.data, SITES[0]).split("val")
    by_hand = asdict(summarise(evaluate(model, images, card.preprocess)))
    assert matrix["cells"]["best"][SITES[0]] == pytest.approx({key: by_hand[key] for key in CELL}, abs=1e-6)


def test_a_job_goes_on_from_a_saved_model_with_settings_for_single_sites(
    strict: Federation, tmp_path: Path
) -> None:
    saved, run, (capped, own, _) = tmp_path / "at home" / "mine", tmp_path / "run", SITES
    state = build_model("small_resnet", "batch", 32, seed=3).state_dict()
    card = ModelCard(job="x", round=3, seed=1, model=ModelConfig(), preprocess=Preprocess(size=32))
    save_model(saved, state, card)
    settings = strict.kit(capped) / "local" / "pneumonia_fl.yml"
    before = settings.read_text()
    settings.write_text(before.replace("max_batch_size:", "max_batch_size: 4"))
    words = [
        f"sites.{own}.weight=0.5",
        f"sites.{own}.train.local_epochs=2",
        "rounds=1",
        "train.local_epochs=1",
    ]
    sets = [part for word in words for part in ("--set", word)]
    try:
        done = pneumonia_fl(
            "run",
            "smoke",
            "--env",
            "prod",
            "--kit",
            strict.kit(LEAD),
            "--init-from",
            saved,
            *sets,
            "--out",
            run,
        )
    finally:
        settings.write_text(before)
    assert done.returncode == 0, done.stderr
    began = read_json(run / "metrics.json")["rounds"][0]
    trained = {site: (values["train_samples"], values["steps"]) for site, values in began["sites"].items()}
    seen = read_card(run / "model")
    assert seen.data is not None
    images = {site: sum(counts["train"].values()) for site, counts in seen.data.counts.items()}
    assert {site: samples for site, (samples, _) in trained.items()} == images | {own: 2 * images[own]}
    assert trained[capped][1] == math.ceil(images[capped] / 4)
    assert seen.init_from == Origin(name="mine, round 3", weights=sha256_of(saved / "model.safetensors"))
    written = [file for file in run.rglob("*") if file.is_file()]
    assert not [file for file in written if b"at home" in file.read_bytes()]
    assert (
        f"{capped} trained within its own limits from round 1 on: batch_size 4."
        in (run / "report.html").read_text()
    )
    for site in SITES:
        assert not [file for file in strict.kit(site).rglob("*.safetensors") if "weights" in file.parts]
