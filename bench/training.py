"""How near the training loop comes to bare PyTorch: the same model, optimiser, batch and one thread."""

import time
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from bench.options import Options
from pneumonia_fl.config.job import JobConfig, SiteSettings
from pneumonia_fl.config.sections import AugmentConfig, Preprocess, TrainConfig
from pneumonia_fl.data.preprocess import normalise
from pneumonia_fl.data.store import ImageSet
from pneumonia_fl.evaluation.scoring import margins
from pneumonia_fl.models.architectures import build_model
from pneumonia_fl.training.local import train_epochs

IMAGES = 256
BATCH = 32
REPEATS = 15
TARGET = 0.95
NOTHING = AugmentConfig(
    rotate=0, translate=0, scale=0, contrast=0, brightness=0, gamma=0, sharpness=0, noise=0
)


def run(options: Options) -> None:
    """Print images per second of both loops, their ratio, and what augmentation and evaluation cost."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for size in (128, 28):
        _compare(size, 1 if options.quick else REPEATS)
    torch.set_num_threads(threads)


def _settings(spec: Preprocess, changes: AugmentConfig, amp: bool) -> SiteSettings:
    train = TrainConfig(batch_size=BATCH, amp=amp)
    return JobConfig(name="bench", preprocess=spec, train=train, augment=changes).site_settings()


def _compare(size: int, repeats: int) -> None:
    spec = Preprocess(size=size)
    pixels = np.random.default_rng(0).integers(0, 256, (IMAGES, size, size), dtype=np.uint8)
    labels = np.arange(IMAGES) % 2
    data = ImageSet(pixels, labels, [str(i) for i in range(IMAGES)], ["unknown"] * IMAGES)
    inputs, targets = normalise(torch.from_numpy(pixels), spec), torch.from_numpy(labels)
    model = build_model(size=size, seed=1).to(memory_format=torch.channels_last)
    plain, single = _settings(spec, NOTHING, amp=False), _settings(spec, AugmentConfig(), amp=False)
    mixed = _settings(spec, AugmentConfig(), amp=True)
    bare, ours, augmented, faster, evaluation = _best(
        repeats,
        lambda: _bare_loop(model, inputs, targets),
        lambda: train_epochs(model, data, plain),
        lambda: train_epochs(model, data, single),
        lambda: train_epochs(model, data, mixed),
        lambda: margins(model, pixels, spec),
    )
    batches = IMAGES / BATCH
    print(f"training, {size} px, batches of {BATCH}, one thread (CPU time, best of {repeats}):")
    print(f"  bare PyTorch loop    {1e3 * bare / batches:7.1f} ms per batch  {IMAGES / bare:6.0f} images/s")
    print(f"  train_epochs         {1e3 * ours / batches:7.1f} ms per batch  {IMAGES / ours:6.0f} images/s")
    print(f"  ratio                {bare / ours:7.3f} (wanted: at least {TARGET})")
    print(f"  augmentation adds    {1e3 * (augmented - ours) / batches:7.1f} ms per batch")
    print(
        f"  with train.amp       {1e3 * faster / batches:7.1f} ms per batch  {faster / augmented:.2f} of float32"
    )
    print(f"  evaluation                                  {IMAGES / evaluation:6.0f} images/s")


def _bare_loop(model: nn.Module, inputs: torch.Tensor, targets: torch.Tensor) -> None:
    optimizer = torch.optim.AdamW(model.parameters())
    model.train()
    for rows in torch.randperm(len(inputs)).split(BATCH):  # type: ignore[no-untyped-call]
        optimizer.zero_grad()
        F.cross_entropy(model(inputs[rows]), targets[rows]).backward()  # type: ignore[no-untyped-call]
        optimizer.step()


def _best(repeats: int, *works: Callable[[], object]) -> list[float]:
    """CPU seconds of each work, the best of several turns: a busy machine only adds."""
    for work in works:
        work()
    rounds = [[_cpu_seconds(work) for work in works] for _ in range(repeats)]
    return [min(times) for times in zip(*rounds, strict=True)]


def _cpu_seconds(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start
