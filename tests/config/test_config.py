import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pneumonia_fl.config.algorithm import PACKED_NEVER, Algorithm, OperatingPoint
from pneumonia_fl.config.environment import data_root, site_threads
from pneumonia_fl.config.job import JobConfig, SiteSettings, load_job
from pneumonia_fl.config.overrides import flatten, with_overrides
from pneumonia_fl.config.sections import (
    AugmentConfig,
    MLflowConfig,
    ModelConfig,
    Origin,
    Preprocess,
    SiteConfig,
    SiteTrain,
    TrainConfig,
)
from pneumonia_fl.config.strict import parse
from pneumonia_fl.errors import ConfigError
from pneumonia_fl.fl.site.client import job_settings

LEAST: dict[str, Any] = {"name": "job", "preprocess": {"size": 64}}


def job(**values: Any) -> JobConfig:
    return parse(JobConfig, LEAST | values, "job.yml")


def shares(low: float = 0.0, high: float = 0.4) -> st.SearchStrategy[float]:
    return st.floats(low, high, allow_nan=False)


@st.composite
def site_settings(draw: st.DrawFn) -> SiteSettings:
    train = TrainConfig(
        local_epochs=draw(st.integers(1, 100)),
        batch_size=draw(st.integers(2, 4096)),
        optimizer=draw(st.sampled_from(["adamw", "sgd"])),
        lr=draw(st.floats(1e-12, 10)),
        weight_decay=draw(shares()),
        class_balance=draw(st.booleans()),
        seed=draw(st.integers(0, 2**63)),
    )
    augment = AugmentConfig(rotate=draw(shares(0, 45)), noise=draw(shares()), flip=draw(st.booleans()))
    size, mean = draw(st.integers(16, 1024)), draw(shares(0, 1))
    preprocess = Preprocess(size=size, mean=mean, normalisation=draw(st.sampled_from(["per_image", "fixed"])))
    model = ModelConfig(norm=draw(st.sampled_from(["batch", "group"])))
    return SiteSettings(
        name="job",
        rounds=draw(st.integers(1, 1000)),
        algorithm=Algorithm(name="fedprox", mu=draw(st.floats(1e-9, 100))),
        operating_point=OperatingPoint(target=draw(st.floats(0.01, 0.99))),
        model=model,
        preprocess=preprocess,
        train=train,
        augment=augment,
    )


@given(site_settings())
def test_json_gives_the_same_settings_back(settings: SiteSettings) -> None:
    for text in (settings.model_dump_json(), json.dumps(settings.model_dump(mode="json"))):
        assert job_settings(text) == settings


@given(site_settings())
def test_json_survives_a_splitter_that_knows_no_quotes(settings: SiteSettings) -> None:
    text = settings.model_dump_json()
    assert text.split() == [text]


def test_flat_settings_name_nested_keys_and_leave_out_what_is_not_set() -> None:
    found = flatten(job(mlflow={"experiment": "xray"}))
    assert found["train.class_balance"] == "true"
    assert found["mlflow.experiment"] == "xray"
    assert not any(key.startswith(("mlflow.tracking_uri", "synthetic")) for key in found)


def test_site_settings_need_an_input_size() -> None:
    with pytest.raises(ConfigError, match=r"preprocess .*--data DIR"):
        JobConfig(name="job").site_settings()


def test_site_settings_hold_nothing_of_the_server() -> None:
    assert set(SiteSettings.model_fields) == {
        "name",
        "operating_point",
        "cross_site",
        "evaluation",
        "rounds",
        "algorithm",
        "model",
        "preprocess",
        "train",
        "augment",
        "sites",
        "exchange",
    }


@pytest.mark.parametrize("name", sorted(PACKED_NEVER))
@pytest.mark.parametrize("exchange", ["float16", "int8"])
def test_an_algorithm_that_cannot_be_packed_says_why(name: str, exchange: str) -> None:
    plain = {"optimizer": "sgd", "momentum": 0} if name == "scaffold" else {}
    values = {"name": "job", "algorithm": {"name": name}, "train": plain}
    with pytest.raises(ConfigError, match=f"{name} needs exchange float32; {re.escape(PACKED_NEVER[name])}"):
        parse(JobConfig, {**values, "exchange": exchange}, "job")
    assert parse(JobConfig, values, "job").exchange == "float32"


@pytest.mark.parametrize(("exchange", "told"), [("float32", {}), ("int8", {"exchange": "int8"})])
def test_sites_are_told_of_an_exchange_that_is_not_the_usual_one(exchange: str, told: dict[str, str]) -> None:
    """So a job without it is the same job as before there was the setting, at sites of either version."""
    job = parse(JobConfig, {"name": "job", "preprocess": {"size": 32}, "exchange": exchange}, "job")
    for mode in ("python", "json"):
        travels = job.site_settings().model_dump(mode=mode)
        assert {key: travels[key] for key in travels.keys() & {"exchange"}} == told
        assert parse(SiteSettings, travels, "job").exchange == exchange


def test_a_setting_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        job().train.lr = 1.0  # type: ignore[misc]


def test_overrides_reach_nested_keys_and_keep_their_neighbours() -> None:
    values = {"name": "job", "train": {"lr": 0.1, "seed": 3}}
    changed = with_overrides(values, ["train.lr=0.5", "preprocess.size=64", "tracking=[tensorboard]"])
    assert changed == {
        "name": "job",
        "train": {"lr": 0.5, "seed": 3},
        "preprocess": {"size": 64},
        "tracking": ["tensorboard"],
    }
    assert values["train"] == {"lr": 0.1, "seed": 3}


def test_the_last_override_wins_and_a_value_may_hold_an_equals_sign() -> None:
    assert with_overrides({}, ["rounds=1", "rounds=2"]) == {"rounds": 2}
    assert with_overrides({}, ["description=a=b"]) == {"description": "a=b"}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("rounds", "write key=value, for example train.lr=0.001"),
        ("=3", "write key=value"),
        ("name.first=x", "'name' has no settings below it"),
    ],
)
def test_a_broken_override_is_explained(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        with_overrides({"name": "job"}, [override])


@pytest.mark.parametrize("text", ["on", "yes", "null", "2026", "007", "1e3", "~", "1:30", "x: y", "'2026'"])
def test_a_text_stays_text_whatever_yaml_makes_of_it(text: str, tmp_path: Path) -> None:
    file = tmp_path / "job.yml"
    file.write_text("name: job\n")
    found = load_job(file, [f"description={text}"])
    assert found.description == text.strip("'")


def test_an_optional_text_can_be_unset(tmp_path: Path) -> None:
    file = tmp_path / "job.yml"
    file.write_text("name: job\nmlflow: {tracking_uri: http://localhost:5000}\n")
    for word in ("null", "", "~"):
        assert load_job(file, [f"mlflow.tracking_uri={word}"]).mlflow.tracking_uri is None


@pytest.mark.parametrize("value", ["010", "-010", "08", "00", "0_7"])
def test_a_number_with_a_leading_zero_is_refused(value: str, tmp_path: Path) -> None:
    file = tmp_path / "job.yml"
    file.write_text("name: job\n")
    with pytest.raises(ConfigError, match="leading zero"):
        load_job(file, [f"train.seed={value}"])
    file.write_text("name: job\ntrain: {seed: 010}\n")
    with pytest.raises(ConfigError, match=r"job\.yml:2: .*010 to the base 8"):
        load_job(file)
    file.write_text("name: job\ntrain: {seed: 0, lr: 0.5}\n")
    assert load_job(file).train.lr == 0.5


@pytest.mark.parametrize("word", ["rounds=on", "train.lr=yes", "train.seed=off", "rounds=true"])
def test_a_word_is_no_number(word: str, tmp_path: Path) -> None:
    file = tmp_path / "job.yml"
    file.write_text("name: job\n")
    with pytest.raises(ConfigError, match=r"write a number, not (true|false)"):
        load_job(file, [word])


def test_a_text_that_yaml_reads_as_something_else_wants_quotes(tmp_path: Path) -> None:
    file = tmp_path / "job.yml"
    file.write_text("name: on\n")
    with pytest.raises(ConfigError, match=r"name: .* True; "):
        load_job(file)


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("train.learning_rate", "train.lr"),
        ("lr", "train.lr"),
        ("trian.lr", "train"),
        ("train.batchsize", "train.batch_size"),
        ("round", "rounds"),
        ("epochs", "train.local_epochs"),
        ("model.nam", "model.name"),
        ("Train.lr", "train"),
        ("train.LR", "train.lr"),
    ],
)
def test_a_mistyped_key_is_answered_with_the_one_that_was_meant(key: str, meant: str, tmp_path: Path) -> None:
    file = tmp_path / "job.yml"
    file.write_text("name: job\n")
    with pytest.raises(ConfigError, match=rf"unknown key .*; did you mean {meant}\?$"):
        load_job(file, [f"{key}=1"])


@pytest.mark.parametrize("override", ["rounds=[", "description={a: b", "name=@x"])
def test_an_override_that_is_no_yaml_is_explained(override: str) -> None:
    with pytest.raises(ConfigError, match="--set"):
        with_overrides({}, [override])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"round": 3}, r"job\.yml: unknown key 'round'"),
        ({"train": {"learning_rate": 1}}, r"unknown key 'train\.learning_rate'"),
        ({"rounds": "many"}, r"rounds: .*valid integer.*\(got 'many'\)"),
        ({"rounds": 0}, r"rounds: .*greater than or equal to 1.*\(got 0\)"),
        ({"rounds": None}, r"rounds: "),
        ({"name": "Bad Name"}, r"name: "),
        ({"model": {"name": "vgg"}}, r"model\.name: .*small_resnet"),
        ({"train": {"lr": float("nan")}}, r"train\.lr: "),
        ({"train": 3}, r"train: "),
        ({"algorithm": {"name": "fedprox"}}, r"algorithm: fedprox needs mu > 0"),
        ({"algorithm": {"mu": 0.1}}, r"algorithm: fedavg has no mu"),
        (
            {"algorithm": {"name": "scaffold"}},
            r"job: scaffold needs train\.optimizer sgd with train\.momentum 0",
        ),
        ({"algorithm": {"name": "scaffold"}, "train": {"optimizer": "sgd"}}, r"job: scaffold needs"),
        ({"algorithm": {"name": "fedbn"}, "model": {"name": "pneumonia_network"}}, r"fedbn needs .* layers"),
        (
            {"algorithm": {"name": "fedbn"}, "model": {"name": "resnet18", "pretrained": "imagenet"}},
            r"fedbn needs model\.pretrained none",
        ),
        (
            {"algorithm": {"name": "fedbn"}, "cross_site": {"local_models": True}},
            r"no cross_site\.local_models",
        ),
        ({"model": {"pretrained": "imagenet"}}, r"imagenet is for torchvision's models"),
        ({"tracking": ["wandb"]}, r"tracking\.0: .*'tensorboard' or 'mlflow'"),
        ({"mlflow": {"tracking_uri": "https://me:secret@host"}}, r"must not carry credentials"),
    ],
)
def test_what_a_job_must_not_say_is_named_with_its_key(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        job(**values)
    assert "\n" not in str(caught.value)


def test_credentials_are_not_repeated_in_the_error() -> None:
    with pytest.raises(ConfigError) as caught:
        parse(MLflowConfig, {"tracking_uri": "https://me:hunter2@host"}, "job.yml")
    assert "hunter2" not in str(caught.value)


def test_all_problems_are_named_at_once() -> None:
    with pytest.raises(ConfigError, match=r"rounds.*; .*batch_size"):
        job(rounds=0, train={"batch_size": 0})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"rounds: [", ":1: not valid YAML"),
        (b"\xff\xfe\x00", "is not UTF-8 text"),
        (b"- a\n- b\n", "must hold `key: value` lines"),
        (b"", "must hold `key: value` lines"),
        (b"rounds: 3\n", "name: "),
    ],
)
def test_a_file_that_is_no_job_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "job.yml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=message) as caught:
        load_job(path)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read .*none\.yml: No such file"):
        load_job(tmp_path / "none.yml")


def test_yaml_cannot_make_objects(tmp_path: Path) -> None:
    path = tmp_path / "job.yml"
    path.write_text("name: !!python/object/apply:os.system ['true']\n")
    with pytest.raises(ConfigError, match="not valid YAML: tags"):
        load_job(path)


def test_every_key_is_described() -> None:
    kinds = (
        JobConfig,
        Preprocess,
        ModelConfig,
        Origin,
        AugmentConfig,
        TrainConfig,
        SiteConfig,
        SiteTrain,
        MLflowConfig,
    )
    for kind in kinds:
        for name, field in kind.model_fields.items():
            nested = hasattr(field.annotation, "model_fields")
            assert nested or field.description, f"{kind.__name__}.{name}"


def test_the_site_says_where_its_data_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PNEUMONIA_FL_DATA", raising=False)
    assert data_root() is None
    monkeypatch.setenv("PNEUMONIA_FL_DATA", "/x rays/site")
    assert data_root() == Path("/x rays/site")


def test_threads_are_those_of_the_own_site(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PNEUMONIA_FL_THREADS", "site-1=1,site-2=3")
    assert (site_threads("site-1"), site_threads("site-2"), site_threads("site-3")) == (1, 3, None)
    monkeypatch.delenv("PNEUMONIA_FL_THREADS")
    assert site_threads("site-1") is None
