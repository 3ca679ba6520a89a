"""Read pixel formats from image files: PNG's chunks and TIFF's tags that Pillow does not handle."""

import struct
import zlib
from collections.abc import Iterator
from typing import Any

from PIL.ImageFile import ImageFile

_PNG = b"\x89PNG\r\n\x1a\n"
_CRITICAL = 0x20
"""This bit of a chunk's first letter is not set where the pixels cannot be read without it."""
_PNG_TAGS = (b"sBIT", b"eXIf")
# Tags of TIFF, version 6.0; 341 is the maximum of samples of any type.
_BITS, PHOTOMETRIC, _MAXIMUM, COLOUR_MAP, SAMPLE_FORMAT, _ANY_MAXIMUM = 258, 262, 281, 320, 339, 341


def without_tags(data: bytes) -> bytes:
    """Return a PNG without the texts and damaged tags for which Pillow would refuse its pixels too."""
    if not data.startswith(_PNG):
        return data
    return _PNG + b"".join(chunk for kind, chunk in _png_chunks(data) if _matters(kind, chunk))


def png_bits(data: bytes) -> int:
    """Return the bits of a gray level, or of red, that a PNG calls significant; 0 where it does not say."""
    if not data.startswith(_PNG):
        return 0
    return next((chunk[8] for kind, chunk in _png_chunks(data) if kind == b"sBIT" and len(chunk) > 12), 0)


def tiff_bits(image: ImageFile) -> int:
    """Return the bits of a gray level that a TIFF's tags tell of, 0 where they tell nothing."""
    tags = tiff_tags(image)
    largest = max(_number(tags.get(tag)) for tag in (_MAXIMUM, _ANY_MAXIMUM))
    return largest.bit_length() or _number(tags.get(_BITS))


def tiff_tags(image: ImageFile) -> dict[int, Any]:
    """Return a TIFF's tags by number; empty for other formats."""
    return dict(getattr(image, "tag_v2", {}))


def with_black_as_zero(data: bytes) -> tuple[bytes, bool]:
    """Return a TIFF of more than 8 bits with black as its zero, and whether white was; other files as they are.

    Only the tag changes, for which Pillow refuses some such files and reads others as negatives.
    """
    try:
        place, order = _tiff_value(data, PHOTOMETRIC)
        bits, _ = _tiff_value(data, _BITS)
        white = struct.unpack_from(order + "H", data, place) == (0,)
        deep = struct.unpack_from(order + "H", data, bits) > (8,)
    except (struct.error, LookupError):
        return data, False
    if not (white and deep):
        return data, False
    return data[:place] + struct.pack(order + "H", 1) + data[place + 2 :], True


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    start = len(_PNG)
    while start + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, start)
        yield kind, data[start : start + 12 + length]
        start += 12 + length


def _matters(kind: bytes, chunk: bytes) -> bool:
    if not kind[0] & _CRITICAL:
        return True
    return kind in _PNG_TAGS and zlib.crc32(chunk[4:-4]).to_bytes(4, "big") == chunk[-4:]


def _tiff_value(data: bytes, tag: int) -> tuple[int, str]:
    """Find where the first picture's `tag` has its value, and in which byte order; `LookupError` without it."""
    order = {b"II": "<", b"MM": ">"}[data[:2]]
    big = struct.unpack_from(order + "H", data, 2) == (43,)
    width, count = ("Q", "Q") if big else ("I", "H")
    entry, value = (20, 12) if big else (12, 8)
    (start,) = struct.unpack_from(order + width, data, 8 if big else 4)
    (number,) = struct.unpack_from(order + count, data, start)
    first = start + struct.calcsize(count)
    for place in range(first, first + min(number, 1000) * entry, entry):
        if struct.unpack_from(order + "H", data, place) == (tag,):
            return place + value, order
    raise LookupError(tag)


def _number(value: Any) -> int:
    """Return the largest of a tag's values; 0 when one is not a number from 0 up."""
    values = value if isinstance(value, tuple) else (value,)
    return max((int(one) for one in values if isinstance(one, int | float) and one >= 0), default=0)
