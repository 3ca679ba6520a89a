"""Pictures of a prepared data folder: contact sheets and class balance. No patient is named on them."""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Patch

from pneumonia_fl.data.manifest import CLASS_NAMES, SPLITS, TEST, DatasetInfo, read_info
from pneumonia_fl.data.store import ImageSet, Pixels, open_site
from pneumonia_fl.report.figures.canvas import BLUE, ORANGE, new_figure, save

_PER_CLASS = 8
# White pixels between neighbours, as a fraction of a side.
_GAP = 0.03
_CLASS_COLOURS = (BLUE, ORANGE)


def contact_sheet(folder: Path, out: Path) -> list[Path]:
    """Write one PNG per site into the folder `out`: training images of both classes.

    Raises:
        DataError: `folder` is not a prepared data folder.
        OutputError: `out` cannot be written.
    """
    return [_site_sheet(folder, site, out / f"contact_sheet_{site}.png") for site in read_info(folder).sites]


def contact_sheet_all(folder: Path, out: Path) -> Path:
    """Write the PNG `out` with training images of both classes of every site.

    Raises:
        DataError: `folder` is not a prepared data folder.
        OutputError: `out` cannot be written.
    """
    sites = read_info(folder).sites
    figure = new_figure(9.6, 0.5 + 2.35 * len(sites))
    grid = figure.subplots(2 * len(sites), 1, squeeze=False)[:, 0]
    for index, site in enumerate(sites):
        _draw_site(list(grid[2 * index : 2 * index + 2]), site, open_site(folder, site).split("train"))
    return save(figure, out)


def class_balance(folder: Path, out: Path) -> Path:
    """Write the PNG `out`: images of each class by site and split.

    Raises:
        DataError: `folder` is not a prepared data folder.
        OutputError: `out` cannot be written.
    """
    info = read_info(folder)
    bars = _bars(info)
    figure = new_figure(9.0, 1.6 + 0.36 * len(bars))
    axes = figure.subplots()
    axes.set_title(f"Images by site, split and class ({info.source})", fontweight="bold", loc="left")
    _draw_bars(axes, bars)
    handles = [Patch(color=c, label=name) for c, name in zip(_CLASS_COLOURS, CLASS_NAMES, strict=True)]
    figure.legend(handles=handles, loc="outside right upper", frameon=False, fontsize=9)
    return save(figure, out)


def _site_sheet(folder: Path, site: str, out: Path) -> Path:
    figure = new_figure(9.6, 3.0)
    _draw_site(list(figure.subplots(2, 1)), site, open_site(folder, site).split("train"))
    return save(figure, out)


def _draw_site(rows: list[Axes], site: str, images: ImageSet) -> None:
    counts = [int((images.labels == label).sum()) for label in range(len(CLASS_NAMES))]
    said = ", ".join(f"{number:,} {name}" for number, name in zip(counts, CLASS_NAMES, strict=True))
    rows[0].set_title(f"{site}: {len(images):,} training images ({said})", loc="left", parse_math=False)
    for label, axes in enumerate(rows):
        axes.set(xticks=[], yticks=[], frame_on=False)
        axes.set_ylabel(CLASS_NAMES[label], fontsize=9)
        _draw_strip(axes, images, label)


def _draw_strip(axes: Axes, images: ImageSet, label: int) -> None:
    chosen = _choose(images, label)
    if not chosen:
        axes.text(0.5, 0.5, "no image of this class", ha="center", va="center", transform=axes.transAxes)
        return
    axes.imshow(_strip(images.images[chosen]), cmap="gray", vmin=0, vmax=255, interpolation="lanczos")


def _choose(images: ImageSet, label: int) -> list[int]:
    """Choose up to eight images of a class, one per patient, spread evenly over the patients."""
    first: dict[str, int] = {}
    for index in np.flatnonzero(images.labels == label).tolist():
        first.setdefault(images.patients[index], index)
    candidates = list(first.values())
    steps = np.linspace(0, len(candidates) - 1, min(_PER_CLASS, len(candidates))).round().astype(int)
    return [candidates[step] for step in steps]


def _strip(pictures: Pixels) -> Pixels:
    """Join pictures (N,S,S) side by side on white; the strip is always as long as eight of them."""
    side = pictures.shape[1]
    step = side + max(1, round(_GAP * side))
    strip = np.full((side, _PER_CLASS * step), 255, np.uint8)
    for place, picture in enumerate(pictures):
        strip[:, place * step : place * step + side] = picture
    return strip


def _bars(info: DatasetInfo) -> list[tuple[str, tuple[int, ...]]]:
    """Return each site's splits in order, the test set last, with the counts by class."""
    return [
        (where if where == split else f"{where} – {split}", tuple(counts[name] for name in CLASS_NAMES))
        for where in (*info.sites, TEST)
        for split in SPLITS
        if (counts := info.counts.get(where, {}).get(split))
    ]


def _draw_bars(axes: Axes, bars: list[tuple[str, tuple[int, ...]]]) -> None:
    places, left = np.arange(len(bars)), np.zeros(len(bars))
    for label, colour in enumerate(_CLASS_COLOURS):
        widths = np.array([counts[label] for _, counts in bars], dtype=float)
        drawn = axes.barh(places, widths, 0.72, left, color=colour)
        left += widths
    # Beside the bar, not in it: a class of a few images has no room for its number.
    said = [" + ".join(f"{number:,}" for number in counts) for _, counts in bars]
    axes.bar_label(drawn, said, padding=4, fontsize=8)
    axes.set_yticks(places, [name for name, _ in bars], parse_math=False)
    axes.set_xlim(0, 1.18 * max(left, default=1))
    axes.invert_yaxis()
    axes.set_xlabel("Images")
    axes.spines[["top", "right"]].set_visible(False)
