import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from image_files import encode, smooth
from PIL import Image

from pneumonia_fl.config.sections import Preprocess
from pneumonia_fl.data import preprocess
from pneumonia_fl.data.preprocess import decode, normalise, scale
from pneumonia_fl.errors import DataError

SPEC = Preprocess(size=32)


def gray() -> Image.Image:
    return Image.fromarray(smooth())


def test_decode_returns_the_square_and_the_original_size() -> None:
    decoded = decode(encode(gray()), SPEC)
    assert decoded.pixels.shape == (32, 32)
    assert decoded.pixels.dtype == np.uint8
    assert (decoded.width, decoded.height) == (64, 96)


def test_an_image_of_the_right_size_is_not_resampled() -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (32, 32), dtype=np.uint8)
    assert np.array_equal(decode(encode(Image.fromarray(pixels)), SPEC).pixels, pixels)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "P", "CMYK", "YCbCr"])
def test_every_colour_mode_becomes_the_same_gray(mode: str) -> None:
    kind = "TIFF" if mode in {"CMYK", "YCbCr"} else "PNG"
    decoded = decode(encode(gray().convert("RGB").convert(mode), kind), SPEC)
    expected = decode(encode(gray()), SPEC).pixels
    # A palette of 216 colours holds few grays.
    tolerance = 16 if mode == "P" else 3
    assert np.abs(decoded.pixels.astype(int) - expected).max() <= tolerance


def test_a_cmyk_jpeg_is_gray_and_not_inverted() -> None:
    decoded = decode(encode(gray().convert("CMYK"), "JPEG", quality=95), SPEC)
    assert np.abs(decoded.pixels.astype(int) - decode(encode(gray()), SPEC).pixels).max() <= 4


def test_one_bit_images_become_black_and_white() -> None:
    decoded = decode(encode(Image.fromarray(smooth() > 128)), SPEC)
    assert decoded.pixels.min() == 0
    assert decoded.pixels.max() == 255


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_sixteen_bits_are_scaled_and_not_clipped(kind: str) -> None:
    decoded = decode(encode(Image.fromarray(smooth().astype(np.uint16) * 256 + 17), kind), SPEC)
    assert np.abs(decoded.pixels.astype(int) - decode(encode(gray()), SPEC).pixels).max() <= 1


def test_a_large_jpeg_gives_nearly_the_pixels_of_its_scaled_copy() -> None:
    large = Image.fromarray(smooth(1317, 1858))
    small = large.resize((224, 224), Image.Resampling.BICUBIC)
    spec = Preprocess(size=128)
    first, second = (decode(encode(image, "JPEG", quality=90), spec).pixels for image in (large, small))
    assert np.abs(first.astype(int) - second).mean() < 1


def test_a_photographed_film_is_turned_upright() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying on its side
    data = encode(gray().transpose(Image.Transpose.ROTATE_90), "JPEG", exif=exif, quality=95)
    assert np.abs(decode(data, SPEC).pixels.astype(int) - decode(encode(gray()), SPEC).pixels).mean() < 3


def test_arrays_are_scaled_as_files_are() -> None:
    assert np.array_equal(scale(smooth(), SPEC), decode(encode(gray()), SPEC).pixels)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"<html>Not found</html>\n", "text, not an image"),
        (bytes(128) + b"DICM" + bytes(100), "not a readable image: a DICOM file; export"),
        (b"\x1f\x8b\x08" + bytes(40), "not a readable image: packed"),
        (bytes(range(256)), "not a readable image"),
        (encode(gray(), "JPEG")[:-100], "damaged"),
        (encode(gray(), "PNG")[:-400], "damaged"),
        (encode(gray(), "JPEG")[:30], "not a readable image"),
        (encode(Image.fromarray(smooth().astype(np.float32)), "TIFF"), "floating-point"),
        (encode(Image.fromarray(smooth().astype(np.int32) * 9999), "TIFF"), "more than 16 bits"),
    ],
)
def test_a_file_that_is_no_image_says_why(data: bytes, reason: str) -> None:
    with pytest.raises(DataError, match=reason) as caught:
        decode(data, SPEC)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("side", [10_001, 14_000])
def test_a_decompression_bomb_is_refused_before_it_is_decoded(side: int) -> None:
    bomb = encode(Image.new("1", (side, side)), "PNG")
    with pytest.raises(DataError, match="the limit is 100 million"):
        decode(bomb, SPEC)


@pytest.mark.parametrize(
    "pixels", [np.zeros((0, 4), np.uint8), np.zeros((4, 4)), np.zeros((4, 4, 3), np.uint8)]
)
def test_scale_refuses_what_is_no_gray_image(pixels: Any) -> None:
    with pytest.raises(DataError, match="uint8 image"):
        scale(pixels, SPEC)


def test_per_image_normalisation_forgets_gain_and_offset() -> None:
    levels = torch.from_numpy(smooth(32, 32).astype(np.float32))[None]
    first, second = normalise(levels, SPEC), normalise(0.5 * levels + 20, SPEC)
    assert first.shape == (1, 1, 32, 32)
    assert first.mean().abs() < 1e-5
    assert abs(first.std(correction=0) - 1) < 1e-5
    torch.testing.assert_close(first, second, atol=1e-4, rtol=0)


def test_a_blank_image_becomes_zeros() -> None:
    batch = normalise(torch.full((2, 8, 8), 255, dtype=torch.uint8), SPEC)
    assert torch.equal(batch, torch.zeros(2, 1, 8, 8))


def test_fixed_normalisation_is_that_of_the_published_runs() -> None:
    spec = Preprocess(size=16, normalisation="fixed", mean=0.4818, std=0.2357)
    batch = torch.tensor([[[0, 255]]], dtype=torch.uint8)
    expected = torch.tensor([[[[-0.4818 / 0.2357, (1 - 0.4818) / 0.2357]]]])
    torch.testing.assert_close(normalise(batch, spec), expected)


@pytest.mark.parametrize("normalisation", ["per_image", "fixed"])
def test_normalisation_leaves_its_input_alone(normalisation: Any) -> None:
    levels = torch.rand(2, 16, 16) * 255
    before = levels.clone()
    normalise(levels, Preprocess(size=16, normalisation=normalisation))
    assert torch.equal(levels, before)


def test_workers_decode_without_loading_torch() -> None:
    code = f"import sys, {preprocess.__name__}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
