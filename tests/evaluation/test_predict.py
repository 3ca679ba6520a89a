import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner
from xrays import jpeg

from conftest import pneumonia_fl
from pneumonia_fl.cli.main import app, main
from pneumonia_fl.config.sections import ModelConfig, Preprocess
from pneumonia_fl.data.preprocess import decode
from pneumonia_fl.errors import DataError
from pneumonia_fl.evaluation.predict import predict
from pneumonia_fl.evaluation.scoring import margins
from pneumonia_fl.models.architectures import build_model
from pneumonia_fl.models.checkpoint import ModelCard, load_model, save_model

SPEC = Preprocess(size=32)
POINT = "sensitivity >= 0.95 on validation"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    card = ModelCard(
        job="smoke", round=3, seed=7, model=ModelConfig(), preprocess=SPEC, temperature=0.1, offset=0.05,
        threshold=0.6, operating_point=POINT,
    )  # fmt: skip
    save_model(folder, build_model(size=32, seed=5).state_dict(), card)
    return folder


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / f"x-ray {seed}.jpeg" for seed in range(6)]
    for seed, path in enumerate(paths):
        path.write_bytes(jpeg(seed))
    return paths


def run(*words: object) -> tuple[int, str, str]:
    done = CliRunner(env={"COLUMNS": "300"}).invoke(app, ["predict", *map(str, words)])
    return done.exit_code, done.stdout, done.stderr


def test_the_probability_is_calibrated_and_the_answer_follows_the_threshold(
    model: Path, images: list[Path]
) -> None:
    network, card = load_model(model)
    answers = list(predict(network, card, images))
    pixels = np.stack([decode(path.read_bytes(), SPEC).pixels for path in images])
    expected = [1 / (1 + math.exp(-(z - 0.05) / 0.1)) for z in margins(network, pixels, SPEC).tolist()]
    assert [answer.probability for answer in answers] == pytest.approx(expected, abs=1e-5)
    assert [answer.answer for answer in answers] == ["PNEUMONIA" if p >= 0.6 else "NORMAL" for p in expected]
    assert max(expected) - min(expected) > 0.01


def test_both_answers_are_given(model: Path, images: list[Path]) -> None:
    network, card = load_model(model)
    middle = float(np.median([answer.probability for answer in predict(network, card, images)]))
    card = card.model_copy(update={"threshold": middle})
    assert {answer.answer for answer in predict(network, card, images)} == {"NORMAL", "PNEUMONIA"}


def test_a_bad_image_is_named_and_the_others_are_answered(model: Path, images: list[Path]) -> None:
    images[1].write_bytes(b"no image")
    images[2].write_bytes(images[2].read_bytes()[:200])
    images[3].unlink()
    images[5].write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:4d\n")
    code, out, err = run(model, *images, "--json")
    result = json.loads(out)
    known = [one["probability"] is not None for one in result["images"]]
    assert (code, known) == (1, [True, False, False, False, True, False])
    bad = [*images[1:4], images[5]]
    assert [line.split(": ")[1] for line in err.splitlines()] == [str(path) for path in bad]
    assert "a Git LFS pointer" in err


def test_names_that_are_no_utf8_are_answered_and_escaped(model: Path, images: list[Path]) -> None:
    names = [images[0].with_name(os.fsdecode(name)) for name in (b"M\xfcller.jpeg", b"leer\xe9.jpeg")]
    names[0].write_bytes(images[0].read_bytes())
    names[1].touch()
    code, out, err = run(model, *names, "--json")
    assert code == 1
    assert [Path(one["image"]).name for one in json.loads(out)["images"]] == [
        r"M\xfcller.jpeg",
        r"leer\xe9.jpeg",
    ]
    assert r"leer\xe9.jpeg: the file is empty" in err
    assert r"M\xfcller.jpeg" in run(model, *names)[1]


def test_json_says_by_which_rule_and_that_this_is_no_medical_device(model: Path, images: list[Path]) -> None:
    code, out, err = run(model, images[0], "--json")
    result = json.loads(out)
    assert (code, err) == (0, "")
    assert (result["threshold"], result["temperature"], result["offset"]) == (0.6, 0.1, 0.05)
    assert result["operating_point"] == POINT
    assert "Not a medical device" in result["disclaimer"]


def test_a_person_reads_probability_rule_and_disclaimer(model: Path, images: list[Path]) -> None:
    code, out, _ = run(model, *images)
    text = " ".join(out.split())
    assert code == 0
    assert "P(pneumonia)" in text
    assert "Pneumonia from 0.600 on" in text
    assert "Not a medical device" in text
    assert text.count(".jpeg") == 6


def test_broken_weights_are_an_error(model: Path, images: list[Path]) -> None:
    network, card = load_model(model)
    with torch.no_grad():
        next(network.parameters()).fill_(float("nan"))
    with pytest.raises(DataError, match="weights are broken"):
        list(predict(network, card, images))


def test_a_lack_of_memory_is_one_line_and_no_images_fault(
    model: Path, images: list[Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(data: bytes, spec: Preprocess) -> None:
        raise MemoryError

    monkeypatch.setattr("pneumonia_fl.evaluation.predict.decode", full)
    monkeypatch.setattr("sys.argv", ["pneumonia-fl", "predict", str(model), *map(str, images)])
    for change in ("keep_files_private", "signal.signal"):  # of this whole process
        monkeypatch.setattr(f"pneumonia_fl.cli.main.{change}", lambda *_: None)
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 1
    assert capsys.readouterr().err.splitlines()[-1].startswith("error: out of memory; ")


def test_a_missing_model_is_one_line(tmp_path: Path, images: list[Path]) -> None:
    done = pneumonia_fl("predict", tmp_path / "nowhere", images[0])
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
