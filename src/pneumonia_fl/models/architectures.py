"""Networks: gray image (N, 1, S, S) in, two logits (NORMAL, PNEUMONIA) out; `networks.py` has their table."""

import contextlib
import importlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from pneumonia_fl.config.networks import NETWORKS
from pneumonia_fl.errors import ConfigError, FetchError

CLASSES = 2
HEADS = {name: network.head for name, network in NETWORKS.items() if network.head}
"""Path of the classifier's last layer, per torchvision network."""


class Block(nn.Module):
    """A basic residual block (He et al. 2016, arXiv:1512.03385, figure 5 left)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, inputs, H, W) to (N, outputs, H / stride, W / stride)."""
        y = torch.relu_(self.norm1(self.conv1(x)))
        return torch.relu_(self.norm2(self.conv2(y)) + self.shortcut(x))


class SmallResNet(nn.Module):
    """Six residual blocks, 32–64–128 channels, 0.7 M parameters, for a CPU thread and a few thousand images.

    The stem shrinks large images early, so that the blocks work on about 32 x 32 whatever the input: stride 2
    and a pool from 96 px on, stride 2 from 48 px on, no shrinking below. The head sees the mean and the
    maximum of each channel: the maximum finds one small opacity, the mean a diffuse one.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(1, 32, 3 if size < 48 else 5, 1 if size < 48 else 2, 1 if size < 48 else 2, bias=False),
            nn.BatchNorm2d(32),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, 2, 1) if size >= 96 else nn.Identity(),
        )
        widths = ((32, 32, 1), (32, 32, 1), (32, 64, 2), (64, 64, 1), (64, 128, 2), (128, 128, 1))
        self.blocks = nn.Sequential(*(Block(*width) for width in widths))
        self.head = nn.Sequential(nn.Dropout(0.2), nn.Linear(2 * 128, CLASSES))

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, 1, S, S) to logits (N, 2)."""
        features = self.blocks(self.stem(x))
        return self.head(torch.cat((features.mean((2, 3)), features.amax((2, 3))), 1))  # type: ignore[no-any-return]


def pneumonia_network(size: int) -> nn.Module:
    """Build the network of the older published Azure and NVFlare runs: 25,783,554 parameters at 224 px."""
    layers: list[nn.Module] = []
    for inputs, outputs in ((1, 32), (32, 64), (64, 128)):
        layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
    flat = 128 * (size // 8) ** 2
    layers += [nn.Dropout(0.2), nn.Flatten(), nn.Linear(flat, 256), nn.ReLU(), nn.Linear(256, CLASSES)]
    return nn.Sequential(*layers)


def build_model(
    name: str = "small_resnet", norm: str = "batch", size: int = 128, seed: int | None = None
) -> nn.Module:
    """Build a network with fresh weights; equal seeds give equal weights and leave the global RNG alone.

    Args:
        name: one of `networks.NETWORKS`.
        norm: `batch`, or `group` to replace every BatchNorm; networks without norm layers do not change.
            `none` leaves the layers out: what FedBN's server has of a model.
        size: side of the square input in pixels.
        seed: None draws the weights from the global RNG.

    Raises:
        ConfigError: an unknown name or norm, or a size that the network cannot take.
    """
    if name not in NETWORKS:
        raise ConfigError(f"unknown model {name!r}; choose one of {', '.join(NETWORKS)}")
    if size < NETWORKS[name].smallest:
        raise ConfigError(f"model {name} needs images of at least {NETWORKS[name].smallest} px, not {size}")
    if norm not in ("batch", "group", "none"):
        raise ConfigError(f"unknown norm {norm!r}; choose batch or group")
    with _seeded(seed):
        model = _builder(name)(size)
        return (
            model
            if norm == "batch"
            else _replace_norm(model, _group_norm if norm == "group" else nn.Identity)
        )


def normalisation_keys(model: nn.Module) -> set[str]:
    """Return the state dict's keys of normalisation layers: weights, biases, running statistics."""
    layers = [(n, m) for n, m in model.named_modules() if isinstance(m, nn.BatchNorm2d | nn.GroupNorm)]
    return {f"{name}.{key}" for name, layer in layers for key in layer.state_dict()}


def count_parameters(model: nn.Module) -> int:
    """Count the trainable numbers of a model."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def imagenet_state(name: str, seed: int = 0) -> dict[str, Tensor]:
    """Download torchvision's ImageNet weights and fit them to our one-channel, two-class network.

    Raises:
        ConfigError: `name` has no ImageNet weights.
        FetchError: the download failed.
    """
    if name not in HEADS:
        raise ConfigError(f"model {name!r} has no ImageNet weights; choose one of {', '.join(HEADS)}")
    import torchvision.models

    try:
        pretrained = torchvision.models.get_model(name, weights="DEFAULT")
    except OSError as error:
        raise FetchError(
            f"could not download the ImageNet weights of {name} ({error}); model.pretrained=none starts fresh"
        ) from None
    return adapt_state(pretrained.state_dict(), build_model(name, size=224, seed=seed).state_dict())


def adapt_state(source: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Fit the weights of a three-channel, 1000-class network to a one-channel, two-class `target`.

    The first convolution's kernels are summed over the colours: on a gray image that is what the colour
    network computes. Tensors of another shape (the head) stay as they are in `target`.
    """
    return {key: _fit(source[key], fresh) for key, fresh in target.items()}


def _fit(weight: Tensor, fresh: Tensor) -> Tensor:
    if weight.shape == fresh.shape:
        return weight.clone()
    if weight.ndim == 4 and fresh.shape[1] == 1:
        return weight.sum(1, keepdim=True)
    return fresh.clone()


@contextlib.contextmanager
def _seeded(seed: int | None) -> Iterator[None]:
    if seed is None:
        yield
        return
    with torch.random.fork_rng(devices=[]):
        # Not torch.manual_seed: that would reseed the GPUs, which are not forked here.
        torch.default_generator.manual_seed(seed)
        yield


def _builder(name: str) -> Callable[[int], nn.Module]:
    module, _, builder = NETWORKS[name].build.partition(":")
    if not module:
        return lambda size: _from_torchvision(name)
    build: Callable[[int], nn.Module] = getattr(importlib.import_module(module), builder)
    return build


def _from_torchvision(name: str) -> nn.Module:
    import torchvision.models

    model: nn.Module = torchvision.models.get_model(name, weights=None)
    _replace_stem(model)
    head: Any = model.get_submodule(HEADS[name])
    model.set_submodule(HEADS[name], nn.Linear(head.in_features, CLASSES))
    return model


def _replace_stem(model: nn.Module) -> None:
    """Replace the first convolution by one with a single input channel."""
    name, conv = next((n, m) for n, m in model.named_modules() if isinstance(m, nn.Conv2d))
    stem: Any = nn.Conv2d(
        1,
        conv.out_channels,
        conv.kernel_size,  # type: ignore[arg-type]
        conv.stride,  # type: ignore[arg-type]
        conv.padding,  # type: ignore[arg-type]
        bias=False,
    )
    nn.init.kaiming_normal_(stem.weight, mode="fan_out", nonlinearity="relu")
    model.set_submodule(name, stem)


def _replace_norm(model: nn.Module, make: Callable[[int], nn.Module]) -> nn.Module:
    """Replace each BatchNorm by what `make` gives for its number of channels."""
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.BatchNorm2d):
            model.set_submodule(name, make(module.num_features))
    return model


def _group_norm(channels: int) -> nn.Module:
    """Create group normalisation with 8 channels a group, or fewer where 8 does not divide."""
    size = next(group for group in (8, 4, 2, 1) if channels % group == 0)
    return nn.GroupNorm(channels // size, channels)
