"""From the bytes of an X-ray to the model's input: decode, scale, normalise.

The same three functions serve preparation, training, evaluation, prediction and the page, so that a model
never meets pixels made in another way. `decode` and `scale` need Pillow and NumPy only: workers start fast.

Covered: JPEG, PNG, TIFF, BMP, GIF, WebP and PNM; gray, colour, palette, CMYK, alpha, 1, 8 and 16 bits.
Not covered: DICOM, 32-bit and floating-point pixels, keeping the aspect ratio (images are squashed to a
square).
"""

import io
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from pneumonia_fl.errors import DataError
from pneumonia_fl.sections import Preprocess

if TYPE_CHECKING:
    import torch

MAX_PIXELS = 100_000_000
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
    """A decoded image: its scaled pixels, uint8 (size, size), and its original width and height in pixels."""

    pixels: NDArray[np.uint8]
    width: int
    height: int


def decode(data: bytes, spec: Preprocess) -> Decoded:
    """Decode an image file to `spec.size` squared gray pixels.

    Raises:
        DataError: the bytes are no image, are cut off, or hold more than 100 million pixels.
    """
    image = _open(data)
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise DataError(f"too large: {width} x {height} pixels, the limit is {MAX_PIXELS // 10**6} million")
    # JPEG only: decode at 1/2, 1/4 or 1/8. Twice the wanted size leaves anti-aliasing to the filter below.
    image.draft("L", (2 * spec.size, 2 * spec.size))
    try:
        ImageOps.exif_transpose(image, in_place=True)
        gray = _gray(image)
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise DataError(f"damaged image: {error}") from None
    return Decoded(_squash(gray, spec), width, height)


def scale(pixels: NDArray[np.uint8], spec: Preprocess) -> NDArray[np.uint8]:
    """Scale gray pixels (H, W) to (size, size) as `decode` would.

    Raises:
        DataError: `pixels` is not a non-empty uint8 matrix.
    """
    if pixels.dtype != np.uint8 or pixels.ndim != 2 or 0 in pixels.shape:
        raise DataError(f"expected a uint8 image (height, width), got {pixels.dtype} {pixels.shape}")
    return _squash(Image.fromarray(pixels), spec)


def normalise(batch: "torch.Tensor", spec: Preprocess) -> "torch.Tensor":
    """Turn gray levels 0–255 (N, S, S), uint8 or float, into the model's input, float32 (N, 1, S, S).

    A blank image becomes zeros under `per_image`.
    """
    levels = batch.unsqueeze(1).float()
    if spec.normalisation == "fixed":
        return (levels - 255.0 * spec.mean) / (255.0 * spec.std)
    # Not torch.std_mean: over several dimensions it is 8 times slower than these two means.
    centred = levels - levels.mean((2, 3), keepdim=True)
    sd = centred.square().mean((2, 3), keepdim=True).sqrt()
    return centred / sd.clamp_min(MIN_SD)


def _open(data: bytes) -> Image.Image:
    if not data:
        raise DataError("the file is empty")
    try:
        with warnings.catch_warnings():
            # Pillow warns from 89 and refuses from 179 million pixels; our own limit lies between.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            return Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.DecompressionBombError:
        raise DataError(f"too large: the limit is {MAX_PIXELS // 10**6} million pixels") from None
    except (OSError, SyntaxError, ValueError, EOFError):
        kind = "text, not an image" if _is_text(data) else "not a readable image"
        raise DataError(f"{kind} (accepted: {', '.join(FORMATS)})") from None


def _is_text(data: bytes) -> bool:
    head = data[:256]
    return all(byte in b"\t\n\r\f" or byte >= 32 for byte in head) and b"\x00" not in head


def _gray(image: Image.Image) -> Image.Image:
    """Load all pixels and return them as 8-bit gray; alpha is dropped."""
    image.load()
    if image.mode == "L":
        return image
    if image.mode.startswith("I"):
        return _gray_from_16_bits(np.asarray(image))
    if image.mode == "F":
        raise ValueError("floating-point pixels; export the image with 8 or 16 bits")
    return image.convert("RGB").convert("L")


def _gray_from_16_bits(levels: NDArray[np.generic]) -> Image.Image:
    wide = levels.astype(np.int64)
    if wide.min() < 0 or wide.max() > 0xFFFF:
        raise ValueError("more than 16 bits per pixel; export the image with 8 or 16 bits")
    return Image.fromarray((wide >> 8).astype(np.uint8))


def _squash(gray: Image.Image, spec: Preprocess) -> NDArray[np.uint8]:
    side = (spec.size, spec.size)
    scaled = gray if gray.size == side else gray.resize(side, FILTERS[spec.interpolation])
    return np.array(scaled, dtype=np.uint8)
