import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchvision.transforms import RandomResizedCrop

from budgetloader import windows

sides = st.integers(1, 4000)


def crop(heights, widths, **kwargs):
    n = len(heights)
    options = {"seed": 1, "epoch": 0, **kwargs}
    return windows.random_resized_crop(np.asarray(heights), np.asarray(widths), np.arange(n), **options)


@given(st.lists(st.tuples(sides, sides), min_size=1, max_size=60), st.integers(0, 2**64 - 1), st.integers(0, 500))
def test_windows_lie_inside_their_images(sizes, seed, epoch):
    heights, widths = np.array(sizes).T
    top, left, height, width, flip = crop(heights, widths, seed=seed, epoch=epoch).T
    assert (top >= 0).all() and (left >= 0).all() and (height >= 1).all() and (width >= 1).all()
    assert (top + height <= heights).all() and (left + width <= widths).all()
    assert np.isin(flip, (0, 1)).all()


@given(st.lists(st.tuples(sides, sides), min_size=1, max_size=60))
def test_center_windows_lie_inside_and_are_square(sizes):
    heights, widths = np.array(sizes).T
    top, left, height, width, flip = windows.center_crop(heights, widths).T
    assert (height == width).all() and (height >= 1).all() and not flip.any()
    assert (top >= 0).all() and (left >= 0).all()
    assert (top + height <= heights).all() and (left + width <= widths).all()


def test_a_window_does_not_depend_on_what_else_is_in_the_batch():
    n = 200
    heights, widths = np.full(n, 375), np.full(n, 500)
    whole = crop(heights, widths)
    part = windows.random_resized_crop(heights[50:60], widths[50:60], np.arange(50, 60), seed=1, epoch=0)
    np.testing.assert_array_equal(whole[50:60], part)


def test_the_distribution_is_torchvisions():
    """Two-sample Kolmogorov–Smirnov against torchvision's own draws, also where tries often fail."""
    n = 6000
    for height, width in ((375, 500), (120, 480)):
        ours = crop(np.full(n, height), np.full(n, width))
        torch.manual_seed(0)
        image = torch.empty(3, height, width)
        theirs = np.array([RandomResizedCrop.get_params(image, [0.08, 1.0], [3 / 4, 4 / 3]) for _ in range(n)])
        for column in range(4):
            values = np.unique(np.concatenate((ours[:, column], theirs[:, column])))
            a, b = (np.searchsorted(np.sort(x), values, side="right") / n for x in (ours[:, column], theirs[:, column]))
            assert np.abs(a - b).max() < 1.95 * np.sqrt(2 / n)  # significance 0.001
        assert abs(ours[:, 4].mean() - 0.5) < 4 * 0.5 / np.sqrt(n)


def test_images_too_long_for_any_window_get_the_largest_centred_one():
    top, left, height, width, _ = crop([10, 1000], [1000, 10]).T
    assert (height[0], width[0], top[0], left[0]) == (10, 13, 0, 493)
    assert (height[1], width[1], top[1], left[1]) == (13, 10, 493, 0)
