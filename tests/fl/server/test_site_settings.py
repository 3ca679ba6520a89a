"""What is different for one site of a job: what it is set to, who may set it, and what the average makes of it."""

import json
from pathlib import Path
from typing import Any

import pytest
from dataset_infos import three_sites
from run_folders import write_run
from site_reports import TRAINING, answer, report
from test_answers import Server

from conftest import ROOT, read_json
from pneumonia_fl.config.environment import set_site_defaults, site_limits
from pneumonia_fl.config.job import JobConfig, load_job
from pneumonia_fl.errors import ConfigError, RunError
from pneumonia_fl.fl.job.plan import plan
from pneumonia_fl.fl.job.recipe import export_job
from pneumonia_fl.fl.kit.startup_kit import LOCAL_SETTINGS, read_settings
from pneumonia_fl.fl.parent.expected_job import SERVER_FILE
from pneumonia_fl.fl.parent.job_validator import ServerJobValidator, SiteJobValidator
from pneumonia_fl.fl.site.client import job_settings, lowered

NAMES = ("asia-hospital", "no", "path")
"""Names that YAML and NVFlare would take for something else."""


def job_of(*words: str, name: str = "fedavg") -> JobConfig:
    return load_job(ROOT / "jobs" / f"{name}.yml", ["preprocess.size=32", *words])


def test_a_site_trains_with_what_is_set_for_it_and_all_others_as_ever() -> None:
    job = job_of("sites.us.train.local_epochs=3", "sites.us.train.lr=0.0005", "sites.eu.weight=0.5")
    settings = job_settings(job.site_settings().model_dump_json())
    assert settings == job.site_settings()
    own = settings.at("us", {}).train
    assert own == job.train.model_copy(update={"local_epochs": 3, "lr": 0.0005})
    assert settings.at("eu", {}).train == settings.at("asia", {}).train == job.train
    assert job_of().site_settings().sites == {}


def test_a_site_caps_what_a_job_wants_and_never_raises_it() -> None:
    job = job_of("train.local_epochs=2", "sites.us.train.batch_size=64").site_settings()
    limited = job.at("us", {"local_epochs": 1, "batch_size": 16})
    assert (limited.train.local_epochs, limited.train.batch_size) == (1, 16)
    assert lowered(limited, job.at("us", {})) == {"local_epochs": 1, "batch_size": 16}
    generous = job.at("us", {"local_epochs": 50, "batch_size": 4096})
    assert generous.train.batch_size == 64
    assert lowered(generous, job.at("us", {})) == {}


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["sites.us.train.momentum=0.5"], r"unknown key 'sites\.us\.train\.momentum'"),
        (["sites.us.lr=0.5"], r"unknown key 'sites\.us\.lr'"),
        (["sites.us.weight=0"], r"sites\.us\.weight"),
        (["sites.us.train.batch_size=1"], r"sites\.us\.train\.batch_size"),
        (["sites={server: {}}"], "sites.server: that word is reserved"),
        (["sites={'../x': {}}"], "letters, digits"),
        (["algorithm.name=cyclic", "sites.us.weight=2"], "cyclic has no sites.NAME.weight"),
        (["algorithm.name=fednova", "sites.us.train.lr=0.1"], r"fednova has no sites\.NAME\.train\.lr"),
        (["algorithm.name=swarm", "sites.us.weight=2"], "swarm has no sites.NAME.weight"),
        (["algorithm.name=swarm", "sites.us.train.local_epochs=2"], "swarm has no sites.NAME.train.local_"),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(words: list[str], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        job_of(*words)


def test_a_site_that_does_not_take_part_is_an_error() -> None:
    with pytest.raises(ConfigError, match=r"sites\.east: no such site takes part; there are north, south, w"):
        plan(job_of("preprocess=null", "sites.east.weight=2"), three_sites())
    with pytest.raises(ConfigError, match=r"sites\.west: .*there are north, south"):
        plan(job_of("preprocess=null", "sites.west.weight=2"), three_sites(), clients=2)
    assert plan(job_of("preprocess=null", "sites.west.weight=2"), three_sites()).job.sites["west"].weight == 2


def with_factors(folder: Path, algorithm: str, **factors: float) -> Server:
    return Server(folder, algorithm, [[site, factor] for site, factor in factors.items()])


def both(server: Server, **changes: Any) -> float:
    """The next weight when `a` answers with 2 and `b` with 4, and `b` has said `changes` of its training."""
    second = answer("b", report("b", training={**TRAINING, **changes}))
    second.meta["NUM_STEPS_CURRENT_ROUND"] = second.meta["pneumonia_fl.site_report"]["training"][
        "train_samples"
    ]
    second.params = {"weight": second.params["weight"] * 2}
    assert server.take(answer("a"))
    assert server.take(second)
    return server.close()


def test_the_weight_is_a_factor_of_the_images(tmp_path: Path) -> None:
    assert both(with_factors(tmp_path, "fedavg")) == pytest.approx(3.0)
    assert both(with_factors(tmp_path, "fedavg", b=0.5)) == pytest.approx((2 + 0.5 * 4) / 1.5)


def test_passes_do_not_weigh(tmp_path: Path) -> None:
    assert both(with_factors(tmp_path, "fedavg"), train_samples=18, steps=6) == pytest.approx(3.0)


def test_no_site_makes_more_passes_than_the_job_has_for_it(tmp_path: Path) -> None:
    own = {"b": {"train": {"local_epochs": 2}}}
    server = Server(tmp_path, config={"train": {"local_epochs": 1}, "sites": own})
    twice = report("a", training={**TRAINING, "train_samples": 18})
    assert not server.take(answer("a", twice, NUM_STEPS_CURRENT_ROUND=18))
    assert server.events("problem")[0]["problem"] == "it trained on 18 images; 9 are possible"
    other = report("b", training={**TRAINING, "train_samples": 18})
    assert server.take(answer("b", other, NUM_STEPS_CURRENT_ROUND=18))


def test_a_limit_is_told_once_and_checked(tmp_path: Path) -> None:
    server = Server(tmp_path)
    for _ in range(2):
        assert server.take(answer("a", report("a", limits={"batch_size": 16})))
    assert [(e["site"], e["values"]) for e in server.events("limited")] == [("a", {"batch_size": 16})]
    assert not server.take(answer("b", report("b", limits={"batch_size": "16"})))
    assert not server.take(answer("b", report("b", limits={"lr": 1})))


def test_a_job_that_waited_for_its_sites_names_the_one_that_never_came(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"sites\.c: no such site takes part; there are a, b"):
        with_factors(tmp_path, "fedavg", c=1.0)


@pytest.mark.parametrize("name", ["fedavg", "scaffold", "fednova", "fedbn", "ditto", "cyclic", "fedyogi"])
def test_strict_servers_and_sites_take_it_as_it_is_and_nothing_else(name: str, tmp_path: Path) -> None:
    own = [f"sites.{site}.train.local_epochs=2" for site in NAMES]
    weight = [] if name == "cyclic" else ["sites.path.weight=0.25"]
    app = export_job(job_of(*own, *weight, name=name), NAMES, tmp_path) / "app"
    for gate in (ServerJobValidator("strict", False), SiteJobValidator("strict", False)):
        assert gate.validate(str(app)) == ("", {})
    config = read_json(app / SERVER_FILE)
    factors = config["workflows"][0]["args"]["factors"]
    assert factors == [["asia-hospital", 1.0], ["no", 1.0], ["path", 1.0 if name == "cyclic" else 0.25]]
    factors[1][1] = 50.0
    (app / SERVER_FILE).write_text(json.dumps(config))
    assert "it differs at" in ServerJobValidator("strict", False).validate(str(app))[0]


def test_a_machines_limits_are_read_or_the_site_refuses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PNEUMONIA_FL_LIMITS", "")
    assert site_limits() == {}
    monkeypatch.delenv("PNEUMONIA_FL_LIMITS")
    (tmp_path / LOCAL_SETTINGS).write_text("max_batch_size: 16\nmax_local_epochs: 1\n")
    set_site_defaults("clinic", None, None, tmp_path, read_settings(tmp_path).limits)
    assert site_limits() == {"local_epochs": 1, "batch_size": 16}
    for text in ("batch_size", "batch_size=1", "lr=1", "local_epochs=0", "batch_size=-3", "batch_size=1e9"):
        monkeypatch.setenv("PNEUMONIA_FL_LIMITS", text)
        with pytest.raises(ConfigError, match="PNEUMONIA_FL_LIMITS is not understood"):
            site_limits()
    (tmp_path / LOCAL_SETTINGS).write_text("max_batch_size: 0\n")
    with pytest.raises(ConfigError, match="max_batch_size"):
        read_settings(tmp_path)


def test_the_report_names_own_settings_and_limits(tmp_path: Path) -> None:
    from pneumonia_fl.report.build import build_report

    run = write_run(tmp_path / "run")
    job = (run / "config.yml").read_text()
    (run / "config.yml").write_text(
        job.replace("sites: {}", "sites: {site-1: {weight: 0.5, train: {lr: 0.1}}}")
    )
    limited = {"event": "limited", "time": 1.0, "round": 0, "site": "site-2", "values": {"batch_size": 8}}
    with (run / "journal.jsonl").open("a") as file:
        file.write(json.dumps(limited) + "\n")
    build_report(run)
    page, card = (run / "report.html").read_text(), (run / "model_card.md").read_text()
    assert "At site-1 only" in page
    assert "weight 0.5, lr 0.1" in page
    assert "weight 0.5, lr 0.1" in card
    assert "site-2 trained within its own limits from round 1 on: batch_size 8." in page
