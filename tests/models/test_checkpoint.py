import gzip
import json
import pickle
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from bomb import Bomb
from xrays import jpeg

from pneumonia_fl.config.sections import ModelConfig, Preprocess
from pneumonia_fl.errors import CheckpointError, OutputError
from pneumonia_fl.metrics.platt import PLAIN, Scaling
from pneumonia_fl.models.architectures import build_model
from pneumonia_fl.models.checkpoint import (
    CARD,
    WEIGHTS,
    DataSummary,
    ModelCard,
    load_into,
    load_model,
    load_state,
    read_card,
    save_model,
)

CARD_VALUE = ModelCard(
    job="smoke",
    round=3,
    seed=7,
    model=ModelConfig(),
    preprocess=Preprocess(size=32),
    threshold=0.4,
    metrics={"auroc": 0.9, "n": 12, "specificity": None},
    data=DataSummary(
        source="synthetic",
        licence="CC0-1.0",
        credit="made up",
        manifest_sha256="0" * 64,
        counts={"north": {"train": {"NORMAL": 3, "PNEUMONIA": 4}}},
    ),
    software={"torch": "2"},
)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    folder = tmp_path / "a model"
    save_model(folder, build_model(size=32, seed=5).state_dict(), CARD_VALUE)
    return folder


def test_a_saved_model_comes_back_with_its_weights_and_card(saved: Path) -> None:
    expected = build_model(size=32, seed=5).state_dict()
    for path in (saved, saved / WEIGHTS, saved / CARD):
        model, card = load_model(path)
        assert card == CARD_VALUE
        assert not model.training
        assert all(torch.equal(value, expected[key]) for key, value in model.state_dict().items())


def test_only_the_weights_and_the_card_are_written(saved: Path) -> None:
    assert sorted(path.name for path in saved.iterdir()) == [WEIGHTS, CARD]
    card = json.loads((saved / CARD).read_text())
    assert card["classes"] == ["NORMAL", "PNEUMONIA"]
    assert "Not a medical device" in card["disclaimer"]


def test_channels_last_and_shared_weights_can_be_saved(tmp_path: Path) -> None:
    model = build_model(size=32, seed=5).to(memory_format=torch.channels_last)
    state = model.state_dict()
    state["twin"] = state["stem.0.weight"]
    save_model(tmp_path, state, CARD_VALUE)
    read = load_state(tmp_path / WEIGHTS)
    assert torch.equal(read["twin"], state["stem.0.weight"])


def test_a_failed_save_leaves_no_card_beside_other_weights(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, content: bytes) -> str:
        raise OutputError("no space left")

    monkeypatch.setattr("pneumonia_fl.models.checkpoint.write_atomic", full)
    with pytest.raises(OutputError):
        save_model(saved, build_model(size=32, seed=6).state_dict(), CARD_VALUE)
    with pytest.raises(CheckpointError, match=f"{CARD} not found"):
        load_model(saved)


def test_nvflares_model_file_is_read_and_its_counters_are_cast(tmp_path: Path) -> None:
    state = {key: value.double() for key, value in build_model(size=32, seed=5).state_dict().items()}
    torch.save(
        {"model": state, "meta_props": {"round": 3}, "train_conf": None}, tmp_path / "FL_global_model.pt"
    )
    model = build_model(size=32, seed=6)
    load_into(model, load_state(tmp_path / "FL_global_model.pt"))
    counter = model.state_dict()["stem.1.num_batches_tracked"]
    assert counter.dtype == torch.int64
    assert model.state_dict()["stem.0.weight"].dtype == torch.float32


def test_a_pytorch_file_beside_a_card_is_a_model(saved: Path) -> None:
    torch.save(load_state(saved / WEIGHTS), saved / "weights.pt")
    _, card = load_model(saved / "weights.pt")
    assert card == CARD_VALUE


@pytest.mark.parametrize("protocol", [None, 2, 4])
def test_a_pickle_bomb_is_refused_and_does_not_go_off(tmp_path: Path, protocol: int | None) -> None:
    target, path = tmp_path / "exploded", tmp_path / "model.pt"
    content = {"model": {"stem.0.weight": Bomb(target)}}
    if protocol:
        path.write_bytes(pickle.dumps(content, protocol=protocol))
    else:
        torch.save(content, path)
    with pytest.raises(CheckpointError, match="could run code"):
        load_state(path)
    assert not target.exists()


def test_a_mismatch_names_what_is_missing_unexpected_and_of_another_shape() -> None:
    model = build_model(size=32, seed=5)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    state = dict(before)
    state["extra.weight"] = state.pop("stem.0.weight")
    state["head.1.bias"] = torch.zeros(3)
    with pytest.raises(CheckpointError) as caught:
        load_into(model, state, "round 2's model")
    assert str(caught.value) == (
        "round 2's model does not fit SmallResNet: missing: stem.0.weight; unexpected: extra.weight; "
        "wrong shape: head.1.bias (3,) instead of (2,)"
    )
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_a_long_list_of_keys_is_cut_short() -> None:
    with pytest.raises(CheckpointError, match=r"missing: \S+, \S+, \S+ and \d+ more$"):
        load_into(build_model(size=32, seed=5), {})


def test_weights_of_another_model_than_the_card_says_are_refused(saved: Path) -> None:
    (saved / CARD).write_text(
        CARD_VALUE.model_copy(update={"model": ModelConfig(name="resnet18")}).model_dump_json()
    )
    with pytest.raises(CheckpointError, match=r"model\.safetensors does not fit ResNet: missing"):
        load_model(saved)


def damage(content: bytes, how: str) -> bytes:
    return {
        "truncated": content[: len(content) // 2],
        "empty": b"",
        "text": b"weights go here",
        "a header of 4 EB": (2**62).to_bytes(8, "little") + content[8:],
    }[how]


@pytest.mark.parametrize("how", ["truncated", "empty", "text", "a header of 4 EB"])
@pytest.mark.parametrize("name", [WEIGHTS, "model.pt"])
def test_damaged_weights_are_one_line(saved: Path, name: str, how: str) -> None:
    torch.save({"model": load_state(saved / WEIGHTS)}, saved / "model.pt")
    path = saved / name
    path.write_bytes(damage(path.read_bytes(), how))
    with pytest.raises(CheckpointError) as caught:
        load_state(path)
    assert "\n" not in str(caught.value)


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 2811364\n"


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (LFS, "a Git LFS pointer, not the file itself; fetch it with `git lfs pull`"),
        (b"/annex/objects/SHA256E-s28--9f\n", "a git-annex pointer"),
        (b"\n<!DOCTYPE html>\n<html><title>Sign in</title>", "a web page, perhaps of a login"),
        (
            b"\xef\xbb\xbf<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>",
            "XML, perhaps the error",
        ),
        (b'{"message": "Not Found"}', "JSON, perhaps the error"),
        (b"Entry not found", "text"),
        (b"", "empty; download or copy it again"),
        (gzip.compress(bytes(100), mtime=0), "packed .gzip.; unpack it first"),
        (b"\x89HDF\r\n\x1a\n" + bytes(100), "an HDF5 file"),
        (jpeg(1), "a JPEG image"),
    ],
)
@pytest.mark.parametrize("name", [WEIGHTS, "model.pt", "best.pth"])
def test_a_file_that_is_no_model_is_called_by_its_name(
    saved: Path, name: str, content: bytes, what: str
) -> None:
    (saved / name).write_bytes(content)
    for path in (saved / name, *([saved] if name == WEIGHTS else [])):
        with pytest.raises(CheckpointError, match=rf"{name} is no model: it is {what}") as caught:
            load_model(path)
        assert "could run code" not in str(caught.value)
    (saved / CARD).unlink()
    with pytest.raises(CheckpointError, match=what):  # and not the lack of a card
        load_model(saved / name)


@pytest.mark.parametrize(("content", "what"), [(LFS, "Git LFS"), (b"<html>", "a web page"), (b"", "empty")])
def test_a_card_that_is_something_else_is_called_by_its_name(saved: Path, content: bytes, what: str) -> None:
    (saved / CARD).write_bytes(content)
    with pytest.raises(CheckpointError, match=f"not a model card: it is .*{what}"):
        load_model(saved)


def test_a_zip_that_pytorch_did_not_write_is_named(saved: Path) -> None:
    with zipfile.ZipFile(saved / "model.pt", "w") as file:
        file.writestr("model/model.safetensors", b"x")
    with pytest.raises(CheckpointError, match="without PyTorch's weights; unpack it"):
        load_model(saved / "model.pt")
    with zipfile.ZipFile(saved / "model.pt", "a") as file:
        file.writestr("model/constants.pkl", b"x")
    with pytest.raises(CheckpointError, match="a TorchScript program"):
        load_model(saved / "model.pt")


@pytest.mark.parametrize("name", [WEIGHTS, "model.pt"])
@pytest.mark.parametrize("share", [0.01, 0.5, 0.99])
def test_a_file_that_was_cut_off_is_to_be_copied_again(saved: Path, name: str, share: float) -> None:
    torch.save(load_state(saved / WEIGHTS), saved / "model.pt")
    content = (saved / name).read_bytes()
    (saved / name).write_bytes(content[: int(share * len(content))])
    with pytest.raises(CheckpointError, match=r"(cut off|damaged).*; download or copy it again$"):
        load_model(saved / name)


def test_a_folder_in_place_of_a_file_is_named(saved: Path) -> None:
    (saved / WEIGHTS).unlink()
    (saved / WEIGHTS).mkdir()
    with pytest.raises(CheckpointError, match=f"{WEIGHTS} is a folder"):
        load_model(saved)


def test_a_pytorch_file_called_safetensors_is_not_opened(saved: Path) -> None:
    torch.save(load_state(saved / WEIGHTS), saved / "model.pt")
    (saved / "model.pt").replace(saved / WEIGHTS)
    with pytest.raises(CheckpointError, match=r"rename it to \.pt"):
        load_model(saved)


def test_weights_are_known_by_their_content(saved: Path) -> None:
    (saved / WEIGHTS).rename(saved / "model.pt")
    assert load_model(saved / "model.pt")[1] == CARD_VALUE


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "_orig_mod.module.", "model."])
@pytest.mark.parametrize("inside", [(), ("state_dict",), ("model_state_dict",), ("model", "state_dict")])
def test_a_checkpoint_of_a_training_loop_is_understood(
    saved: Path, prefix: str, inside: tuple[str, ...]
) -> None:
    expected = load_state(saved / WEIGHTS)
    content: dict[str, Any] = {prefix + key: value for key, value in expected.items()}
    for key in reversed(inside):
        content = {"epoch": 3, key: content, "optimizer": {"state": {}, "param_groups": [{"lr": 0.1}]}}
    torch.save(content, saved / "best.ckpt")
    model, _ = load_model(saved / "best.ckpt")
    assert all(torch.equal(value, expected[key]) for key, value in model.state_dict().items())


def test_a_checkpoint_inside_itself_ends(tmp_path: Path) -> None:
    content: dict[str, Any] = {}
    content["model"] = content
    torch.save(content, tmp_path / "model.pt")
    with pytest.raises(CheckpointError, match="holds no state dict"):
        load_state(tmp_path / "model.pt")


@pytest.mark.parametrize(
    "content", [[1, 2], {1: torch.zeros(2)}, {"a": 1}, {}, {"model": {"lr": 0.1}}, torch.zeros(2)]
)
def test_a_pytorch_file_without_a_state_dict_is_refused(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "model.pt")
    with pytest.raises(CheckpointError, match="holds no state dict"):
        load_state(tmp_path / "model.pt")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (None, "model_card.json not found"),
        ("", "not a model card"),
        ("{}", "not a model card"),
        (
            CARD_VALUE.model_dump_json().replace('"version":4', '"version":5'),
            "version 5, this program reads 1 to 4",
        ),
        (CARD_VALUE.model_dump_json().replace('"job"', '"jobs"'), "not a model card"),
        (CARD_VALUE.model_dump_json().replace('"size":32', '"size":100000'), "preprocess.size: .*1024"),
        (CARD_VALUE.model_dump_json().replace('"offset":0.0', '"offset":NaN'), "offset: .*finite number"),
    ],
)
def test_a_card_that_cannot_be_used_is_one_line(saved: Path, text: str | None, reason: str) -> None:
    (saved / CARD).unlink() if text is None else (saved / CARD).write_text(text)
    with pytest.raises(CheckpointError, match=reason) as caught:
        read_card(saved)
    assert "\n" not in str(caught.value)


def test_a_card_of_version_1_is_read_and_changes_no_probability(saved: Path) -> None:
    values = json.loads((saved / CARD).read_text()) | {"version": 1}
    del values["temperature"], values["offset"], values["operating_point"]
    (saved / CARD).write_text(json.dumps(values))
    card = read_card(saved)
    assert (card.version, card.scaling, card.operating_point, card.threshold) == (1, PLAIN, "", 0.4)


def test_a_card_of_version_2_has_no_offset(saved: Path) -> None:
    values = json.loads((saved / CARD).read_text()) | {"version": 2, "temperature": 1.5}
    del values["offset"]
    (saved / CARD).write_text(json.dumps(values))
    assert read_card(saved).scaling == Scaling(1.5, 0.0)


def test_a_missing_model_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="not found"):
        load_model(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match="not found"):
        load_state(tmp_path / "nowhere.pt")
