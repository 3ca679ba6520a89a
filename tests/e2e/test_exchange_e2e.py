"""Models in few bytes, in the simulator and between strict sites on real kits."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from faults import Job, kill, submit, whole

from conftest import pneumonia_fl, read_json
from federation import LEAD, SITES, Federation, free_port, provision_kits, running
from pneumonia_fl.models.checkpoint import load_state

pytestmark = [pytest.mark.e2e, pytest.mark.slow]
SHARES = {"float16": 0.501, "int8": 0.254}


@pytest.fixture(scope="module", params=sorted(SHARES))
def packed(request: pytest.FixtureRequest, tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(request.param, tiny_data, tmp_path_factory.mktemp("packed") / request.param)


def run(exchange: str, data: Path, out: Path, job: str = "smoke") -> Path:
    settings = (f"exchange={exchange}", "rounds=2", "train.local_epochs=1", "train.amp=false")
    words = [word for one in (*settings, "tracking=[tensorboard]") for word in ("--set", one)]
    done = pneumonia_fl("run", job, "--data", data, "--out", out, *words)
    assert done.returncode == 0, done.stderr
    (out / "stdout.txt").write_text(done.stdout)
    return out


def test_a_run_sends_and_receives_the_share_of_bytes(packed: Path, tiny_run: Callable[[str], Path]) -> None:
    usual, few = (read_json(folder / "metrics.json")["rounds"] for folder in (tiny_run("smoke"), packed))
    share = SHARES[packed.name]
    for number in (0, 1):
        for site in ("site-1", "site-2"):
            whole_, less = usual[number]["sites"][site], few[number]["sites"][site]
            assert less["bytes"] <= share * whole_["bytes"]
            if number:
                assert less["received_bytes"] <= share * whole_["received_bytes"]
            else:
                assert less["received_bytes"] == whole_["received_bytes"], "the first model is complete"
    assert "a site sends" in " ".join((packed / "stdout.txt").read_text().split())


def test_the_model_is_near_that_of_float32(packed: Path, tiny_run: Callable[[str], Path]) -> None:
    usual, few = (
        [entry["global"]["loss"] for entry in read_json(folder / "metrics.json")["rounds"]]
        for folder in (tiny_run("smoke"), packed)
    )
    assert usual[0] == few[0]
    assert few == pytest.approx(usual, abs=0.1)


def test_the_same_seed_gives_the_same_bits(packed: Path, tiny_data: Path, tmp_path: Path) -> None:
    again = run(packed.name, tiny_data, tmp_path / "again")
    one, other = (load_state(folder / "model_last/model.safetensors") for folder in (packed, again))
    assert all(value.equal(other[name]) for name, value in one.items())


@pytest.mark.parametrize("job", ["fedbn", "ditto", "fedadam"])
def test_other_algorithms_run_packed(job: str, tiny_data: Path, tmp_path: Path) -> None:
    out = run("int8", tiny_data, tmp_path / job, job)
    assert read_json(out / "run.json")["state"] == "finished"
    assert not [line for line in (out / "journal.jsonl").read_text().splitlines() if '"problem"' in line]


def test_strict_sites_exchange_few_bytes_and_a_killed_trainer_asks_for_the_complete_model(
    tmp_path_factory: pytest.TempPathFactory, hospital_data: Path, tmp_path: Path
) -> None:
    port = free_port()
    kits = provision_kits(tmp_path_factory, tmp_path / "federation", port, "strict")
    with running(Federation(kits, hospital_data, port)) as federation:
        job: Job = submit(federation, "rounds=60", "min_sites=2", "grace=3", "exchange=int8")
        job.reach(1)
        asia = SITES[0]
        job.until(lambda: job.contributed(asia, job.round() - 1), 60, "asia takes part")
        kill(federation, asia, "trainer")
        job.until(lambda: whole(federation, asia), 60, "asia has all its processes")
        since = job.round() + 1
        job.until(lambda: job.contributed(asia, since), 60, "asia takes part again")
        values: list[Any] = [event["values"] for event in job.events("site") if event["site"] == asia]
        problems = job.events("problem")
        done = pneumonia_fl("abort", job.id, "--kit", federation.kit(LEAD))
        assert done.returncode == 0, done.stderr
    sent, received = ({one[key] for one in values if one["bytes"]} for key in ("bytes", "received_bytes"))
    assert len(sent) == 1
    packed = min(sent)
    assert min(received) in (packed, 2 * packed), "packed down as up; twice where batch norm is measured"
    assert max(received) > 3 * packed, "neither the first model nor that after the restart was complete"
    assert not [one for one in problems if one["state"] == "refused"]
