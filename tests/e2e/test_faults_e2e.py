"""Hospitals fail: processes are killed or hang, data is gone, updates are broken, the server crashes.

Everything here happens to real processes of a real federation. Each test says within how many seconds the job must
be on its way again, or over.
"""

import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from faults import (
    ASIA,
    EUROPE,
    QUICK,
    US,
    Job,
    frozen,
    kill,
    of_jobs,
    resume,
    submit,
    submit_with_patience,
    whole,
)
from speed import scaled

from conftest import pneumonia_fl, read_json, scalars
from federation import LEAD, SERVER, SITES, Federation, free_port, provision_kits, running
from pneumonia_fl.fl.site.executor import SITE_STATE_FOLDER
from pneumonia_fl.fl.state.job_state import STATE_FOLDER
from pneumonia_fl.runs.journal import read_journal

pytestmark = [pytest.mark.e2e, pytest.mark.slow]


@pytest.fixture(scope="module")
def clinic(hospital_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    """A federation of this module's own: much is killed in it."""
    folder, port = tmp_path_factory.mktemp("faults"), free_port()
    shutil.copytree(hospital_data, folder / "data")
    kits = provision_kits(tmp_path_factory, folder, port)
    relaxed = pneumonia_fl("provision", folder / "project.yml", "--out", kits, "--policy", f"{US}=relaxed")
    assert relaxed.returncode == 0, relaxed.stderr
    with running(Federation(kits, folder / "data", port)) as federation:
        yield federation


@pytest.fixture(scope="module")
def long_job(clinic: Federation) -> Job:
    """A job that goes on while its sites suffer."""
    job = submit(clinic, "rounds=500", "min_sites=2", "grace=3")
    job.reach(1)
    return job


@pytest.mark.parametrize(
    ("kinds", "seconds"),
    [(("trainer",), 60), (("job",), 60), (("site", "job", "trainer"), 90), (("site",), 90)],
    ids=["trainer", "job process", "everything", "site process only"],
)
def test_what_is_killed_at_a_site_comes_back_and_takes_part(
    long_job: Job, kinds: tuple[str, ...], seconds: float
) -> None:
    federation, before = long_job.federation, long_job.round()
    long_job.until(lambda: long_job.contributed(ASIA, before), 60, "asia takes part")
    kill(federation, ASIA, *kinds)
    # A job process whose site was killed may still finish its round: ask when all of them are there again.
    long_job.until(lambda: whole(federation, ASIA), seconds, "asia has all its processes")
    since = long_job.round() + 1
    long_job.until(lambda: long_job.contributed(ASIA, since), seconds, "asia takes part again")
    long_job.until(lambda: whole(federation, ASIA), seconds, "asia keeps all its processes")
    assert long_job.events("stopped") == []


def test_a_site_that_hangs_is_named_and_the_round_goes_on(long_job: Job) -> None:
    with frozen(long_job.federation, US):
        since = long_job.round() + 1
        long_job.reach(since + 2, 30)
        late = [event for event in long_job.events("problem") if event["site"] == US]
        assert late[-1]["state"] == "late"
        assert late[-1]["problem"] == "no answer in time"
        assert not long_job.contributed(US, since)
    now = long_job.round()
    long_job.until(lambda: long_job.contributed(US, now), 90, "us takes part again")


def test_the_rounds_of_a_job_that_suffered_are_contiguous(long_job: Job) -> None:
    numbers = [event["round"] for event in long_job.events("global")]
    assert numbers == list(range(len(numbers)))
    steps = [event["step"] for event in long_job.events("loss") if event["site"] == EUROPE]
    assert steps == sorted(set(steps))


def test_an_aborted_job_leaves_no_process_anywhere(long_job: Job) -> None:
    federation = long_job.federation
    done = pneumonia_fl("abort", long_job.id, "--kit", federation.kit(LEAD))
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"job {long_job.id} is aborted (ended by {LEAD})\n"
    long_job.until(lambda: not long_job.folder.exists(), 60, "the server's job is over")
    long_job.until(lambda: not of_jobs(federation), 60, "no process of a job is left")


def test_below_the_quorum_the_job_ends_and_keeps_its_last_model(clinic: Federation, tmp_path: Path) -> None:
    late = "of at least 3 sites contributed"
    job, seconds = submit_with_patience(clinic, "round_timeout", late, "rounds=400", "min_sites=3", "grace=3")
    with frozen(clinic, EUROPE):
        code, said = job.watch(65 + seconds)
    assert code == 1
    assert f"2 {late}" in said
    assert f"{EUROPE} late: no answer in time" in said
    metrics = job.download(tmp_path / "run")
    assert metrics["best_round"] >= 1
    card = read_json(tmp_path / "run/model_last/model_card.json")
    saved = [e["round"] for e in read_journal(tmp_path / "run/journal.jsonl") if e["event"] == "saved"]
    assert (card["round"], card["metrics"]) == (saved[-1], {}), "nobody has judged the last model"
    assert card["limitations"].startswith("Not evaluated")
    done = pneumonia_fl("evaluate", tmp_path / "run", "--source", clinic.data, "--split", "val")
    assert done.returncode == 0, done.stderr
    job.until(lambda: not of_jobs(clinic), 60, "no process of a job is left")


def test_the_watchdog_ends_a_job_without_progress(clinic: Federation) -> None:
    job, seconds = submit_with_patience(clinic, "stall_timeout", "no sign from any site", "rounds=400")
    with frozen(clinic, *SITES):
        code, said = job.watch(65 + seconds)
    assert code == 1
    assert f"no sign from any site for {seconds} s; waiting for {ASIA}, {EUROPE}, {US}" in said


SABOTAGE = """
import sys
if "pneumonia_fl.fl.site.client" in sys.orig_argv:
    import nvflare.client as flare
    import torch
    from pathlib import Path
    send, turns = flare.send, Path(__file__).with_name("turns")
    def spoil(model):
        number = len(turns.read_text()) if turns.exists() else 0
        turns.write_text("x" * (number + 1))
        if number == 6:
            raise MemoryError("of the test")
        if model.params is None:
            return
        name = next(name for name in model.params if name.endswith("weight"))
        if number == 0:
            model.params[name] = model.params[name] * float("nan")
        elif number == 1:
            del model.params[name]
        elif number == 2:
            model.params["extra"] = torch.ones(3)
        elif number == 3:
            model.meta["NUM_STEPS_CURRENT_ROUND"] = 10**9
        elif number == 4:
            model.params[name] = model.params[name].double()
        elif number == 5:
            model.params[name] = model.params[name].flatten()
    def sabotaged(model, *words, **options):
        try:
            spoil(model)
        except MemoryError:
            import os
            os._exit(9)
        return send(model, *words, **options)
    flare.send = sabotaged
"""


def test_updates_that_must_not_count_are_refused_and_the_rounds_go_on(
    clinic: Federation, tmp_path: Path
) -> None:
    (tmp_path / "sitecustomize.py").write_text(SABOTAGE)
    kit = clinic.kit(US)
    assert pneumonia_fl("down", kit).returncode == 0
    broken = {**os.environ, "PYTHONPATH": str(tmp_path)}
    assert pneumonia_fl("up", kit, "--data", clinic.data, env=broken).returncode == 0
    job = submit(clinic, "rounds=9", "min_sites=2", f"grace={scaled(60):.0f}")
    code, said = job.watch(180)
    (tmp_path / "sitecustomize.py").unlink()  # the next trainer is a good one
    assert code == 0, said
    metrics = job.download(tmp_path / "run")
    problems = {entry["round"]: entry["problem"] for entry in metrics["problems"] if entry["site"] == US}
    assert "values that are no numbers" in problems[0]
    assert "parameters are missing" in problems[1]
    assert "unknown parameters: extra" in problems[2]
    assert "sample count 1000000000 is out of range" in problems[3]
    assert "is float64, not float32" in problems[4]
    assert "has shape" in problems[5]
    assert {entry["state"] for entry in metrics["problems"]} == {"refused"}
    counted = [entry["round"] for entry in metrics["rounds"] if US in entry["sites"]]
    assert set(counted) >= {6, 7, 8, 9}
    assert [entry["round"] for entry in metrics["rounds"]] == list(range(10))


HOSTILE = """
import sys
if "pneumonia_fl.fl.site.client" in sys.orig_argv:
    import nvflare.client as flare
    import numpy as np
    from pathlib import Path
    from nvflare.client.tracking import SummaryWriter
    send, turns = flare.send, Path(__file__).with_name("turns")
    def lie(model, report, number):
        histogram, training = report["histogram"], report["training"]
        if number == 0:
            SummaryWriter().add_scalar("../../../../x", 1.0, global_step=1)
            report["training"] = {"train_samples": 5}
        elif number == 1:
            report["data"] = {"x": float("nan")}
        elif number == 2:
            histogram["counts"][0][0] = histogram["counts"][1][-1] = 10**9
        elif number == 3:
            histogram["counts"][0][0] = 2**62
        elif number == 4:
            training["auroc"] = 0.999999
        elif number == 5:
            report["data"] = {"x": "x" * 3_000_000}
        elif number == 6:
            model.meta["pneumonia_fl.site_report"] = [report]
        elif number == 7:
            model.meta["pneumonia_fl.site_report"] = {"problem": "\\x1b[2J\\n" * 1000 + "[/nope]"}
        elif number == 8:
            model.meta["more"] = {str(part): np.zeros(500_000) for part in range(10)}
    def lying(model, *words, **options):
        report = model.meta.get("pneumonia_fl.site_report")
        if model.params is not None and report:
            number = len(turns.read_text()) if turns.exists() else 0
            turns.write_text("x" * (number + 1))
            lie(model, report, number)
        return send(model, *words, **options)
    flare.send = lying
"""


def test_a_hostile_site_is_refused_by_name_and_steers_nothing(clinic: Federation, tmp_path: Path) -> None:
    """In each round another thing that no site of ours says; the others train on, and every refusal has its reason."""
    (tmp_path / "sitecustomize.py").write_text(HOSTILE)
    kit = clinic.kit(US)
    assert pneumonia_fl("down", kit).returncode == 0
    hostile = {**os.environ, "PYTHONPATH": str(tmp_path)}
    assert pneumonia_fl("up", kit, "--data", clinic.data, env=hostile).returncode == 0
    job = submit(clinic, "rounds=10", "min_sites=2", f"grace={scaled(60):.0f}")
    code, said = job.watch(180)
    (tmp_path / "sitecustomize.py").unlink()
    assert code == 0, said
    run = tmp_path / "run"
    metrics = job.download(run)
    problems = {entry["round"]: entry["problem"] for entry in metrics["problems"] if entry["site"] == US}
    for number, words in enumerate(
        (
            "training.train_loss: Field required",
            "data.source: Field required",
            "histogram.counts.0.0",
            "histogram.counts.0.0",
            "training.auroc: Extra inputs",
            "larger than 1000000 bytes without its arrays",
            "valid dictionary",
            "[2J [2J",
            "more than the",
        )
    ):
        assert words in problems[number], problems
    assert len(metrics["problems"]) == len(problems) == 9
    assert all(problem.isprintable() and len(problem) < 300 for problem in problems.values())
    assert [entry["round"] for entry in metrics["rounds"] if US in entry["sites"]] == [9, 10]
    assert [entry["round"] for entry in metrics["rounds"]] == list(range(11))
    images = [entry["global"]["n"] for entry in metrics["rounds"]]
    assert len(set(images[:9])) == 1, "only honest images are pooled"
    assert images[9] == images[10] > images[0]
    tracked = read_json(run / "mlflow.json")
    assert (tracked["undelivered"], tracked["dropped"]) == (0, {})
    assert "../../../../x" not in scalars(run / "tb_events" / US)
    assert (run / "journal.jsonl").stat().st_size < 500_000


def test_a_site_without_data_is_named_and_the_run_is_incomplete(clinic: Federation, tmp_path: Path) -> None:
    hidden = clinic.data / "moved-away"
    (clinic.data / US).rename(hidden)
    try:
        job = submit(clinic, "rounds=2", "min_sites=2", "grace=3")
        code, said = job.watch(120)
    finally:
        hidden.rename(clinic.data / US)
    assert code == 5
    assert f"never contributed: {US} (DataError: no prepared data" in said
    metrics = job.download(tmp_path / "run")
    assert metrics["missing"] == [US]
    assert read_json(tmp_path / "run" / "run.json")["state"] == "incomplete"
    assert str(clinic.data) not in json.dumps(metrics)
    assert next(entry for entry in metrics["problems"])["state"] == "failed"


def test_a_killed_server_comes_back_and_the_job_goes_on(clinic: Federation, tmp_path: Path) -> None:
    """Twice: the second part of the job is killed before it has done a round. The sites' own part goes on as well."""
    first = submit(clinic, "rounds=6", "min_sites=3", f"grace={scaled(30):.0f}", "algorithm.name=fedbn")
    first.reach(2)
    kill(clinic, SERVER, "server", "server job")
    first.until(lambda: len(clinic.sites()) == 3, 90, "all sites are back")
    first.until(lambda: not of_jobs(clinic), 90, "no process of a job is left")
    listed = pneumonia_fl("jobs", "--kit", clinic.kit(LEAD), "--json")
    (entry,) = [entry for entry in json.loads(listed.stdout) if entry["id"] == first.id]
    assert entry["status"] == "interrupted"

    second = resume(first)
    again = pneumonia_fl("resume", first.id, "--kit", clinic.kit(LEAD))
    assert f"was resumed as job {second.id[:8]}" in again.stderr
    second.reach(2)
    kill(clinic, SERVER, "server job")
    second.until(lambda: not second.folder.exists(), 90, "the second part is over")
    third = resume(second)
    code, said = third.watch(150)
    assert code == 0, said
    done = pneumonia_fl("resume", third.id, "--kit", clinic.kit(LEAD), "--rounds", 9)
    assert "has finished all its 6 rounds" in done.stderr
    metrics = third.download(tmp_path / "run")
    assert [entry["round"] for entry in metrics["rounds"]] == list(range(7))
    assert metrics["missing"] == []
    assert_curves_go_on(tmp_path / "run", rounds=6)
    for job in (first, second):
        assert not (clinic.kit(SERVER) / STATE_FOLDER / job.id).exists()
    for site in SITES:
        kept = clinic.kit(site) / SITE_STATE_FOLDER
        assert (kept / first.id / "model/model_card.json").is_file()
        assert (kept / first.id / "round-5.safetensors").is_file()
        assert {job.id for job in (second, third)}.isdisjoint(entry.name for entry in kept.iterdir())
        assert "no normalisation of its own yet" not in (clinic.kit(site) / third.id / "log.txt").read_text()


def assert_curves_go_on(run: Path, rounds: int) -> None:
    """No round was begun for nothing, steps are counted on, TensorBoard has the first part as well."""
    events = read_journal(run / "journal.jsonl")
    begun = [event["round"] for event in events if event["event"] == "round_started"]
    assert begun[-1] == rounds
    assert max(begun.count(number) for number in begun) <= 3
    for site in SITES:
        steps = {event["step"] for event in events if event["event"] == "loss" and event["site"] == site}
        assert max(steps) % rounds == 0, "rounds of equal length"
        assert len(steps) >= rounds
    curve = scalars(run / "tb_events" / "global")["validation_auc"]
    assert sorted({step for step, _ in curve}) == list(range(rounds + 1))


def test_shipped_code_goes_before_what_is_installed(clinic: Federation) -> None:
    """One site allows it; the others, being strict, leave it to that one."""
    settings = [word for setting in (*QUICK, "rounds=1", "min_sites=1") for word in ("--set", setting)]
    words = ["--kit", clinic.kit(LEAD), "--ship-code", "--json", *settings]
    done = pneumonia_fl("submit", "smoke", *words)
    assert done.returncode == 0, done.stderr
    job = Job(clinic, json.loads(done.stdout)["id"])
    code, said = job.watch(120)
    assert code == 5, said
    assert "'strict'" in said or f"never contributed: {ASIA} (" in said
    at_site = (clinic.kit(US) / job.id / "log.txt").read_text()
    assert re.search(rf"pneumonia-fl \S+, shipped with the job, at {US}", at_site)
    at_server = pneumonia_fl("logs", job.id, "--kit", clinic.kit(LEAD)).stdout
    assert re.search(r"pneumonia-fl \S+, shipped with the job\b", at_server)
