import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from budgetloader import geometry
from budgetloader.columns import Ragged

SIZES = st.integers(1, 60)
WINDOWS = st.tuples(st.integers(-4, 20), st.integers(-4, 20), SIZES, SIZES).map(np.array)


def boxes_of(data):
    corners = data.draw(st.lists(st.tuples(*[st.integers(-9, 90)] * 2, SIZES, SIZES), min_size=1, max_size=4))
    return np.array([(x, y, x + w, y + h) for x, y, w, h in corners], np.float32)


def geometry_of(window, flip, count):
    return np.repeat(window[None], count, axis=0), np.full(count, flip)


@given(WINDOWS, st.booleans(), SIZES, st.data())
def test_a_box_covers_what_a_mask_of_it_covers(window, flip, size, data):
    """The mask's pixels are those whose centres lie in the box: two definitions, of which one is per pixel."""
    (box,) = boxes_of(data)[:1].astype(int)
    mask = np.zeros((90, 90), np.uint8)
    mask[max(box[1], 0) : max(box[3], 0), max(box[0], 0) : max(box[2], 0)] = 1
    shown = geometry.move_mask(mask, window, flip, image_size=size)
    inside = np.clip(box, 0, 90)
    ((left, top, right, bottom),) = geometry.move_boxes(inside[None], *geometry_of(window, flip, 1), image_size=size)
    centres = np.arange(size) + 0.5
    # A centre on a border, within rounding, may fall to either side.
    sure = lambda low, high: (centres > low + 1e-3) & (centres < high - 1e-3)  # noqa: E731
    maybe = lambda low, high: (centres > low - 1e-3) & (centres < high + 1e-3)  # noqa: E731
    assert (shown[np.ix_(sure(top, bottom), sure(left, right))] == 1).all()
    outside = np.ones((size, size), bool)
    outside[np.ix_(maybe(top, bottom), maybe(left, right))] = False
    assert (shown[outside] == 0).all()


@given(WINDOWS, st.booleans(), SIZES, st.data())
def test_boxes_keep_their_number_their_order_and_the_images_borders(window, flip, size, data):
    boxes = boxes_of(data)
    moved = geometry.move_boxes(boxes, *geometry_of(window, flip, len(boxes)), image_size=size)
    assert moved.shape == boxes.shape and moved.dtype == np.float32
    assert (moved >= 0).all() and (moved <= size).all() and (moved[:, 2:] >= moved[:, :2]).all()


@given(WINDOWS, SIZES, st.data())
def test_a_flip_is_its_own_inverse(window, size, data):
    points = boxes_of(data)[:, :2]
    plain = geometry.move_points(points, *geometry_of(window, False, len(points)), image_size=size)
    turned = geometry.move_points(points, *geometry_of(window, True, len(points)), image_size=size)
    np.testing.assert_allclose(size - turned[:, 0], plain[:, 0], atol=1e-2)
    np.testing.assert_array_equal(turned[:, 1], plain[:, 1])


def test_a_window_of_the_whole_image_of_its_own_size_changes_nothing():
    whole, flips = np.array([[0, 0, 32, 32]]), np.array([False])
    box, mask = np.float32([[3, 4, 10, 20]]), np.arange(1024, dtype=np.uint8).reshape(32, 32)
    np.testing.assert_array_equal(geometry.move_boxes(box, whole, flips, image_size=32), box)
    np.testing.assert_array_equal(geometry.move_mask(mask, whole[0], False, image_size=32), mask)
    np.testing.assert_array_equal(geometry.move_mask(mask, whole[0], True, image_size=32), mask[:, ::-1])


def test_points_outside_are_not_visible_and_mirrored_ones_change_places():
    people = np.float32([[[1, 1, 2], [2, 5, 2], [30, 6, 2], [0, 0, 0]]] * 2)  # nose, left eye, right eye, one unknown
    windows, flips = np.array([[0, 0, 10, 10]] * 2), np.array([False, True])
    plain, turned = geometry.move_points(people, windows, flips, image_size=20, mirrored=np.array([0, 2, 1, 3]))
    assert plain.tolist() == [[2, 2, 2], [4, 10, 2], [60, 12, 0], [0, 0, 0]]
    assert turned.tolist() == [[18, 2, 2], [-40, 12, 0], [16, 10, 2], [20, 0, 0]]


@pytest.mark.parametrize("fill", [0, 255])
def test_outside_a_mask_is_the_fill(fill):
    mask = np.ones((4, 4), np.uint8)
    shown = geometry.move_mask(mask, np.array([-2, 1, 4, 4]), False, image_size=4, fill=fill)
    assert shown.tolist() == [[fill] * 4] * 2 + [[1, 1, 1, fill]] * 2


def test_each_entry_of_a_list_has_its_samples_window():
    lists = Ragged.of([np.zeros((2, 4)), np.zeros((0, 4)), np.zeros((1, 4))])
    flat, windows, flips = geometry.each(lists, np.arange(12).reshape(3, 4), np.array([True, False, False]))
    assert flat.shape == (3, 4) and windows[:, 0].tolist() == [0, 0, 8] and flips.tolist() == [True, True, False]
