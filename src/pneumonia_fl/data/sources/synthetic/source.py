"""Made-up chest X-rays: seeded, small, free to share, for demonstrations and tests.

They look like chest radiographs and can be learnt from, but teach nothing about patients: a model trained on
them is of no use on real images. Each hospital has its own patients and its own scanner.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from pneumonia_fl.data.manifest import NORMAL, PNEUMONIA
from pneumonia_fl.data.sources.labelled_item import Contents, Item, Source
from pneumonia_fl.data.sources.synthetic.anatomy import (
    Chest,
    Field,
    draw_body,
    draw_pose,
    project,
    smooth_noise,
)
from pneumonia_fl.data.sources.synthetic.disease import Opacity, draw_opacity
from pneumonia_fl.data.sources.synthetic.scanner import expose, scanner
from pneumonia_fl.data.store import Pixels
from pneumonia_fl.errors import ConfigError

# Images per patient, 1 to 4, and the share of patients with that number.
_IMAGES_PER_PATIENT = (0.45, 0.30, 0.15, 0.10)
_TEST_SHARE = 0.2
_MIN_IMAGES_PER_SITE = 4


@dataclass(frozen=True)
class SyntheticSource(Source):
    """A `Source` that draws its images when they are read.

    Attributes:
        images: number of images over all hospitals.
        size: side in pixels; another size shows the same patients.
        seed: of everything; equal seeds give equal bytes.
        sites: number of hospitals.

    Raises:
        ConfigError: sizes below 16 pixels, no sites, or fewer than four images per site.
    """

    images: int = 360
    size: int = 64
    seed: int = 7
    sites: int = 3

    kind: str = "synthetic"
    licence: str = "CC0-1.0"
    credit: str = "Synthetic chest X-rays drawn by pneumonia-fl; no patient was involved."
    contents: Contents = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.size < 16:
            raise ConfigError(f"synthetic: size must be at least 16 pixels, not {self.size}")
        if self.sites < 1 or self.images < _MIN_IMAGES_PER_SITE * self.sites:
            raise ConfigError(
                f"synthetic: {self.images} images for {self.sites} sites; "
                f"take at least one site and {_MIN_IMAGES_PER_SITE} images per site"
            )
        items = [item for group in range(self.sites) for item in self._hospital_items(group)]
        contents = Contents(sorted(items, key=lambda item: item.name), ())
        object.__setattr__(self, "contents", contents)  # the only way into a frozen value

    def read(self, item: Item) -> Pixels:
        """Draw the image, uint8 (size, size); it depends on the seed and the item alone."""
        image = _stream(self.seed, item.name)
        chest = project(draw_body(_stream(self.seed, item.patient)), draw_pose(image), self.size, image)
        brightness = _add_up(chest, draw_opacity(chest, item.subtype, image))
        brightness += 0.012 * smooth_noise(image, self.size, 24)
        return expose(brightness, scanner(self.hospital(item)), image)

    def hospital(self, item: Item) -> int:
        """Return the number of the hospital, from 0, whose patient and scanner this is."""
        return int(item.patient.partition("-")[0].removeprefix("g"))

    def _hospital_items(self, group: int) -> Iterator[Item]:
        """List one hospital's images, of which 55–65 % are pneumonia."""
        rng = _stream(self.seed, f"hospital {group}")
        total = self.images // self.sites + (group < self.images % self.sites)
        pneumonia = round(total * rng.uniform(0.55, 0.65))
        yield from _items_of_class(group, NORMAL, _draw_patients(total - pneumonia, rng), rng)
        yield from _items_of_class(group, PNEUMONIA, _draw_patients(pneumonia, rng), rng)


def _stream(seed: int, key: str) -> np.random.Generator:
    """Return the random stream that belongs to `key`, whatever was drawn before it."""
    digest = hashlib.sha256(f"{seed}/{key}".encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:16], "big"))


def _draw_patients(images: int, rng: np.random.Generator) -> list[int]:
    """Distribute `images` over patients; return the number of each."""
    patients: list[int] = []
    while (left := images - sum(patients)) > 0:
        patients.append(min(left, 1 + int(rng.choice(len(_IMAGES_PER_PATIENT), p=_IMAGES_PER_PATIENT))))
    return patients


def _items_of_class(group: int, label: int, patients: list[int], rng: np.random.Generator) -> Iterator[Item]:
    held_out = set(rng.permutation(len(patients))[: round(_TEST_SHARE * len(patients))].tolist())
    number = 0
    for index, images in enumerate(patients):
        subtype = "normal" if label == NORMAL else str(rng.choice(["bacterial", "viral"], p=[0.6, 0.4]))
        split = "test" if index in held_out else "train"
        for view in range(images):
            number += 1
            patient, name = _names(group, index + 1, view + 1, number, subtype)
            yield Item(name, label, patient, subtype, split)


def _names(group: int, patient: int, view: int, number: int, subtype: str) -> tuple[str, str]:
    """Name a patient and an image as the public data set does, with the hospital in front."""
    if subtype == "normal":
        key = f"g{group}-IM-{patient:04}"
        return key, f"{key}-{view:04}.png"
    key = f"g{group}-person{patient}"
    return key, f"{key}_{'bacteria' if subtype == 'bacterial' else 'virus'}_{number}.png"


def _add_up(chest: Chest, opacity: Opacity) -> Field:
    """Sum solid tissue, air that darkens and vessels that brighten it, as display brightness (S, S)."""
    vessels = np.minimum(chest.vessels * opacity.vessels, 0.25)
    return chest.solid + chest.air * (1.0 - opacity.lost) * (vessels - 0.44)
