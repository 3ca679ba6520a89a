"""The anatomy of a made-up chest: where air, soft tissue and bone lie in one frontal projection.

Lengths are in half image sides, x to the image's right (the patient's left), y downwards, the origin between
the hila. Values are display brightness before the scanner: 0 is open air, about 1 the spine. Nothing here
was measured; the proportions were drawn by eye after paediatric frontal radiographs.
"""

from dataclasses import dataclass
from functools import lru_cache
from math import cos, pi, radians, sin

import numpy as np
from numpy.typing import NDArray

Field = NDArray[np.float64]

# Half-width of the trunk from above the chin to below the image, (y, half-width).
_TRUNK = (
    (-1.6, 0.26),
    (-1.0, 0.27),
    (-0.88, 0.38),
    (-0.7, 0.86),
    (-0.5, 0.84),
    (-0.2, 0.74),
    (0.1, 0.71),
    (1.6, 0.78),
)
_APEX = -0.70
_HILUM = (0.17, -0.06)


@dataclass(frozen=True, slots=True)
class Body:
    """Anatomy of one patient, the same in every image.

    `width` of the lungs, `heart` size and height of its `apex`, number of `ribs` in view and their `slope`;
    `bone`, `wall` and `vessels` are factors, `breast` and `thymus` strengths (0: none); `arms` hang when > 0.
    """

    width: float
    heart: float
    apex: float
    ribs: float
    slope: float
    bone: float
    wall: float
    breast: float
    thymus: float
    arms: float
    vessels: float


@dataclass(frozen=True, slots=True)
class Pose:
    """Position of the patient in one exposure: `roll` in the image plane, `turn` about the long axis."""

    roll: float
    turn: float
    zoom: float
    shift: tuple[float, float]
    breath: float


@dataclass(frozen=True, slots=True)
class Chest:
    """One projection: (S, S) fields that opacities and the final sum are made of."""

    x: Field
    y: Field
    air: Field
    solid: Field
    vessels: Field
    hilum_distance: Field
    hilum_angle: Field
    dome: Field
    width: float


def draw_body(rng: np.random.Generator) -> Body:
    """Draw a patient; `age` runs from infant to adult and moves several proportions together."""
    age, female = rng.uniform(), rng.uniform() < 0.5
    return Body(
        width=0.60 + 0.03 * age + rng.normal(0, 0.025),
        heart=1.06 - 0.16 * age + rng.normal(0, 0.06),
        apex=rng.normal(0, 0.035),
        ribs=rng.uniform(6.8, 8.2),
        slope=0.16 + 0.10 * age + rng.normal(0, 0.02),
        bone=rng.uniform(0.7, 1.25) * (0.9 + 0.2 * age),
        wall=rng.uniform(0.85, 1.2),
        breast=rng.uniform(0.03, 0.13) if female and age > 0.5 else 0.0,
        thymus=rng.uniform(0.2, 1.0) if age < 0.3 else 0.0,
        arms=rng.choice([-1.0, 1.0]) * rng.uniform(0.6, 1.2),
        vessels=rng.uniform(0.4, 1.5),
    )


def draw_pose(rng: np.random.Generator) -> Pose:
    """Draw one exposure's positioning."""
    return Pose(
        roll=radians(rng.normal(0, 2.8)),
        turn=float(np.clip(rng.normal(0, 0.45), -1, 1)),
        zoom=rng.uniform(1.0, 1.22),
        shift=(rng.normal(0, 0.035), rng.normal(0.03, 0.05)),
        breath=float(np.clip(rng.normal(0, 0.06), -0.13, 0.09)),
    )


def project(body: Body, pose: Pose, size: int, rng: np.random.Generator) -> Chest:
    """Project the chest of `body` in `pose` on a size x size grid."""
    x, y, pixel = _coordinates(pose, size)
    medial = x - 0.06 * pose.turn * (1 - np.minimum(np.abs(x) / body.width, 1) ** 2)
    outer, dome = _outer_wall(x, y, body), _dome(medial, body, pose)
    heart = _heart(medial, y, body, pose, pixel)
    air = _air(x, y, outer, dome, pixel) * (1 - _mediastinum(medial, y, body, pixel)) * (1 - 0.88 * heart)
    off_midline, side = np.abs(medial), np.where(medial > 0, 1.0, -1.0)
    across, down = off_midline - _HILUM[0], y - _HILUM[1] - 0.03 * (side < 0)
    distance, angle = np.hypot(across, down), np.arctan2(down, across)
    bones = _ribs(np.abs(x), y, outer, body, pixel) + _spine(off_midline, y, pixel)
    bones += _girdle(off_midline, y, pixel)
    soft = _soft_tissue(x, y, body, dome, pixel) + 0.07 * heart
    return Chest(
        x=medial,
        y=y,
        air=air,
        solid=soft + body.bone * bones + _gas(medial, y, dome, pixel, rng),
        vessels=body.vessels * _branches(distance, angle, side, rng),
        hilum_distance=distance,
        hilum_angle=angle,
        dome=dome,
        width=body.width,
    )


def ramp(distance: Field, softness: float) -> Field:
    """Smooth step from 0 (outside, below 0) to 1 (inside) over `softness` on both sides of an edge."""
    t = np.clip(distance * (0.5 / softness) + 0.5, 0.0, 1.0)
    return t * t * (3.0 - 2.0 * t)


def ellipse(x: Field, y: Field, centre: tuple[float, float], axes: tuple[float, float], tilt: float) -> Field:
    """Compute the approximate distance inside (positive) an ellipse with half-`axes`, tilted by radians."""
    dx, dy = x - centre[0], y - centre[1]
    along = (cos(tilt) * dx + sin(tilt) * dy) / axes[0]
    across = (cos(tilt) * dy - sin(tilt) * dx) / axes[1]
    return (1.0 - np.hypot(along, across)) * min(axes)


def smooth_noise(rng: np.random.Generator, size: int, knots: int) -> Field:
    """Draw a (size, size) field of unit variance whose grain is 1 / `knots` of the side, at any `size`."""
    weights = _interpolation(size, knots)
    return weights @ rng.standard_normal((knots, knots)) @ weights.T


@lru_cache(maxsize=64)
def _interpolation(size: int, knots: int) -> Field:
    where = (np.arange(size) + 0.5) / size * (knots - 1)
    weights = np.exp(-(((where[:, None] - np.arange(knots)) / 0.7) ** 2))
    normed: Field = weights / np.sqrt((weights**2).sum(axis=1, keepdims=True))
    return normed


@lru_cache(maxsize=16)
def _grid(size: int) -> tuple[Field, Field]:
    centres = (np.arange(size) + 0.5) * (2.0 / size) - 1.0
    grid = np.meshgrid(centres, centres)
    return grid[0], grid[1]


def _coordinates(pose: Pose, size: int) -> tuple[Field, Field, float]:
    u, v = _grid(size)
    u, v = (u - pose.shift[0]) / pose.zoom, (v - pose.shift[1]) / pose.zoom
    c, s = cos(pose.roll), sin(pose.roll)
    return c * u + s * v, c * v - s * u, 2.0 / size / pose.zoom


def _outer_wall(x: Field, y: Field, body: Body) -> Field:
    """Compute the lateral border of the lung at each height: a dome that narrows to the apex."""
    depth = np.clip((y - _APEX) / 1.35, 0.0, 1.0)
    return 0.10 + (body.width - 0.10) * (1.0 - (1.0 - depth) ** 2.6) ** 0.62


def _dome(x: Field, body: Body, pose: Pose) -> Field:
    """Compute the height of the diaphragm; the right dome is higher because of the liver."""
    level = np.where(x < 0, 0.40, 0.46) + pose.breath
    outward = np.abs(x) / body.width - 0.45
    return level + np.where(outward > 0, 0.62, 0.35) * outward**2


def _air(x: Field, y: Field, outer: Field, dome: Field, pixel: float) -> Field:
    wall = ramp(outer - np.abs(x), max(0.02, pixel))
    return wall * ramp(dome - y, max(0.025, pixel)) * ramp(y - _APEX, max(0.05, pixel))


def _mediastinum(x: Field, y: Field, body: Body, pixel: float) -> Field:
    """Draw the great vessels and, in infants, the thymus; the heart lies below."""
    edge = max(0.03, pixel)
    knob = 0.045 * np.exp(-(((y + 0.31) / 0.08) ** 2)) * (1 - body.thymus)
    half = 0.108 + np.where(x > 0, knob, 0.0)
    sail = 0.13 * body.thymus * np.where(x > 0, 0.7, 1.0) * ramp(y + 0.52, 0.2) * ramp(-0.12 - y, 0.06)
    return np.maximum(ramp(half - np.abs(x), edge), 0.75 * ramp(half + sail - np.abs(x), edge))


def _heart(x: Field, y: Field, body: Body, pose: Pose, pixel: float) -> Field:
    """Draw the heart's silhouette: right atrium, and left border from the pulmonary trunk to the apex."""
    size, low = body.heart * (1 - 0.6 * pose.breath), 0.8 * pose.breath
    left = 0.11 + 0.28 * size * ramp(y - 0.08 - low - body.apex, 0.27) - 0.10 * ramp(y - 0.48 - low, 0.16)
    right = 0.105 + 0.095 * size * np.exp(-(((y - 0.20 - low) / 0.21) ** 2))
    return ramp(np.where(x > 0, left, right) - np.abs(x), max(0.03, pixel))


def _soft_tissue(x: Field, y: Field, body: Body, dome: Field, pixel: float) -> Field:
    ax = np.abs(x)
    heights, halves = zip(*_TRUNK, strict=True)
    half = np.interp(y, heights, halves) * (0.62 + 0.38 * body.wall) * (body.width / 0.615)
    trunk = np.sqrt(np.clip(1.0 - (ax / half) ** 2, 0.0, 1.0)) * ramp(half - ax, max(0.05, pixel))
    arm, humerus = _arm(ax, y, body, pixel)
    belly = 0.14 * ramp(y - dome, max(0.025, pixel)) * trunk
    breasts = body.breast * ramp(ellipse(ax, y, (0.36, 0.26), (0.24, 0.22), 0.2), 0.08)
    chin = 0.28 * ramp(ellipse(x, y, (0.0, -1.22), (0.34, 0.27), 0.0), max(0.05, pixel))
    shoulders = np.maximum((0.16 + 0.47 * trunk) * np.minimum(trunk * 3, 1), 0.30 * arm)
    total: Field = shoulders + belly + breasts + chin + 0.16 * body.bone * humerus
    return total


def _arm(ax: Field, y: Field, body: Body, pixel: float) -> tuple[Field, Field]:
    """Draw the upper arms, raised (`arms` < 0) or hanging, as thick lines from the shoulders."""
    start, direction = (0.74, -0.60), (0.52 / (0.4 + abs(body.arms)), body.arms)
    length = direction[0] ** 2 + direction[1] ** 2
    along = np.clip(((ax - start[0]) * direction[0] + (y - start[1]) * direction[1]) / length, 0.0, 1.0)
    away = np.hypot(ax - start[0] - along * direction[0], y - start[1] - along * direction[1])
    return ramp(0.15 * body.wall - away, 0.08), ramp(0.045 - away, max(0.02, pixel))


def _ribs(ax: Field, y: Field, outer: Field, body: Body, pixel: float) -> Field:
    """Draw the ribs: posterior ones fall outwards, anterior ones fall inwards and end at the cartilage."""
    reach = ax / (0.25 * body.width + 0.75 * outer)
    inside = ramp(outer + 0.03 - ax, max(0.03, pixel)) * ramp(y + 0.74, 0.05)
    rate = body.ribs / 1.3
    back = (y - body.slope * (1.5 * reach**2 - 0.7 * reach)) * rate
    front = (y + 0.34 * reach - 0.1 * reach**2) * rate + 0.3
    posterior = _stripe(back, 0.25, pixel * rate) * (0.55 + 0.45 * reach)
    anterior = _stripe(front, 0.22, pixel * rate) * ramp(reach - 0.55, 0.25)
    rim = np.exp(-(((ax - outer - 0.005) / 0.025) ** 2)) * (0.55 + 0.45 * np.cos(2 * pi * back))
    low = 1.0 - 0.65 * ramp(y - 0.45, 0.2)
    shadow: Field = inside * (0.17 * posterior + 0.12 * anterior) + 0.17 * rim * (y > _APEX)
    return low * shadow


def _stripe(phase: Field, half: float, blur: float) -> Field:
    """Draw a bar in every unit of `phase`, brighter at its two cortical edges."""
    away = np.abs(phase - np.floor(phase) - 0.5)
    bar = ramp(half - away, max(0.09, blur))
    return bar * (0.7 + 0.5 * np.minimum(away / half, 1.0) ** 2)


def _spine(ax: Field, y: Field, pixel: float) -> Field:
    column = ramp(0.088 - ax, max(0.03, pixel))
    level = y * 8.2 + 0.2
    disc = _stripe(level, 0.13, pixel * 8)
    pedicles = np.exp(-(((ax - 0.058) / 0.022) ** 2)) * (0.5 + 0.5 * np.cos(2 * pi * level))
    trachea = ramp(0.034 - ax, max(0.025, pixel)) * ramp(-0.28 - y, 0.15)
    return column * (0.11 - 0.05 * disc + 0.05 * pedicles) - 0.12 * trachea


def _girdle(ax: Field, y: Field, pixel: float) -> Field:
    """Draw the clavicles and the border of the shoulder blades."""
    bend = np.sin((ax - 0.08) * (2 * pi / 0.62))
    clavicle = ramp(0.028 - np.abs(y + 0.60 + 0.22 * (ax - 0.08) + 0.035 * bend), max(0.022, pixel))
    clavicle *= ramp(ax - 0.07, 0.04) * ramp(0.70 - ax, 0.05)
    blade = ramp(ellipse(ax, y, (0.69, -0.38), (0.10, 0.30), 0.22), 0.06)
    return 0.20 * clavicle + 0.07 * blade


def _gas(x: Field, y: Field, dome: Field, pixel: float, rng: np.random.Generator) -> Field:
    """Draw the stomach's bubble below the left dome, in most images."""
    centre = (rng.uniform(0.22, 0.36), rng.uniform(0.62, 0.72))
    axes = (rng.uniform(0.09, 0.17), rng.uniform(0.06, 0.10))
    depth = rng.choice([0.0, 0.12, 0.22])
    bubble: Field = (
        depth * ramp(ellipse(x, y, centre, axes, rng.normal(0, 0.3)), 0.05) * ramp(y - dome - 0.03, 0.03)
    )
    return -bubble


def _branches(distance: Field, angle: Field, side: Field, rng: np.random.Generator) -> Field:
    """Draw the vessels that leave the hilum, fork once and fade towards the chest wall."""
    phase = np.where(side > 0, rng.uniform(0, 2 * pi), rng.uniform(0, 2 * pi))
    bend = phase + 0.7 * np.sin(distance * 6.0 + phase)
    trunks = np.clip(np.cos(4.0 * angle + bend), 0, 1) ** 4
    twigs = np.clip(np.cos(9.0 * angle + 2.0 * bend), 0, 1) ** 4
    near = np.exp(-((distance / 0.17) ** 2))
    vessels: Field = 0.17 * near * (0.45 + trunks) + 0.13 * twigs * np.exp(-((distance / 0.36) ** 2)) * (
        1 - near
    )
    return vessels
