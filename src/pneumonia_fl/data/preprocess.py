"""From the bytes of an X-ray to the model's input: decode, scale, normalise.

The same three functions serve preparation, training, evaluation, prediction and the page, so that a model
never meets pixels made in another way. `decode` and `scale` need Pillow and NumPy only: workers start fast.

Covered: JPEG, PNG, TIFF, BMP, GIF, WebP and PNM; gray, colour, palette, CMYK, alpha, 1 to 16 bits, white as zero.
Not covered: DICOM, 32-bit and floating-point pixels, keeping the aspect ratio (images are squashed to a
square).
"""

import ctypes
import io
import logging
import re
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image, _imaging
from PIL.ImageFile import ImageFile

from pneumonia_fl.config.sections import Preprocess
from pneumonia_fl.data.image_tags import with_black_as_zero, without_tags
from pneumonia_fl.data.pixels import BYTE, gray
from pneumonia_fl.errors import DataError
from pneumonia_fl.inputs.file_kinds import HEAD, foreign, is_text
from pneumonia_fl.inputs.text import printable

if TYPE_CHECKING:
    import torch

MAX_PIXELS = 100_000_000
_TOO_LARGE = f"too large: {{}}the limit is {MAX_PIXELS // 10**6} million pixels"
_TIFF = (b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+")
_PILLOW = re.compile(r"PIL\.")
# Raster formats with a decoder inside Pillow; PostScript and the like would start other programs.
FORMATS = ("JPEG", "PNG", "TIFF", "BMP", "GIF", "WEBP", "PPM")
FILTERS = {
    "box": Image.Resampling.BOX,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}
# Below this SD (of 255 gray levels) an image is blank; dividing by less would only amplify compression noise.
MIN_SD = 1.0


@dataclass(frozen=True, slots=True)
class Decoded:
    """A decoded image: pixels, uint8 (size, size); width, height and bits of a gray level as they are in the file."""

    pixels: NDArray[np.uint8]
    width: int
    height: int
    bits: int = BYTE


def decode(data: bytes, spec: Preprocess) -> Decoded:
    """Decode an image file to `spec.size` squared gray pixels.

    Raises:
        DataError: the bytes are no image, are cut off, or hold more than 100 million pixels.
    """
    _hush_pillow()
    data, white_is_zero = with_black_as_zero(without_tags(data))
    image = _open(data)
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise DataError(_TOO_LARGE.format(f"{width} x {height} pixels, "))
    try:
        # JPEG only: decode at 1/2, 1/4 or 1/8. Twice the wanted size leaves anti-aliasing to the filter below.
        image.draft("L", (2 * spec.size, 2 * spec.size))
        levels, bits = gray(image, data, white_is_zero)
        return Decoded(_squash(levels, spec), width, height, bits)
    except (DataError, MemoryError):
        raise
    except Exception as error:  # `data` is in memory: whatever a decoder raises here, the file is the reason
        raise DataError(f"damaged image: {printable(error) or type(error).__name__}") from None


def scale(pixels: NDArray[np.uint8], spec: Preprocess) -> NDArray[np.uint8]:
    """Scale gray pixels (H, W) to (size, size) as `decode` would.

    Raises:
        DataError: `pixels` is not a non-empty uint8 matrix.
    """
    if pixels.dtype != np.uint8 or pixels.ndim != 2 or 0 in pixels.shape:
        raise DataError(f"expected a uint8 image (height, width), got {pixels.dtype} {pixels.shape}")
    return _squash(Image.fromarray(pixels), spec)


def normalise(batch: "torch.Tensor", spec: Preprocess) -> "torch.Tensor":
    """Convert gray levels 0–255 (N, S, S), uint8 or float, to the model's input, float32 (N, 1, S, S).

    A blank image becomes zeros under `per_image`.
    """
    levels = batch.unsqueeze(1).float()
    if spec.normalisation == "fixed":
        return (levels - 255.0 * spec.mean) / (255.0 * spec.std)
    # Not torch.std_mean: over several dimensions it is 8 times slower than these two means.
    centred = levels - levels.mean((2, 3), keepdim=True)
    sd = centred.square().mean((2, 3), keepdim=True).sqrt()
    return centred / sd.clamp_min(MIN_SD)


def _open(data: bytes) -> ImageFile:
    if not data:
        raise DataError("the file is empty")
    try:
        return Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.DecompressionBombError:
        raise DataError(_TOO_LARGE.format("")) from None
    except MemoryError:
        raise
    except Exception:
        raise DataError(_what_else(data)) from None


def _hush_pillow() -> None:
    """Silence Pillow's and libtiff's remarks on odd files: a file is read, or an error says why not.

    Not `warnings.catch_warnings`, which is not made for the threads that decode side by side.
    """
    if any(action == "ignore" and module == _PILLOW for action, _, _, module, _ in warnings.filters):
        return
    warnings.filterwarnings("ignore", module=_PILLOW.pattern)
    logging.getLogger("PIL").setLevel(logging.CRITICAL)
    silence = getattr(ctypes.CDLL(_imaging.__file__), "TIFFSetErrorHandler", None)
    if silence is not None:  # not where Pillow has libtiff inside itself
        silence(None)


def _what_else(data: bytes) -> str:
    if data[:4] in _TIFF:
        return "a TIFF whose kind of pixels is not known; export the image as gray with 8 or 16 bits"
    words = foreign(data[:HEAD])
    if not is_text(data[:HEAD]):
        what = f": {words}" if words else ""
        return f"not a readable image{what} (accepted: {', '.join(FORMATS)})"
    return f"text, not an image{'' if words == 'text' else f': {words}'} (accepted: {', '.join(FORMATS)})"


def _squash(gray: Image.Image, spec: Preprocess) -> NDArray[np.uint8]:
    side = (spec.size, spec.size)
    scaled = gray if gray.size == side else gray.resize(side, FILTERS[spec.interpolation])
    return np.array(scaled, dtype=np.uint8)
