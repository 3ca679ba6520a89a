"""Convert an opened picture to 8-bit gray, upright, with black as 0.

Pictures of 10 or 12 bits often lie in files of 16. Their real depth is what the file says of it (PNG's `sBIT`, TIFF's
`BitsPerSample` and `MaxSampleValue`, PNM's maximum), else the largest gray level rounded up to a power of two.
"""

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.Image import Transpose
from PIL.ImageFile import ImageFile, _Tile

from pneumonia_fl.data.image_tags import (
    COLOUR_MAP,
    PHOTOMETRIC,
    SAMPLE_FORMAT,
    png_bits,
    tiff_bits,
    tiff_tags,
)
from pneumonia_fl.errors import DataError

Levels = NDArray[np.int32]
BYTE, WORD = 8, 16
_FULL = 0xFFFF
_GRAY_WITH_ALPHA = "LA;16B"
_ORIENTATION, _SIGNED = 274, 2
_TURNS = {
    2: Transpose.FLIP_LEFT_RIGHT,
    3: Transpose.ROTATE_180,
    4: Transpose.FLIP_TOP_BOTTOM,
    5: Transpose.TRANSPOSE,
    6: Transpose.ROTATE_270,
    7: Transpose.TRANSVERSE,
    8: Transpose.ROTATE_90,
}
# Pillow reads the upper byte of 16-bit colours; the unpacker of the other byte order finds the lower one there.
_LOWER_BYTE = {
    "RGB;16B": "RGB;16L",
    "RGB;16L": "RGB;16B",
    "RGB;16N": "RGB;16B",
    "RGBA;16B": "RGBA;16L",
    "RGBA;16L": "RGBA;16B",
    "RGBA;16N": "RGBA;16B",
    _GRAY_WITH_ALPHA: "RGBA",
}
_LUMA = np.array([299, 587, 114], np.int32)
"""Red, green and blue in 1000 parts of gray (ITU-R BT.601), as Pillow turns colours into gray."""


def gray(image: ImageFile, data: bytes, white_is_zero: bool = False) -> tuple[Image.Image, int]:
    """Load a picture that was opened from the file `data`; return it as 8-bit gray, and the bits of its gray levels.

    Alpha is dropped. `white_is_zero` concerns pictures of more than 8 bits; Pillow inverts the others itself.

    Raises:
        DataError: it cannot be known what is black and what is white, or there is too much between them for 16 bits.
        Exception: Pillow's decoders raise nearly anything on damaged bytes.
    """
    _refuse(image)
    maximum, raw = _pnm_maximum(image), _raw_mode(image)
    known = png_bits(data) or tiff_bits(image) or maximum.bit_length()
    _load(image)
    turn = _turn(image)
    if image.mode.startswith("I"):
        shown, bits = _as_bytes(_levels(image, maximum), known, white_is_zero)
    elif (";16" in raw or maximum == _FULL) and _is_dark(image):
        shown, bits = _as_bytes(_wide_colours(image, raw, data), known, False)
    else:
        shown, bits = _eight_bits(image), BYTE
    return shown if turn is None else shown.transpose(turn), bits


def _refuse(image: ImageFile) -> None:
    tags = tiff_tags(image)
    if image.mode == "F":
        raise DataError("floating-point pixels; export the image with 8 or 16 bits")
    if image.mode == "LAB":
        raise DataError("CIELab colours; export the image as gray")
    if tags and PHOTOMETRIC not in tags:
        raise DataError("no PhotometricInterpretation: black and white cannot be told apart; export it again")
    if len(_raw_mode(image)) == 1 and image.mode == "RGB" and tiff_bits(image) > BYTE:
        raise DataError("16-bit colours in separate planes; export the image as gray")


def _raw_mode(image: ImageFile) -> str:
    """Return Pillow's name for the pixel layout in the file."""
    args = image.tile[0].args if image.tile else ""
    return str(args[0] if isinstance(args, tuple) else args)


def _with_raw_mode(tile: _Tile, raw: str) -> _Tile:
    return tile._replace(args=(raw, *tile.args[1:]) if isinstance(tile.args, tuple) else raw)


def _pnm_maximum(image: ImageFile) -> int:
    """Return the maximum level of a PNM file, which Pillow has scaled to white; 0 for other formats."""
    args = image.tile[0].args if image.tile else ()
    return int(args[1]) if image.format == "PPM" and isinstance(args, tuple) and len(args) == 2 else 0


def _load(image: ImageFile) -> None:
    """Load all pixels; signed big-endian ones out of a compressed TIFF too, whose bytes Pillow would swap."""
    if image.format == "TIFF":  # has an Orientation of its own; XMP of another type would stop Pillow
        image.info.pop("xmp", None)
    tile = image.tile[0] if image.tile else None
    if tile is not None and tile.codec_name == "libtiff" and _raw_mode(image) in ("I;16BS", "I;32BS"):
        image.tile = [_with_raw_mode(tile, _raw_mode(image).replace("B", ""))]
    image.load()


def _turn(image: ImageFile) -> Transpose | None:
    """Return the rotation that makes the picture upright; damaged Exif data means none."""
    if image.format == "TIFF":  # Pillow has done it
        return None
    try:
        return _TURNS.get(image.getexif().get(_ORIENTATION, 1))
    except MemoryError:
        raise
    except Exception:
        return None


def _levels(image: ImageFile, pnm_maximum: int) -> Levels:
    levels: Levels = np.asarray(image).astype(np.int32)
    if levels.min() < 0 or levels.max() > _FULL:
        raise DataError("more than 16 bits per pixel, or levels below 0; export the image with 8 or 16 bits")
    if pnm_maximum:
        levels = np.rint(levels * (pnm_maximum / _FULL)).astype(np.int32)
    return levels


def _as_bytes(levels: Levels, known: int, white_is_zero: bool) -> tuple[Image.Image, int]:
    """Scale levels of `known` bits (0 or 16: they may be fewer) to 8."""
    bits = _depth(levels, known)
    if white_is_zero:
        levels = (1 << bits) - 1 - levels
        bits = _depth(levels, known)
    return Image.fromarray((levels >> (bits - BYTE)).astype(np.uint8)), bits


def _depth(levels: Levels, known: int) -> int:
    used = max(BYTE, int(levels.max()).bit_length())
    return known if used <= known < WORD else used


def _is_dark(image: ImageFile) -> bool:
    """Return True when no colour uses the highest bit; alpha is ignored."""
    bands = 4 if image.mode == "CMYK" else 3
    return bool(np.asarray(image)[..., :bands].max() < 128)


def _wide_colours(image: ImageFile, raw: str, data: bytes) -> Levels:
    """Return 16-bit colours as gray of 16 bits; `image` holds the upper bytes."""
    if raw not in _LOWER_BYTE:
        raise DataError("16-bit colours that use fewer bits; export the image as gray")
    again = Image.open(io.BytesIO(data))
    again.tile = [_with_raw_mode(tile, _LOWER_BYTE[raw]) for tile in again.tile]
    again.load()
    upper: Levels = np.asarray(image).astype(np.int32)
    lower: Levels = np.asarray(again).astype(np.int32)
    if raw == _GRAY_WITH_ALPHA:
        return (upper[..., 0] << BYTE) + lower[..., 1]
    colours = (upper << BYTE) + lower
    return (colours[..., :3] @ _LUMA + 500) // 1000


def _eight_bits(image: ImageFile) -> Image.Image:
    tags = tiff_tags(image)
    if image.mode == "L":
        if tags.get(SAMPLE_FORMAT) in (_SIGNED, (_SIGNED,)) and np.asarray(image).max() > 127:
            raise DataError("signed levels below 0; export the image with 8 or 16 bits")
        return image
    colours = tags.get(COLOUR_MAP)
    # Some programs write 8 bits where 16 are due; Pillow would take all of them for black.
    if image.mode == "P" and colours and max(colours) <= 0xFF:
        image.putpalette(bytes(np.array(colours, np.uint8).reshape(3, -1).T.tobytes()))
    return image.convert("LA" if image.mode == "La" else "RGB").convert("L")
