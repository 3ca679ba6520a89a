"""Image files: those that Pillow writes, and TIFF and PNG with any tag, byte order and depth."""

import io
import struct
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image

Array = np.ndarray[Any, Any]
Values = bytes | list[int]
"""A TIFF tag's: text, or numbers of 16 bits; of 32 where one is larger."""


def tiff(
    levels: Array,
    photometric: int | None = 1,
    order: str = "<",
    packed: bool = False,
    tags: Mapping[int, Values] | None = None,
    content: bytes | None = None,
) -> bytes:
    """A TIFF of one strip; `content` stands for the bytes of `levels` where these are packed otherwise."""
    height, width, *more = levels.shape
    samples = more[0] if more else 1
    data = content if content is not None else levels.astype(levels.dtype.newbyteorder(order)).tobytes()
    data = zlib.compress(data) if packed else data
    entries: dict[int, Values] = {
        256: [width],
        257: [height],
        258: [levels.dtype.itemsize * 8] * samples,
        259: [8 if packed else 1],
        277: [samples],
        278: [height],
        279: [len(data)],
        **({} if photometric is None else {262: [photometric]}),
        **(tags or {}),
    }
    return _file(entries, data, order)


def _file(entries: dict[int, Values], data: bytes, order: str) -> bytes:
    end = 8 + 2 + 12 * (len(entries) + 1) + 4
    outside = sum(len(_raw(values, order)) for values in entries.values() if len(_raw(values, order)) > 4)
    table, extra = b"", b""
    for tag, values in sorted({**entries, 273: [end + outside]}.items()):
        raw = _raw(values, order)
        place = struct.pack(order + "I", end + len(extra)) if len(raw) > 4 else raw.ljust(4, b"\0")
        extra += raw if len(raw) > 4 else b""
        table += struct.pack(order + "HHI", tag, _kind(values), len(values)) + place
    head = (b"II" if order == "<" else b"MM") + struct.pack(order + "HIH", 42, 8, len(entries) + 1)
    return head + table + bytes(4) + extra + data


def _kind(values: Values) -> int:
    return 2 if isinstance(values, bytes) else 4 if max(values) > 0xFFFF else 3


def _raw(values: Values, order: str) -> bytes:
    if isinstance(values, bytes):
        return values
    return struct.pack(f"{order}{len(values)}{'I' if _kind(values) == 4 else 'H'}", *values)


def pack_12_bits(levels: Array) -> bytes:
    """Two levels of 12 bits in three bytes."""
    pairs = levels.reshape(-1, 2).astype(np.uint16)
    first, second = pairs[:, 0], pairs[:, 1]
    middle = ((first & 15) << 4) | (second >> 8)
    return np.stack([first >> 4, middle, second & 255], 1).astype(np.uint8).tobytes()


def png(levels: Array, extra: bytes = b"") -> bytes:
    """A PNG of gray, gray and alpha, RGB or RGBA by the number of channels; `extra` are chunks before the pixels."""
    height, width, *more = levels.shape
    colour = {1: 0, 2: 4, 3: 2, 4: 6}[more[0] if more else 1]
    rows = levels.astype(levels.dtype.newbyteorder(">")).reshape(height, -1)
    header = struct.pack(">IIBBBBB", width, height, levels.dtype.itemsize * 8, colour, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    chunks = chunk(b"IHDR", header) + extra + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def chunk(kind: bytes, content: bytes, damage: int = 0) -> bytes:
    checksum = zlib.crc32(kind + content) ^ damage
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)


def smooth(height: int = 96, width: int = 64) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """A gray picture without fine detail, so that any good scaling gives nearly the same pixels."""
    y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    return (40 + 170 * np.sin(3 * y + 1) ** 2 * (0.3 + 0.7 * x)).astype(np.uint8)


def encode(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()
