"""Simulate a hospital's X-ray machine: tone, blur, noise, collimator borders, a marker.

Each scanner has its own settings, which are the reason why made-up hospitals differ as real ones do; a
little of every setting varies from exposure to exposure. The scanner knows nothing of the diagnosis.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from pneumonia_fl.data.sources.synthetic.anatomy import Field
from pneumonia_fl.data.store import Pixels

_GLYPHS = {
    "R": ("11110", "10001", "10001", "11110", "10100", "10010", "10001"),
    "L": ("10000", "10000", "10000", "10000", "10000", "10000", "11111"),
}


@dataclass(frozen=True, slots=True)
class Scanner:
    """`gain`, `offset`, `gamma` shape the tone; `blur`, `border`, `marker_at` are fractions of the side."""

    gain: float
    offset: float
    gamma: float
    noise: float
    blur: float
    border: tuple[float, float]
    border_level: float
    marker: str
    marker_at: tuple[float, float]


_FIRST = (
    Scanner(1.00, -0.02, 1.15, 0.012, 0.004, (0.00, 0.00), 0.00, "R", (0.06, 0.10)),
    Scanner(0.84, 0.10, 0.85, 0.020, 0.010, (0.035, 0.02), 0.03, "L", (0.90, 0.08)),
    Scanner(1.14, -0.11, 1.05, 0.014, 0.006, (0.00, 0.05), 0.00, "", (0.0, 0.0)),
)


@lru_cache(maxsize=128)
def scanner(index: int) -> Scanner:
    """Return the machine of hospital `index`: three fixed characters first, then drawn ones."""
    if index < len(_FIRST):
        return _FIRST[index]
    rng = np.random.default_rng([1895, index])  # the year of the first radiograph; any constant would do
    return Scanner(
        gain=rng.uniform(0.78, 1.25),
        offset=rng.uniform(-0.12, 0.12),
        gamma=rng.uniform(0.75, 1.3),
        noise=rng.uniform(0.01, 0.035),
        blur=rng.uniform(0.003, 0.013),
        border=(rng.uniform(0, 0.05), rng.uniform(0, 0.05)),
        border_level=rng.uniform(0, 0.08),
        marker=str(rng.choice(["R", "L", ""])),
        marker_at=(float(rng.choice([0.06, 0.88])), rng.uniform(0.06, 0.3)),
    )


def expose(brightness: Field, machine: Scanner, rng: np.random.Generator) -> Pixels:
    """Convert display brightness (S, S) to the uint8 image that `machine` stores."""
    size = len(brightness)
    picture = _blur(brightness, machine.blur * rng.uniform(0.8, 1.2))
    picture = machine.gain * rng.normal(1, 0.04) * picture + machine.offset + rng.normal(0, 0.02)
    picture = np.clip(picture, 0.0, 1.15) ** (machine.gamma * np.exp(rng.normal(0, 0.07)))
    # Its own stream: the number of draws depends on the size, the rest of the image must not.
    grain = rng.spawn(1)[0].standard_normal((size, size))
    picture += machine.noise * (0.5 + picture) * grain
    _collimate(picture, machine, rng)
    if machine.marker:
        _stamp(picture, machine, rng)
    pixels: Pixels = np.rint(np.clip(picture, 0.0, 1.0) * 255.0).astype(np.uint8)
    return pixels


def _blur(picture: Field, fraction: float) -> Field:
    size = len(picture)
    steps = np.arange(size)
    kernel = np.exp(-0.5 * ((steps[:, None] - steps) / (fraction * size + 0.25)) ** 2)
    kernel /= kernel.sum(axis=1, keepdims=True)
    blurred: Field = kernel @ picture @ kernel.T
    return blurred


def _collimate(picture: Field, machine: Scanner, rng: np.random.Generator) -> None:
    """Darken the strips that the collimator shields, in place."""
    size = len(picture)
    wide, high = (round(part * size * rng.uniform(0.4, 1.6)) for part in machine.border)
    picture[:high] = picture[size - high :] = machine.border_level
    picture[:, :wide] = picture[:, size - wide :] = machine.border_level


def _stamp(picture: Field, machine: Scanner, rng: np.random.Generator) -> None:
    """Print the side marker, 7 % of the image high, in place; grid points between dots are interpolated."""
    size = len(picture)
    glyph = np.array([[float(dot) for dot in row] for row in _GLYPHS[machine.marker]])
    left, top = (part + rng.normal(0, 0.012) for part in machine.marker_at)
    centres = (np.arange(size) + 0.5) / size
    rows = _hat((centres - top) / 0.01, glyph.shape[0], 0.01 * size)
    columns = _hat((centres - left) / 0.01, glyph.shape[1], 0.01 * size)
    ink = np.clip(rows @ glyph @ columns.T, 0.0, 1.0)
    np.maximum(picture, 0.95 * ink, out=picture)


def _hat(where: Field, dots: int, dot_pixels: float) -> Field:
    """Compute the overlap of pixels with dots (size, dots): a hat at least one pixel wide to each side."""
    width = max(1.15, 1.0 / dot_pixels)
    return np.clip(1.0 - np.abs(where[:, None] - np.arange(dots)) / width, 0.0, 1.0) * (1.15 / width)
