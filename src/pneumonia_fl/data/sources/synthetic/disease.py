"""Opacities of a made-up pneumonia: how much of the lung's air is lost, 0 to 1, at each pixel.

Bacterial: one soft-edged, textured lobar focus, sometimes two, with open bronchi. Viral: a net of fine lines
around both hila. The strength of either is drawn from a range whose lower end a reader would miss.
"""

from dataclasses import dataclass

import numpy as np

from pneumonia_fl.data.sources.synthetic.anatomy import Chest, Field, ellipse, ramp, smooth_noise

# Typical centres of consolidation, (distance from the midline / lung width, y), and half-axes.
_LOBES = (
    ((0.52, -0.36), (0.24, 0.20)),
    ((0.50, 0.04), (0.24, 0.17)),
    ((0.55, 0.24), (0.28, 0.22)),
)


@dataclass(frozen=True, slots=True)
class Opacity:
    """Lost air (S, S), 0–1, and a factor for the vessels that stand out or drown in it."""

    lost: Field
    vessels: float = 1.0


def draw_opacity(chest: Chest, subtype: str, rng: np.random.Generator) -> Opacity:
    """Draw the opacity of one image; `subtype` is normal, bacterial or viral."""
    if subtype == "bacterial":
        return _bacterial(chest, rng)
    if subtype == "viral":
        return _viral(chest, rng)
    return _incidental(chest, rng)


def _bacterial(chest: Chest, rng: np.random.Generator) -> Opacity:
    lost = _focus(chest, rng, rng.uniform(0.45, 1.0))
    if rng.uniform() < 0.25:
        lost = np.maximum(lost, _focus(chest, rng, rng.uniform(0.2, 0.7)))
    if rng.uniform() < 0.2:
        lost = np.maximum(lost, _effusion(chest, rng))
    return Opacity(lost)


def _focus(chest: Chest, rng: np.random.Generator, strength: float) -> Field:
    side = rng.choice([-1.0, 1.0])
    (across, height), axes = _LOBES[rng.integers(len(_LOBES))]
    centre = (side * chest.width * (across + rng.normal(0, 0.08)), height + rng.normal(0, 0.06))
    grow = rng.uniform(0.75, 1.4)
    inside = ellipse(chest.x, chest.y, centre, (axes[0] * grow, axes[1] * grow), rng.uniform(-0.6, 0.6))
    ragged = inside + 0.05 * smooth_noise(rng, len(chest.x), 12)
    texture = 0.82 + 0.16 * smooth_noise(rng, len(chest.x), 26)
    bronchi = np.clip(np.cos(7.0 * chest.hilum_angle + rng.uniform(0, 6)), 0, 1) ** 8
    shape = ramp(ragged, rng.uniform(0.10, 0.26)) * texture * (1 - 0.35 * bronchi)
    lost: Field = np.clip(strength * shape * (side * chest.x > 0), 0.0, 1.0)
    return lost


def _effusion(chest: Chest, rng: np.random.Generator) -> Field:
    """Draw fluid that blunts one costophrenic angle."""
    side, level = rng.choice([-1.0, 1.0]), rng.uniform(0.05, 0.18)
    surface = chest.dome - level - 0.35 * np.clip(side * chest.x - 0.3, 0, 1)
    lost: Field = 0.8 * ramp(chest.y - surface, 0.12) * (side * chest.x > 0)
    return lost


def _viral(chest: Chest, rng: np.random.Generator) -> Opacity:
    strength, reach = rng.uniform(0.30, 0.70), rng.uniform(0.28, 0.48)
    perihilar = np.exp(-((chest.hilum_distance / reach) ** 2))
    patchy = np.clip(0.9 + 0.35 * smooth_noise(rng, len(chest.x), 7), 0.2, 1.6)
    return Opacity(
        np.clip(strength * (0.25 + perihilar) * patchy * (0.35 + _net(chest, rng)), 0.0, 0.9),
        vessels=rng.uniform(1.0, 1.6),
    )


def _net(chest: Chest, rng: np.random.Generator) -> Field:
    """Draw fine crossing lines: the zero lines of two smooth fields."""
    size = len(chest.x)
    first, second = smooth_noise(rng, size, 22), smooth_noise(rng, size, 34)
    return 0.5 * np.exp(-((first / 0.6) ** 2)) + 0.4 * np.exp(-((second / 0.6) ** 2))


def _incidental(chest: Chest, rng: np.random.Generator) -> Opacity:
    """Draw what a healthy lung may show: crowded vessels at the base, a faint shadow, prominent hila."""
    vessels = rng.uniform(0.8, 1.7)
    lost = np.zeros_like(chest.x)
    if rng.uniform() < 0.35:
        lost = rng.uniform(0.05, 0.28) * ramp(chest.y - rng.uniform(0.05, 0.25), 0.3)
    if rng.uniform() < 0.2:
        lost = np.maximum(lost, _focus(chest, rng, rng.uniform(0.05, 0.35)))
    return Opacity(lost, vessels)
