import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.transforms.v2 import functional

from budgetloader.resize import apply_tone, resample

AFFINE = np.array([[1, 0], [0.5, 2], [0.25, -3]], np.float32)
IDENTITY = np.tile(np.arange(256, dtype=np.uint8), (3, 1))


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def resized(pixels, window, size, *, antialias=True, flip=False, table=IDENTITY):
    out = np.zeros((*size, 3), table.dtype)
    assert resample(pixels, *window, antialias, flip, table, out)
    return out


@given(st.integers(1, 90), st.integers(1, 90), st.integers(1, 40), st.integers(1, 40), st.booleans(), st.data())
@settings(max_examples=150)
def test_it_is_torchvisions_resize_of_the_window(height, width, out_h, out_w, antialias, data):
    pixels = noise(height, width)
    top, left = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    h, w = data.draw(st.integers(1, height - top)), data.draw(st.integers(1, width - left))
    crop = torch.from_numpy(pixels[top : top + h, left : left + w]).permute(2, 0, 1).double()
    exact = functional.resize(crop, [out_h, out_w], antialias=antialias).permute(1, 2, 0).numpy()
    ours = resized(pixels, (top, left, h, w), (out_h, out_w), antialias=antialias)
    assert np.abs(ours - exact).max() <= 0.51


def test_a_window_of_the_targets_size_is_copied():
    pixels = noise(50, 60)
    np.testing.assert_array_equal(resized(pixels, (5, 7, 30, 40), (30, 40)), pixels[5:35, 7:47])


def test_flip_mirrors():
    pixels = noise(50, 60)
    plain, flipped = (resized(pixels, (5, 7, 40, 50), (16, 24), flip=f) for f in (False, True))
    np.testing.assert_array_equal(flipped, plain[:, ::-1])


def test_the_table_is_per_channel():
    table = np.stack([np.arange(256), np.arange(256) * 2, np.arange(256) * 3]).astype(np.float32)
    pixels = noise(20, 20)
    plain, looked_up = (resized(pixels, (0, 0, 20, 20), (8, 8), table=t) for t in (IDENTITY, table))
    np.testing.assert_array_equal(looked_up, plain * np.array([1, 2, 3], np.float32))


@pytest.mark.parametrize("flip", [False, True])
def test_slopes_and_offsets_are_per_channel(flip):
    pixels = noise(20, 20)
    plain = resized(pixels, (0, 0, 20, 20), (8, 9), flip=flip)
    scaled = np.zeros((8, 9, 3), np.float32)
    assert resample(pixels, 0, 0, 20, 20, True, flip, AFFINE, scaled)
    np.testing.assert_array_equal(scaled, plain.astype(np.float32) * AFFINE[:, 0] + AFFINE[:, 1])


@pytest.mark.parametrize("rows", [1, 7])
def test_without_a_tone_pixels_are_written_as_they_are(rows):
    pixels, planar = noise(20, 20), np.zeros((3, rows, 5), np.uint8)
    assert resample(pixels, 2, 3, 15, 16, False, True, np.empty((3, 0), np.float32), planar.transpose(1, 2, 0))
    plain = resized(pixels, (2, 3, 15, 16), (rows, 5), antialias=False, flip=True)
    np.testing.assert_array_equal(planar.transpose(1, 2, 0), plain)


def test_pixels_outside_the_window_do_not_matter():
    pixels = noise(60, 60)
    inside = resized(pixels, (10, 12, 30, 31), (9, 9))
    pixels[:10], pixels[40:], pixels[:, :12], pixels[:, 43:] = 0, 255, 255, 0
    np.testing.assert_array_equal(resized(pixels, (10, 12, 30, 31), (9, 9)), inside)


@pytest.mark.parametrize(
    "window", [(-1, 0, 5, 5), (0, -1, 5, 5), (0, 0, 0, 5), (0, 0, 5, 0), (6, 0, 5, 5), (0, 6, 5, 5)]
)
def test_a_window_outside_the_image_is_refused_and_writes_nothing(window):
    out = np.full((4, 4, 3), 7, np.uint8)
    assert not resample(noise(10, 10), *window, True, False, IDENTITY, out)
    assert (out == 7).all()


def test_a_strided_output_gets_the_same_pixels():
    pixels, planar = noise(40, 40), np.zeros((3, 16, 16), np.uint8)
    assert resample(pixels, 0, 0, 40, 40, True, True, IDENTITY, planar.transpose(1, 2, 0))
    np.testing.assert_array_equal(planar.transpose(1, 2, 0), resized(pixels, (0, 0, 40, 40), (16, 16), flip=True))


@pytest.mark.parametrize("antialias", [True, False])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_benchmark_resample_imagenet_window_to_224(benchmark, antialias, dtype):
    pixels, out = noise(375, 500), np.empty((224, 224, 3), dtype)
    tone = {np.uint8: AFFINE[:, :0].copy(), np.uint16: IDENTITY.astype(dtype), np.float32: AFFINE}[dtype]
    benchmark(lambda: resample(pixels, 40, 60, 260, 270, antialias, False, tone, out))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_applying_a_tone_afterwards_gives_the_same_bits(dtype):
    pixels = noise(40, 50)
    tone = {np.uint8: AFFINE[:, :0].copy(), np.uint16: IDENTITY.astype(dtype) * 3, np.float32: AFFINE}[dtype]
    at_once, plain = np.empty((2, 9, 11, 3), dtype), np.empty((2, 9, 11, 3), np.uint8)
    for i in range(2):
        assert resample(pixels, i, 0, 30, 50, True, bool(i), tone, at_once[i])
        assert resample(pixels, i, 0, 30, 50, True, bool(i), AFFINE[:, :0].copy(), plain[i])
    afterwards = np.empty_like(at_once)
    apply_tone(plain, tone, afterwards)
    np.testing.assert_array_equal(afterwards, at_once)


def test_a_tone_is_not_applied_to_arrays_that_do_not_fit():
    with pytest.raises(ValueError, match="one shape"):
        apply_tone(np.zeros((1, 2, 2, 3), np.uint8), AFFINE, np.zeros((1, 2, 3, 3), np.float32))
