"""Local training at one site: plain PyTorch between receiving a model and sending it back.

Covered: seeded order and augmentation, AdamW or SGD whose moments last over the rounds, one learning-rate
schedule over all rounds, class weights, label smoothing, gradient clipping, mixed precision where the
hardware has it, a penalty that an algorithm adds (FedProx), what one takes from all sites (FedNova). Not covered:
several GPUs at one site.

On one machine the same seed and thread count give the same weights, bit for bit (on a CPU).
"""

import contextlib
import ctypes
import hashlib
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer

from pneumonia_fl.config.job import SiteSettings
from pneumonia_fl.config.sections import TrainConfig
from pneumonia_fl.data.preprocess import normalise
from pneumonia_fl.data.store import ImageSet
from pneumonia_fl.errors import DataError, SiteError
from pneumonia_fl.training.augment import augment
from pneumonia_fl.training.shared_statistics import SharedStatistics, second_moments

Penalty = Callable[[nn.Module], Tensor]
OptimizerState = dict[str, Any]
"""An optimiser's state between two rounds, as its `state_dict`; empty before the first."""


@dataclass(frozen=True, slots=True)
class RoundContext:
    """Site and round of a training; rounds count from 0."""

    site: str = "site"
    round: int = 0
    rounds: int = 1


@dataclass(frozen=True, slots=True)
class TrainResult:
    """Mean loss and accuracy on the augmented batches, images passed (over all epochs), steps, seconds.

    `class_counts`: the site's images of both classes; `second_moments`: those of AdamW without their bias, empty with
    SGD.
    """

    loss: float
    accuracy: float
    samples: int
    steps: int
    seconds: float
    class_counts: tuple[int, int]
    second_moments: Mapping[str, Tensor]


def train_epochs(
    model: nn.Module,
    data: ImageSet,
    settings: SiteSettings,
    *,
    context: RoundContext = RoundContext(),
    steps: int | None = None,
    optimizer_state: OptimizerState | None = None,
    shared: SharedStatistics | None = None,
    penalty: Penalty | None = None,
    after_step: Callable[[float], None] | None = None,
    on_step: Callable[[int, float], None] | None = None,
) -> TrainResult:
    """Train `model` in place, on the device where it lies, for `settings.train.local_epochs` passes over `data`.

    Args:
        model: (N, 1, S, S) to two logits.
        data: uint8 images, a memory map is read batch by batch.
        settings: the site's own: optimiser, schedule and loss, random changes of the batches, the model's input.
        steps: optimiser steps in place of whole passes.
        optimizer_state: what the optimizer continues from, replaced when the training is done; None: a new state.
        shared: what is taken from all sites; None: nothing but the model.
        context: site and round; they choose the random stream and the place in the schedule.
        penalty: a scalar to add to the loss of every step, for example FedProx's proximal term.
        after_step: told the learning rate of each step when it is made; may change the weights (SCAFFOLD).
        on_step: told the number of steps done and the step's loss.

    Raises:
        DataError: there is nothing to train on.
        SiteError: the loss is no longer a number.
    """
    if len(data) == 0:
        raise DataError(f"{context.site}: no training images; check the data with `pneumonia-fl data check`")
    _keep_freed_memory()
    started = time.perf_counter()
    train = settings.train
    seed = _stream(train.seed, context)
    order = _batches(len(data), train, np.random.default_rng(seed), steps)
    stepper = _Stepper(model, data, settings, seed, optimizer_state, shared)
    loss_sum, hits, samples = 0.0, 0.0, 0
    with _seeded(seed, stepper.device):
        for step, rows in enumerate(order):
            rate = learning_rate(train, (context.round + (step + 0.5) / len(order)) / context.rounds)
            loss, right = stepper.step(rows, rate, penalty)
            if not math.isfinite(loss):
                raise SiteError(_diverged(context, step, loss, train))
            loss_sum += loss * len(rows)
            hits += right * len(rows)
            samples += len(rows)
            if after_step is not None:
                after_step(rate)
            if on_step is not None:
                on_step(step + 1, loss)
    if optimizer_state is not None:
        optimizer_state.update(stepper.optimizer.state_dict())
    seconds = time.perf_counter() - started
    return stepper.result(loss_sum / samples, hits / samples, samples, len(order), seconds)


def learning_rate(train: TrainConfig, done: float) -> float:
    """Return the rate once the share `done` of all rounds is over: linear warm-up, then the schedule.

    A step has the rate of its middle: at the end of the very last one a cosine has come to 0.
    """
    rise = min(1.0, done / train.warmup) if train.warmup else 1.0
    fall = 0.5 * (1.0 + math.cos(math.pi * min(done, 1.0))) if train.schedule == "cosine" else 1.0
    return train.lr * rise * fall


def class_weights(counts: Sequence[int], balance: bool) -> tuple[float, float]:
    """Return loss weights for NORMAL and PNEUMONIA, n / (2 n_class); (1, 1) where a class is missing."""
    if not balance or 0 in counts:
        return 1.0, 1.0
    return sum(counts) / (2.0 * counts[0]), sum(counts) / (2.0 * counts[1])


class _Stepper:
    """One optimiser step at a time: the state that lives as long as the local training of one round."""

    def __init__(
        self,
        model: nn.Module,
        data: ImageSet,
        settings: SiteSettings,
        seed: int,
        optimizer_state: OptimizerState | None,
        shared: SharedStatistics | None,
    ) -> None:
        # Channels last: a quarter faster on a CPU thread (bench/training.py), and what tensor cores want.
        self.model = model.to(memory_format=torch.channels_last).train()
        self.data, self.settings, self.train = data, settings, settings.train
        self.device = next(model.parameters()).device
        self.optimizer = _optimizer(model, self.train)
        if optimizer_state:
            self.optimizer.load_state_dict(optimizer_state)
        self.class_counts = int((data.labels == 0).sum()), int((data.labels == 1).sum())
        if shared is not None:
            shared.apply_to(model, self.optimizer, one_class=0 in self.class_counts)
        self.generator = torch.Generator(self.device).manual_seed(seed)
        counts = shared.class_counts if shared else self.class_counts
        weights = class_weights(counts, self.train.class_balance)
        self.weights = torch.tensor(weights, dtype=torch.float64, device=self.device)
        self.precision = _amp_type(self.device) if self.train.amp else None
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.precision is torch.float16)

    def step(self, rows: NDArray[np.int64], rate: float, penalty: Penalty | None) -> tuple[float, float]:
        """Learn from the images `rows`; returns the batch's loss and accuracy before the step."""
        images, labels = self._batch(rows)
        with torch.autocast(self.device.type, self.precision, enabled=self.precision is not None):
            logits = self.model(images)
        losses = F.cross_entropy(
            logits.float(), labels, reduction="none", label_smoothing=self.train.label_smoothing
        )
        loss = (losses * self.weights[labels]).mean()
        if penalty is not None:
            loss = loss + penalty(self.model)
        self._descend(loss, rate)
        return loss.item(), (logits.argmax(1) == labels).float().mean().item()

    def result(self, loss: float, accuracy: float, samples: int, steps: int, seconds: float) -> TrainResult:
        """Return the round's training result, with class counts and second moments for FedNova."""
        moments = second_moments(self.model, self.optimizer)
        return TrainResult(loss, accuracy, samples, steps, seconds, self.class_counts, moments)

    def _batch(self, rows: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        # Batch norm cannot take one image: a site that has no more sees it twice, differently augmented.
        rows = np.repeat(rows, 2) if len(rows) == 1 else rows
        images = torch.from_numpy(self.data.images[rows]).to(self.device)
        labels = torch.from_numpy(self.data.labels[rows]).to(self.device)
        changed = augment(images, self.settings.augment, self.generator)
        return normalise(changed, self.settings.preprocess), labels

    def _descend(self, loss: Tensor, rate: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        if self.train.max_grad_norm:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.model.parameters(), self.train.max_grad_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()


def _optimizer(model: nn.Module, train: TrainConfig) -> Optimizer:
    """Decay matrices and kernels only: decayed biases and norm scales gain nothing."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": train.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    if train.optimizer == "sgd":
        return SGD(groups, lr=train.lr, momentum=train.momentum, fused=True)
    return AdamW(groups, lr=train.lr, fused=True)


def _batches(
    count: int, train: TrainConfig, rng: np.random.Generator, steps: int | None
) -> list[NDArray[np.int64]]:
    """Shuffle the rows for each epoch and cut them into batches of almost equal size: none is a leftover."""
    parts = math.ceil(count / train.batch_size)
    wanted = train.local_epochs * parts if steps is None else steps
    epochs = range(math.ceil(wanted / parts))
    return [rows for _ in epochs for rows in np.array_split(rng.permutation(count), parts)][:wanted]


def _stream(seed: int, context: RoundContext) -> int:
    """Derive a seed that differs between sites and rounds (63 bits of SHA-256)."""
    digest = hashlib.sha256(f"{seed}/{context.site}/{context.round}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


@contextlib.contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seed dropout for the duration, and leave the global generators as they were."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


def _amp_type(device: torch.device) -> torch.dtype | None:
    """Return bfloat16 where the hardware has it (no loss scaling), float16 on older GPUs, else None.

    On a CPU that multiplies in bfloat16 a step takes 0.6 of the time (`python -m bench training`).
    """
    if device.type == "cpu":
        have = torch.cpu.get_capabilities()
        return torch.bfloat16 if have.get("avx512_bf16") or have.get("amx_bf16") else None
    if device.type != "cuda":
        return None
    return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16


def _keep_freed_memory() -> None:
    """Ask glibc not to hand each step's freed tensors back to the system: 10 % of a CPU step is page faults."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is None:
        return
    trim_threshold, mmap_threshold, never = -1, -3, 1 << 30
    for parameter in (trim_threshold, mmap_threshold):
        mallopt(parameter, never)


def _diverged(context: RoundContext, step: int, loss: float, train: TrainConfig) -> str:
    return (
        f"{context.site}: the loss became {loss} in round {context.round + 1}, step {step + 1}; "
        f"lower train.lr (now {train.lr:g}) or set train.max_grad_norm (now {train.max_grad_norm:g}), "
        "and look at this site's images with `pneumonia-fl data show`"
    )
