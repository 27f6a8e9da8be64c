"""The system's libjpeg-turbo: simplejpeg's pixels or none, whatever the bytes are."""

import itertools

import numpy as np
import pytest
import simplejpeg

from budgetloader.engines import turbojpeg
from budgetloader.engines.turbojpeg import decode, flags, library

pytestmark = pytest.mark.skipif(library() is None, reason="the system has no libjpeg-turbo")
SIZES = [(1, 1), (5, 3), (16, 16), (33, 47), (128, 96)]


class Owner:
    """Of a thread's tools."""


@pytest.fixture
def tools():
    owner = Owner()
    yield library().tools(owner)


def jpeg(height, width, *, subsampling="420", seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    if subsampling == "Gray":
        data = simplejpeg.encode_jpeg(pixels[..., :1].copy(), colorspace="GRAY", colorsubsampling="Gray")
    else:
        data = simplejpeg.encode_jpeg(pixels, colorsubsampling=subsampling)
    return np.frombuffer(data, np.uint8)


def decoded(tools, data, height, width, *, divisor=1, fast=False, channels=3):
    """The pixels, or None."""
    pixels = np.full((-(-height // divisor), -(-width // divisor), channels), 7, np.uint8)
    made = decode(tools, data, height, width, divisor, flags(fast=fast), channels, pixels.reshape(-1))
    return pixels if made else None


@pytest.mark.parametrize(("channels", "colours"), [(3, "RGB"), (1, "Gray")])
@pytest.mark.parametrize("subsampling", ["444", "422", "420", "440", "Gray"])
def test_pixels_are_simplejpegs(tools, subsampling, channels, colours):
    made = 0
    for (height, width), fast, divisor in itertools.product(SIZES, (False, True), (1, 2, 4, 8)):
        data = jpeg(height, width, subsampling=subsampling)
        pixels = decoded(tools, data, height, width, divisor=divisor, fast=fast, channels=channels)
        if pixels is None:
            assert divisor > 1 and max(height, width) < 16  # left to simplejpeg
            continue
        least = {} if divisor == 1 else {"min_height": pixels.shape[0], "min_width": pixels.shape[1]}
        wanted = simplejpeg.decode_jpeg(data, colorspace=colours, fastdct=fast, fastupsample=fast, **least)
        np.testing.assert_array_equal(pixels, wanted)
        made += 1
    assert made >= 2 * (len(SIZES) + 3 * 3)


def test_an_image_of_another_size_is_refused_and_nothing_is_written(tools):
    data = jpeg(33, 47)
    for height, width in ((33, 46), (32, 47), (47, 33), (66, 94), (17, 24), (1, 1)):
        pixels = np.full(height * width * 3, 7, np.uint8)
        assert not decode(tools, data, height, width, 1, 0, 3, pixels)
        assert (pixels == 7).all()


@pytest.mark.parametrize("room", [0, 1, 33 * 47 * 3 - 1, 33 * 47 * 3 + 1])
def test_memory_of_another_size_is_refused(tools, room):
    assert not decode(tools, jpeg(33, 47), 33, 47, 1, 0, 3, np.empty(room, np.uint8))


def test_what_is_no_whole_jpeg_of_three_colours_is_left_to_simplejpeg(tools):
    from io import BytesIO

    from PIL import Image

    data, cmyk = jpeg(33, 47), BytesIO()
    Image.new("CMYK", (47, 33)).save(cmyk, "JPEG")
    for wrong in (data[:-200], data[:20], data[:0], np.zeros(99, np.uint8), np.frombuffer(cmyk.getvalue(), np.uint8)):
        assert decoded(tools, wrong, 33, 47) is None
    assert decoded(tools, data, 33, 47) is not None  # the decompressor still works


def test_damaged_bytes_give_simplejpegs_pixels_or_none(tools):
    random, data, made = np.random.default_rng(1), jpeg(40, 56), 0
    for _ in range(400):
        wrong = data.copy()
        wrong[random.integers(0, len(data), 3)] = random.integers(0, 256, 3)
        pixels = decoded(tools, wrong, 40, 56)
        if pixels is not None:
            np.testing.assert_array_equal(pixels, simplejpeg.decode_jpeg(wrong))
            made += 1
    assert 0 < made < 400


def test_a_library_that_decodes_otherwise_is_not_used(monkeypatch, caplog):
    exact = simplejpeg.decode_jpeg
    library.cache_clear()
    monkeypatch.setattr(turbojpeg.simplejpeg, "decode_jpeg", lambda data, **options: exact(data, **options) ^ 1)
    try:
        assert library() is None
        assert "decodes otherwise than simplejpeg" in caplog.text
    finally:
        library.cache_clear()


@pytest.mark.parametrize("name", ["libnothing-of-that-name.so.0", "libc.so.6", None])
def test_without_it_nothing_is_said(monkeypatch, caplog, name):
    monkeypatch.setattr(turbojpeg, "_NAMES", {turbojpeg.sys.platform: name})
    library.cache_clear()
    try:
        assert library() is None and not caplog.text
    finally:
        library.cache_clear()
