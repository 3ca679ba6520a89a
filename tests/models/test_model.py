import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import pneumonia_fl
from conftest import ROOT
from pneumonia_fl.config.sections import MODEL_NAMES
from pneumonia_fl.errors import ConfigError, FetchError
from pneumonia_fl.models import architectures as models
from pneumonia_fl.models.architectures import adapt_state, build_model, count_parameters, imagenet_state


@pytest.mark.parametrize("norm", ["batch", "group"])
@pytest.mark.parametrize("name", MODEL_NAMES)
def test_every_model_maps_gray_images_to_two_logits(name: str, norm: str) -> None:
    model = build_model(name, norm, size=32, seed=1).eval()
    with torch.inference_mode():
        assert model(torch.randn(2, 1, 32, 32)).shape == (2, 2)


@pytest.mark.parametrize("size", [16, 28, 48, 64, 96, 128, 224])
def test_the_default_model_takes_every_size(size: int) -> None:
    model = build_model(size=size, seed=1)
    logits = model(torch.randn(2, 1, size, size))
    logits.sum().backward()
    assert logits.shape == (2, 2)


def test_the_default_model_has_about_700_thousand_parameters() -> None:
    assert 0.6e6 < count_parameters(build_model(seed=1)) < 0.8e6


def test_pneumonia_network_has_the_published_number_of_parameters() -> None:
    assert count_parameters(build_model("pneumonia_network", size=224, seed=1)) == 25_783_554


def test_equal_seeds_give_equal_weights_and_leave_the_global_stream_alone() -> None:
    before = torch.get_rng_state()
    first, second, other = (build_model(seed=seed).state_dict() for seed in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert any(not torch.equal(first[key], other[key]) for key in first)


def test_group_norm_replaces_every_batch_norm() -> None:
    kinds = {type(module) for module in build_model("resnet18", "group", 64, seed=1).modules()}
    assert nn.GroupNorm in kinds
    assert nn.BatchNorm2d not in kinds


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"name": "resnet9000"}, "unknown model 'resnet9000'; choose one of small_resnet"),
        ({"norm": "layer"}, "unknown norm"),
        ({"name": "densenet121", "size": 28}, "at least 32 px"),
    ],
)
def test_unknown_settings_are_refused(arguments: dict[str, Any], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        build_model(**arguments)


def with_three_channels(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Random weights as torchvision would send them: three colours, 1000 classes."""
    generator = torch.Generator().manual_seed(5)
    shapes = {key: (list(value.shape), value.dtype) for key, value in state.items()}
    stem = next(key for key, (shape, _) in shapes.items() if len(shape) == 4)
    shapes[stem][0][1] = 3
    for key, (shape, _) in shapes.items():
        if shape and shape[0] == 2 and (key.startswith(("fc", "classifier"))):
            shape[0] = 1000
    return {key: torch.rand(shape, generator=generator).to(dtype) for key, (shape, dtype) in shapes.items()}


def test_adapted_weights_answer_gray_images_like_the_colour_network() -> None:
    model = build_model("resnet18", size=64, seed=1)
    source = with_three_channels(model.state_dict())
    adapted = adapt_state(source, model.state_dict())
    model.load_state_dict(adapted)
    image = torch.rand(1, 1, 16, 16)
    colour = nn.functional.conv2d(image.expand(-1, 3, -1, -1), source["conv1.weight"])
    torch.testing.assert_close(nn.functional.conv2d(image, adapted["conv1.weight"]), colour)
    assert torch.equal(adapted["layer1.0.conv1.weight"], source["layer1.0.conv1.weight"])
    assert adapted["fc.weight"].shape == (2, 512)


@pytest.mark.parametrize("name", models.HEADS)
def test_imagenet_weights_load_strictly_into_our_network(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import torchvision.models

    build = torchvision.models.get_model
    # The weights of an untrained colour network stand in for the download.
    monkeypatch.setattr(torchvision.models, "get_model", lambda name, weights: build(name, weights=None))
    state = imagenet_state(name, seed=2)
    build_model(name, size=64).load_state_dict(state)


def test_a_failed_download_says_how_to_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: str, weights: str | None) -> nn.Module:
        raise ConnectionError("no route to host")

    monkeypatch.setattr("torchvision.models.get_model", refuse)
    with pytest.raises(FetchError, match="pretrained=none"):
        imagenet_state("resnet18")


def test_models_of_our_own_have_no_imagenet_weights() -> None:
    with pytest.raises(ConfigError, match="has no ImageNet weights"):
        imagenet_state("small_resnet")


def test_a_network_is_added_in_the_way_of_the_page(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "networks.md").read_text(encoding="utf-8")
    line, module, own_line = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    package = shutil.copytree(
        Path(pneumonia_fl.__file__).parent,
        tmp_path / "pneumonia_fl",
        ignore=shutil.ignore_patterns("__pycache__"),
    )
    (package / "models/tiny.py").write_text(module)
    table = package / "config/networks.py"
    table.write_text(table.read_text().replace("NETWORKS = {\n", f"NETWORKS = {{\n{line}{own_line}"))
    code = (
        "import sys\n"
        "from pneumonia_fl.config.job import JobConfig\n"
        "for name in ('resnet34', 'tiny'):\n"
        "    assert JobConfig.model_validate({'name': 'x', 'model': {'name': name}}).model.name == name\n"
        "assert 'torch' not in sys.modules\n"
        "import torch\n"
        "from pneumonia_fl.models.architectures import build_model, normalisation_keys\n"
        "for name in ('resnet34', 'tiny'):\n"
        "    for norm in ('batch', 'group', 'none'):\n"
        "        model = build_model(name, norm, 32, seed=1).eval()\n"
        "        assert model(torch.zeros(1, 1, 32, 32)).shape == (1, 2)\n"
        "        assert bool(normalisation_keys(model)) == (norm != 'none')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        check=False,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
