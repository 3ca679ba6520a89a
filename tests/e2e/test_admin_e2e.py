"""Jobs on a running federation of real processes, as people use it: commands, NVFlare's console, refusals."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from imports import packages_of
from speed import scaled

from conftest import CLI, pneumonia_fl, read_json, scalars
from federation import LEAD, MEMBER, SERVER, SITES, Federation, free_port, until

pytestmark = pytest.mark.e2e
SETTINGS = ("--rounds", 2, "--set", "preprocess.size=32", "--set", "train.local_epochs=1")
OTHER_LEAD = "other@us-hospital.org"

Done = subprocess.CompletedProcess[str]


@dataclass(frozen=True)
class Story:
    """One job from its submission to its download, with what each command said meanwhile."""

    kit: Path
    id: str
    again: Done
    early: Done
    meddled: Done
    watched: Done
    downloaded: Done
    run: Path


@pytest.fixture(scope="module")
def other_lead(federation: Federation) -> Path:
    """A second lead, added while the federation runs."""
    words = f"{OTHER_LEAD}:us_hospital:lead"
    project = federation.kits.parent / "project.yml"
    done = pneumonia_fl("provision", project, "--out", federation.kits, "--add-user", words)
    assert done.returncode == 0, done.stderr
    return federation.kit(OTHER_LEAD)


@pytest.fixture(scope="module")
def story(federation: Federation, other_lead: Path, tmp_path_factory: pytest.TempPathFactory) -> Story:
    kit, folder = federation.kit(LEAD), tmp_path_factory.mktemp("lead")
    submit = ("submit", "smoke", *SETTINGS, "--kit", kit, "--token", "story", "--json")
    submitted = pneumonia_fl(*submit)
    assert submitted.returncode == 0, submitted.stderr
    job = json.loads(submitted.stdout)["id"]
    with subprocess.Popen(
        [str(CLI), "watch", job[:8], "--kit", str(kit)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as watching:  # fmt: skip
        early = pneumonia_fl("download", job, "--kit", kit, cwd=folder)
        meddled = pneumonia_fl("abort", job, "--kit", other_lead)
        again = pneumonia_fl(*submit)
        out, err = watching.communicate(timeout=scaled(180))
    watched = subprocess.CompletedProcess(watching.args, watching.returncode, out, err)
    downloaded = pneumonia_fl("download", job[:8], "--kit", kit, cwd=folder)
    return Story(kit, job, again, early, meddled, watched, downloaded, folder / "runs" / f"smoke-{job[:8]}")


def listed(kit: Path, job: str) -> dict[str, Any]:
    """What `jobs --json` says of one job."""
    done = pneumonia_fl("jobs", "--kit", kit, "--json")
    assert done.returncode == 0, done.stderr
    (found,) = [entry for entry in json.loads(done.stdout) if entry["id"] == job]
    return dict(found)


def one_line(done: Done, code: int, *parts: str) -> None:
    """The command ended with this code and one line that holds these parts."""
    assert done.returncode == code, done.stdout + done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert done.stderr.splitlines()[-1] == line
    assert "Traceback" not in done.stderr
    for part in parts:
        assert part in line


def test_the_same_token_and_job_run_once(story: Story) -> None:
    assert json.loads(story.again.stdout)["id"] == story.id


def test_a_token_is_not_taken_for_another_job(story: Story) -> None:
    done = pneumonia_fl("submit", "fedavg", *SETTINGS, "--kit", story.kit, "--token", "story")
    one_line(done, 4, "choose another --token")


def test_watch_names_rounds_and_sites_and_how_it_ended(story: Story) -> None:
    assert story.watched.returncode == 0, story.watched.stderr
    for site in SITES:
        assert f"{site}: round 2 accepted" in story.watched.stderr
    assert f"job {story.id} is complete" in story.watched.stdout


def test_jobs_lists_it_as_finished_with_its_best_auroc(story: Story) -> None:
    job = listed(story.kit, story.id)
    assert (job["status"], job["rounds"], job["submitter"]) == ("finished", 2, LEAD)
    assert sorted(job["sites"]) == list(SITES)
    assert job["missing"] == []
    assert 0 <= job["best_auroc"] <= 1
    assert job["duration"] > 0


def test_a_running_job_cannot_be_downloaded_and_leaves_nothing(story: Story) -> None:
    one_line(story.early, 1, "has not ended")
    assert [path.name for path in story.run.parent.iterdir()] == [story.run.name]


def test_another_lead_may_not_end_it(story: Story) -> None:
    one_line(story.meddled, 4, f"{OTHER_LEAD} (lead) may not abort this job", "authz")


def test_download_makes_a_run_folder_like_the_simulators(story: Story) -> None:
    assert story.downloaded.returncode == 0, story.downloaded.stderr
    assert "AUROC" in story.downloaded.stdout
    for name in ("config.yml", "metrics.json", "journal.jsonl", "figures/curves.png", "logs/server.txt"):
        assert (story.run / name).is_file(), name
    for name in ("model", "model_last"):
        assert (story.run / name / "model.safetensors").is_file()
    assert (story.run / "job/smoke/meta.json").is_file()
    series = {path.name for path in (story.run / "tb_events").iterdir()}
    assert series == {*SITES, "global"}
    assert not list((story.kit / "transfer").iterdir()), "the kit keeps a copy"
    metrics = read_json(story.run / "metrics.json")
    assert [entry["round"] for entry in metrics["rounds"]] == [0, 1, 2]
    assert all(sorted(entry["sites"]) == list(SITES) for entry in metrics["rounds"])
    state = read_json(story.run / "run.json")
    assert (state["state"], state["job_id"], state["submitter"]) == ("finished", story.id, LEAD)


def test_its_metrics_are_of_the_same_kind_as_the_simulators(story: Story, finished_run: Path) -> None:
    real, simulated = read_json(story.run / "metrics.json"), read_json(finished_run / "metrics.json")
    assert real.keys() == simulated.keys()
    for ours, theirs in zip(real["rounds"], simulated["rounds"], strict=False):
        assert ours["global"].keys() == theirs["global"].keys()
    site, other = (next(iter(metrics["rounds"][0]["sites"].values())) for metrics in (real, simulated))
    assert site.keys() == other.keys()
    card, its = (
        read_json(story.run / "model/model_card.json"),
        read_json(finished_run / "model/model_card.json"),
    )
    assert card.keys() == its.keys()
    assert set(card["data"]["counts"]) == set(SITES)


def test_its_best_model_can_be_had_from_mlflow(
    story: Story, federation: Federation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient
    from mlflow.artifacts import download_artifacts

    for name, value in federation.mlflow_login().items():
        monkeypatch.setenv(name, value)

    record = read_json(story.run / "mlflow.json")
    client = MlflowClient(record["uri"])
    (model,) = client.search_model_versions(f"run_id = '{record['runs']['global']}'")
    assert model.name == "pneumonia-fl-smoke"
    local = download_artifacts(artifact_uri=model.source, tracking_uri=record["uri"], dst_path=str(tmp_path))
    assert (Path(local) / "model_card.json").is_file()
    weights = Path(local) / "model.safetensors"
    assert weights.read_bytes() == (story.run / "model" / "model.safetensors").read_bytes()


def test_tensorboards_events_stay_on_the_server(story: Story, federation: Federation) -> None:
    folder = federation.kit(SERVER) / "tensorboard" / story.id
    assert [step for step, _ in scalars(folder / "global")["validation_auc"]] == [0, 1, 2]
    assert scalars(folder / SITES[0])["train_loss"]


def test_other_commands_read_the_downloaded_run(story: Story, federation: Federation) -> None:
    done = pneumonia_fl("evaluate", story.run, "--source", federation.data, "--json")
    assert done.returncode == 0, done.stderr
    assert 0 <= json.loads(done.stdout)["metrics"]["auroc"] <= 1
    (run,) = json.loads(pneumonia_fl("runs", "--root", story.run.parent, "--json").stdout)
    assert (run["state"], run["rounds"], run["sites"]) == ("finished", 2, 3)


def test_a_second_download_replaces_the_first_only_with_force(story: Story, tmp_path: Path) -> None:
    out = tmp_path / "copy"
    shutil.copytree(story.run, out)
    (out / "mark").touch()
    one_line(pneumonia_fl("download", story.id, "--kit", story.kit, "--out", out), 1, "--force")
    assert (out / "mark").exists()
    done = pneumonia_fl("download", story.id, "--kit", story.kit, "--out", out, "--force", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["job_id"] == story.id
    assert not (out / "mark").exists()


def test_logs_are_for_the_submitter(story: Story, other_lead: Path) -> None:
    done = pneumonia_fl("logs", story.id, "--kit", story.kit, "--follow")
    assert done.returncode == 0, done.stderr
    assert "Server runner finished" in done.stdout
    one_line(pneumonia_fl("logs", story.id, "--kit", other_lead), 4, "may not read this job's log")


def test_a_finished_job_is_not_resumed_and_an_ended_one_is_not_aborted(story: Story) -> None:
    one_line(pneumonia_fl("resume", story.id, "--kit", story.kit), 1, "has finished", "clone")
    done = pneumonia_fl("abort", story.id, "--kit", story.kit)
    assert done.returncode == 0
    assert f"job {story.id} has ended already: finished" in done.stdout


LOGIN = """
import logging, sys
from pathlib import Path
from pneumonia_fl.fl.admin.session import login
logging.basicConfig(level=logging.INFO, stream=sys.stdout)
with login(Path(sys.argv[1])) as admin:
    print(*admin.sites())
"""


def test_login_asks_once_and_loads_one_driver(federation: Federation) -> None:
    """NVFlare asks before it is connected, and then waits for a second, as it says itself."""
    kit = federation.kit(LEAD)
    done = subprocess.run(
        [sys.executable, "-c", LOGIN, str(kit)],
        capture_output=True,
        text=True,
        timeout=scaled(60),
        check=True,
    )
    assert " ".join(SITES) in done.stdout
    assert "verified server identity" in done.stdout
    assert "re-challenge" not in done.stdout
    assert not packages_of("jobs", "--kit", kit) & {"torch", "aiohttp", "mlflow", "matplotlib", "numpy"}


def test_a_member_looks_and_changes_nothing(story: Story, federation: Federation) -> None:
    kit = federation.kit(MEMBER)
    assert listed(kit, story.id)["status"] == "finished"
    one_line(pneumonia_fl("submit", "smoke", *SETTINGS, "--kit", kit), 4, "(member) may not submit jobs")
    one_line(pneumonia_fl("download", story.id, "--kit", kit), 4, "(member) may not download this job")


def test_a_job_that_waits_for_sites_says_so_and_can_be_taken_back(federation: Federation) -> None:
    kit = federation.kit(LEAD)
    done = pneumonia_fl("submit", "smoke", *SETTINGS, "--min-sites", 5, "--kit", kit, "--json")
    job = json.loads(done.stdout)["id"]
    until(lambda: listed(kit, job)["status"] == "waiting for sites", 20, "the scheduler looks at the job")
    assert listed(kit, job)["reason"] == "3 sites connected, 5 needed"
    one_line(pneumonia_fl("watch", job, "--kit", kit, "--timeout", 0.02), 3, "still waiting for sites")
    ended = pneumonia_fl("abort", job, "--kit", kit)
    assert (ended.returncode, ended.stdout.strip()) == (0, f"job {job} is aborted (ended by {LEAD})")
    one_line(pneumonia_fl("watch", job, "--kit", kit), 1, f"was aborted: ended by {LEAD}")
    one_line(pneumonia_fl("resume", job, "--kit", kit), 1, "(aborted) has no finished round", "clone")
    copy = pneumonia_fl("clone", job, "--kit", kit, "--json")
    copied = json.loads(copy.stdout)["id"]
    assert listed(kit, copied)["rounds"] == 2, "a copy knows its configuration"
    for each in (job, copied):
        pneumonia_fl("abort", each, "--kit", kit)
        assert pneumonia_fl("delete", each, "--kit", kit).returncode == 0
    one_line(pneumonia_fl("watch", job, "--kit", kit), 4, "no job")


def test_shipped_code_is_refused_by_strict_sites_with_the_name_of_the_policy(federation: Federation) -> None:
    words = ("--ship-code", "--wait", "--kit", federation.kit(LEAD))
    one_line(pneumonia_fl("submit", "smoke", *SETTINGS, *words), 4, ", ".join(SITES), "'strict'")


def test_a_job_of_other_software_is_listed_but_makes_no_run_folder(
    federation: Federation, tmp_path: Path
) -> None:
    kit, folder = federation.kit(LEAD), exported(tmp_path)
    meta = read_json(folder / "meta.json")
    del meta["custom_props"]
    meta["min_clients"] = 5
    (folder / "meta.json").write_text(json.dumps(meta))
    before = sorted(path.relative_to(folder) for path in folder.rglob("*"))
    job = json.loads(pneumonia_fl("submit", folder, "--kit", kit, "--json").stdout)["id"]
    assert sorted(path.relative_to(folder) for path in folder.rglob("*")) == before, "signed in place"
    pneumonia_fl("abort", job, "--kit", kit)
    assert listed(kit, job)["rounds"] is None
    done = pneumonia_fl("download", job, "--kit", kit, cwd=tmp_path)
    one_line(done, 1, "was not made by pneumonia-fl", f"nvflare job download {job}")
    assert not list((tmp_path / "runs").iterdir())


@pytest.mark.parametrize(
    ("words", "code", "part"),
    [
        (("watch", "ffffffff"), 4, "no job ffffffff"),
        (("abort", "ff"), 4, "too short"),
        (("jobs", "--study", "nowhere"), 4, "study 'nowhere'"),
        (("submit", "no_such_job"), 1, "unknown job"),
        (("submit", "smoke", "--set", "train.lr=-1"), 1, "train.lr"),
    ],
)
def test_bad_input_is_one_line(federation: Federation, words: tuple[str, ...], code: int, part: str) -> None:
    one_line(pneumonia_fl(*words, "--kit", federation.kit(LEAD)), code, part)


def test_a_kit_that_cannot_log_in_says_why(federation: Federation, tmp_path: Path) -> None:
    one_line(pneumonia_fl("jobs", "--kit", tmp_path / "nothing"), 1, "does not exist")
    one_line(pneumonia_fl("jobs", "--kit", federation.kit(SITES[0])), 1, "the kit of a site")
    down = tmp_path / "down"
    shutil.copytree(federation.kit(LEAD), down)
    settings = down / "startup" / "fed_admin.json"
    settings.write_text(settings.read_text().replace(str(federation.port), str(free_port())))
    one_line(pneumonia_fl("jobs", "--kit", down, timeout=20), 3, "nothing listens at localhost")
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes connections, and never says a word
        listening = str(silent.getsockname()[1])
        settings.write_text(re.sub(r'"port": \d+', f'"port": {listening}', settings.read_text()))
        one_line(pneumonia_fl("jobs", "--kit", down, timeout=30), 3, "says nothing")


def test_the_kit_may_come_from_the_environment(federation: Federation) -> None:
    environment = {**os.environ, "PNEUMONIA_FL_KIT": str(federation.kit(LEAD))}
    assert pneumonia_fl("jobs", "--json", env=environment).returncode == 0


def exported(folder: Path) -> Path:
    """An NVFlare job folder as `run --export` writes it."""
    words = ("--rounds", 1, "--set", "preprocess.size=32", "--set", "train.local_epochs=1", "--clients", 3)
    done = pneumonia_fl("run", "smoke", *words, "--export", "--job-dir", folder)
    assert done.returncode == 0, done.stderr
    return folder / "smoke"


def console(kit: Path, *lines: str) -> str:
    """Type lines into NVFlare's own console of a kit, and return what it prints."""
    script = "\n".join([kit.name, *lines, "bye", ""])
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", kit / "startup" / "fl_admin.sh"],
        input=script, capture_output=True, text=True, timeout=scaled(60), check=True, env={**os.environ, "PATH": path},
    )  # fmt: skip
    return done.stdout


def test_the_classic_console_and_nvflare_job_submit(federation: Federation, tmp_path: Path) -> None:
    kit, folder = federation.kit(LEAD), exported(tmp_path)
    shutil.copytree(folder, kit / "transfer" / "smoke")
    text = console(kit, "submit_job smoke", "list_jobs", "check_status server")
    job = text.split("Submitted job: ")[1].split()[0]
    assert job in text.split("Submitted job: ")[1].split("Done")[1]
    assert all(site in text for site in SITES)
    console(kit, f"abort_job {job}", "y")
    until(lambda: listed(kit, job)["status"] == "aborted", 60, "the console ends the job")
    nvflare = Path(sys.executable).with_name("nvflare")
    command = [nvflare, "job", "submit", "-j", folder, "--startup-kit", kit]
    done = subprocess.run(command, capture_output=True, text=True, timeout=scaled(60), check=True)
    second = done.stdout.split("job_id:")[1].split()[0]
    watched = pneumonia_fl("watch", second, "--kit", kit)
    assert watched.returncode == 0, watched.stderr
    assert f"transfer/{second}" in console(kit, f"download_job {second}")
    assert (kit / "transfer" / second / "workspace" / "app_server" / "FL_global_model.pt").is_file()
    shutil.rmtree(kit / "transfer")
    (kit / "transfer").mkdir()
