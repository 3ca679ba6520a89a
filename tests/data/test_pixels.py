"""What the numbers in an image file mean: the same picture in every coding gives the same gray levels."""

import io
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from image_files import chunk, encode, pack_12_bits, png, smooth, tiff
from PIL import Image

from pneumonia_fl.config.sections import Preprocess
from pneumonia_fl.data.preprocess import decode
from pneumonia_fl.errors import DataError

SIDE = 32
GRAY = smooth(SIDE, SIDE)
DEPTHS = [8, 10, 12, 14, 16]
ORDERS = pytest.mark.parametrize("order", "<>")
PACKED = pytest.mark.parametrize("packed", [False, True])


def pixels(data: bytes) -> Any:
    return decode(data, Preprocess(size=SIDE)).pixels


def bits(data: bytes) -> int:
    return decode(data, Preprocess(size=SIDE)).bits


def levels(depth: int) -> Any:
    """The picture in so many bits of 16."""
    return GRAY.astype(np.uint16) << (depth - 8)


def pnm(kind: str, content: Any, maximum: int) -> bytes:
    return f"{kind} {SIDE} {SIDE} {maximum}\n".encode() + content.astype(">u2").tobytes()


@pytest.mark.parametrize("depth", DEPTHS)
def test_a_depth_that_is_not_told_is_that_of_the_brightest_pixel(depth: int) -> None:
    picture, opaque = levels(depth), np.full((SIDE, SIDE), 0xFFFF, np.uint16)
    for data in (
        png(picture),
        tiff(picture),
        tiff(picture, order=">"),
        tiff(picture.astype(np.int32), tags={339: [2]}),
        pnm("P5", picture, 0xFFFF),
        png(np.dstack([picture, opaque])),
        png(np.dstack([picture] * 3)),
        png(np.dstack([picture] * 3 + [opaque])),
        tiff(np.dstack([picture] * 3), 2),
        tiff(np.dstack([picture] * 3), 2, order=">", packed=True),
    ):
        assert np.array_equal(pixels(data), GRAY)
    assert bits(png(picture)) == depth


@pytest.mark.parametrize("depth", [10, 12, 14])
def test_a_depth_that_the_file_tells_is_believed(depth: int) -> None:
    dark, full = levels(depth) // 4, (1 << depth) - 1
    for data in (
        png(dark, chunk(b"sBIT", bytes([depth]))),
        tiff(dark, tags={281: [full]}),
        tiff(dark, tags={341: [full]}),
        tiff(full - dark, 0, tags={281: [full]}),
        pnm("P5", dark, full),
    ):
        assert np.array_equal(pixels(data), GRAY // 4)
        assert bits(data) == depth


def test_twelve_packed_bits_are_twelve_bits() -> None:
    dark = levels(12) // 4
    for photometric, stored in ((1, dark), (0, 4095 - dark)):
        data = tiff(stored, photometric, content=pack_12_bits(stored), tags={258: [12]})
        assert np.array_equal(pixels(data), GRAY // 4)


def test_a_depth_that_the_pixels_exceed_is_not_believed() -> None:
    for data in (
        png(levels(16), chunk(b"sBIT", b"\x0c")),  # as PNG wants it: the upper bits of 16
        png(levels(16), chunk(b"sBIT", b"\x0c", damage=1)),
        tiff(levels(16), tags={281: [100]}),
        tiff(levels(16), tags={281: b"white"}),
    ):
        assert np.array_equal(pixels(data), GRAY)


@PACKED
@ORDERS
@pytest.mark.parametrize("depth", DEPTHS)
def test_white_as_zero_is_inverted(depth: int, order: str, packed: bool) -> None:
    for white in ((1 << depth) - 1, 0xFFFF):  # by the picture's depth, or by the file's
        negative = (white - levels(depth)).astype(np.uint16)
        assert np.array_equal(pixels(tiff(negative, 0, order, packed)), GRAY)
    assert np.array_equal(pixels(tiff(255 - GRAY, 0, order, packed)), GRAY)


@PACKED
@ORDERS
def test_signed_levels_are_read_from_zero_up_and_refused_below(order: str, packed: bool) -> None:
    signed = {339: [2]}
    assert np.array_equal(pixels(tiff(levels(12).astype(np.int16), 1, order, packed, signed)), GRAY)
    for negative in (levels(12).astype(np.int16) - 1024, (GRAY.astype(int) - 128).astype(np.int8)):
        with pytest.raises(DataError, match="levels below 0"):
            pixels(tiff(negative, 1, order, packed, signed))


@pytest.mark.parametrize("largest", [255, 0xFFFF])
def test_a_palette_of_8_bits_where_16_are_due_is_not_black(largest: int) -> None:
    ramp = [level * largest // 255 for level in range(256)]
    assert np.array_equal(pixels(tiff(GRAY, 3, tags={320: ramp * 3})), GRAY)
    assert np.array_equal(pixels(tiff(255 - GRAY, 3, tags={320: ramp[::-1] * 3})), GRAY)


def test_sixteen_bit_ink_is_as_dark_as_it_was() -> None:
    ink = np.zeros((SIDE, SIDE, 4), np.uint16)
    ink[..., 3] = 0xFFFF - levels(16)
    assert np.abs(pixels(tiff(ink, 5)).astype(int) - GRAY).max() <= 1


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (tiff(GRAY, None), "PhotometricInterpretation"),
        (tiff(levels(16), None), "PhotometricInterpretation"),
        (tiff(np.dstack([GRAY] * 3), 8), "CIELab"),
        (tiff(GRAY.astype(np.float32), tags={339: [3]}), "floating-point"),
        (tiff(GRAY.astype(np.float64), tags={339: [3]}), "a TIFF whose kind of pixels is not known"),
        (tiff(np.dstack([levels(12)] * 2), tags={338: [2]}), "a TIFF whose kind of pixels is not known"),
        (tiff(np.dstack([levels(12)] * 3), 2, tags={284: [2]}), "16-bit colours in separate planes"),
        (pnm("P6", np.dstack([levels(12)] * 3), 0xFFFF), "16-bit colours that use fewer bits"),
    ],
)
def test_what_has_no_certain_black_and_white_is_refused_by_name(data: bytes, reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        pixels(data)


def exif(*entries: tuple[int, int, int, bytes]) -> bytes:
    """Exif data of tags, each with type, count and its value or where it lies."""
    table = b"".join(struct.pack("<HHI", *entry[:3]) + entry[3].ljust(4, b"\0") for entry in entries)
    return b"Exif\0\0II*\0" + struct.pack("<IH", 8, len(entries)) + table + bytes(4) + bytes(8)


SIDEWAYS = (274, 3, 1, b"\6")


@pytest.mark.parametrize(
    "entry",
    [
        (282, 5, 1, struct.pack("<I", 38)),  # XResolution 0/0
        (282, 10, 1, struct.pack("<I", 38)),
        (282, 2, 4, b"abc"),
        (282, 5, 1, struct.pack("<I", 9_999_999)),
        (270, 2, 0x7FFFFFFF, b"abcd"),
        (296, 77, 1, b"\2"),
    ],
)
def test_a_bad_tag_beside_the_pixels_does_not_matter(entry: tuple[int, int, int, bytes]) -> None:
    upright = Image.fromarray(GRAY)
    for kind, options in (("JPEG", {"quality": 95}), ("PNG", {}), ("WEBP", {"lossless": True})):
        data = encode(
            upright.transpose(Image.Transpose.ROTATE_90), kind, exif=exif(SIDEWAYS, entry), **options
        )
        assert np.abs(pixels(data).astype(int) - GRAY).max() <= 4


@pytest.mark.parametrize("value", [(274, 2, 4, b"abc"), (274, 3, 1, b"\x63"), (274, 5, 1, b"\x26")])
def test_an_orientation_that_is_none_turns_nothing(value: tuple[int, int, int, bytes]) -> None:
    data = encode(Image.fromarray(GRAY), "PNG", exif=exif(value))
    assert np.array_equal(pixels(data), GRAY)


@pytest.mark.parametrize(
    ("kind", "content"),
    [
        (b"tEXt", b"a\0b"),
        (b"zTXt", b"a\0\0" + zlib.compress(bytes(3_000_000))),
        (b"iCCP", b"x\0\0" + zlib.compress(bytes(3_000_000))),
        (b"pHYs", b"abc"),
        (b"tRNS", b""),
        (b"sBIT", b""),
        (b"eXIf", b""),
    ],
)
@pytest.mark.parametrize("damage", [0, 1])
def test_a_damaged_chunk_beside_the_pixels_does_not_matter(kind: bytes, content: bytes, damage: int) -> None:
    assert np.array_equal(pixels(png(GRAY, chunk(kind, content, damage))), GRAY)


@pytest.mark.parametrize("tag", [270, 282, 283, 296, 700, 34665])
def test_a_damaged_tag_of_a_tiff_does_not_matter(tag: int) -> None:
    assert np.array_equal(pixels(tiff(GRAY, tags={tag: b"<x?>\xff\xfe"})), GRAY)


def test_nothing_that_pillow_and_libtiff_remark_reaches_the_terminal(tmp_path: Path) -> None:
    transparent = io.BytesIO()
    Image.fromarray(GRAY).convert("P").save(transparent, "PNG", transparency=bytes(200))
    files = {
        "transparent palette": transparent.getvalue(),
        "odd tags": tiff(GRAY, tags={339: [1, 1, 1], 33432: [70_000] * 3}),
        "cut": tiff(levels(12), packed=True)[:-100],
        "many samples": tiff(np.dstack([GRAY] * 9), tags={338: [0] * 8}),
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    code = (
        "import sys, pathlib\n"
        "from pneumonia_fl.data.preprocess import decode\n"
        "from pneumonia_fl.errors import DataError\n"
        "from pneumonia_fl.config.sections import Preprocess\n"
        "for path in sys.argv[1:]:\n"
        "    try: decode(pathlib.Path(path).read_bytes(), Preprocess())\n"
        "    except DataError: pass\n"
    )
    words = [sys.executable, "-W", "always", "-c", code, *(str(tmp_path / name) for name in files)]
    assert subprocess.run(words, capture_output=True, text=True, check=True).stderr == ""
