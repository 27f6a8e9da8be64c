import io

import numpy as np
import pytest
import simplejpeg
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from loader import jpeg

SUBSAMPLINGS = tuple(jpeg.SUBSAMPLINGS)


def photo(width: int, height: int, seed: int = 0) -> Image.Image:
    small = np.random.default_rng(seed).integers(0, 256, (max(height // 6, 2), max(width // 6, 2), 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def plain(image: Image.Image, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=90, **options)
    return buffer.getvalue()


@given(st.integers(1, 200), st.integers(1, 200), st.sampled_from(SUBSAMPLINGS), st.integers(1, 8))
@settings(max_examples=60, deadline=None)
def test_an_encoded_image_has_a_table_that_adds_up(width, height, subsampling, interval):
    data = jpeg.encode(photo(width, height), quality=90, subsampling=subsampling, interval=interval)
    frame = jpeg.read_frame(data)
    assert (frame.width, frame.height, frame.components, frame.baseline) == (width, height, 3, True)
    assert (frame.mcu_width, frame.mcu_height) == jpeg.SUBSAMPLINGS[subsampling]
    columns, rows = -(-width // frame.mcu_width), -(-height // frame.mcu_height)
    assert 1 <= frame.interval <= interval and columns % frame.interval == 0
    assert len(frame.segments) == columns // frame.interval * rows
    starts = frame.start + np.concatenate(([0], np.cumsum(frame.segments)))
    assert data[starts[-1] : starts[-1] + 2] == b"\xff\xd9"
    for i, start in enumerate(starts[1:-1]):
        assert data[start - 2 : start] == bytes((0xFF, 0xD0 + i % 8))
    assert simplejpeg.decode_jpeg(data).shape == (height, width, 3)


def test_the_table_changes_no_pixel():
    data = plain(photo(300, 200), restart_marker_blocks=1)
    np.testing.assert_array_equal(simplejpeg.decode_jpeg(data), simplejpeg.decode_jpeg(jpeg.add_table(data)))


def test_a_table_above_one_segment_of_the_header_goes_on_in_the_next():
    image = Image.new("RGB", (8 * 200, 8 * 200))
    data = jpeg.encode(image, quality=50, subsampling="4:4:4", interval=1)
    assert data.count(b"RRSX") == 2
    assert len(jpeg.read_frame(data).segments) == 200 * 200


def test_grey_has_mcus_of_eight_pixels():
    data = jpeg.add_table(plain(photo(100, 50).convert("L"), restart_marker_blocks=1))
    frame = jpeg.read_frame(data)
    assert (frame.components, frame.mcu_width, frame.mcu_height, len(frame.segments)) == (1, 8, 8, 13 * 7)


@pytest.mark.parametrize(
    ("options", "why"),
    [({}, "no baseline JPEG with restart markers"), ({"restart_marker_blocks": 3}, "does not divide its 20 MCUs")],
)
def test_a_jpeg_that_cannot_be_indexed_says_why(options, why):
    with pytest.raises(jpeg.JpegError, match=why):
        jpeg.add_table(plain(photo(320, 64), **options))


def test_progressive_jpegs_are_not_baseline():
    frame = jpeg.read_frame(plain(photo(64, 64), progressive=True))
    assert not frame.baseline and not len(frame.segments)


@pytest.mark.parametrize("data", [b"", b"\xff\xd8", b"GIF89a", b"\xff\xd8\xff\xc0\x00\x03\x01", b"\xff\xd8ABCDEF"])
def test_what_is_no_jpeg_is_refused(data):
    with pytest.raises(jpeg.JpegError):
        jpeg.read_frame(data)


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_damaged_headers_never_do_more_than_raise(data):
    whole = bytearray(jpeg.encode(photo(64, 48), quality=80, subsampling="4:2:0"))
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, 700))] = data.draw(st.integers(0, 255))
    try:
        jpeg.read_frame(bytes(whole[: data.draw(st.integers(0, len(whole)))]))
    except jpeg.JpegError:
        pass


@pytest.mark.parametrize(("columns", "expected"), [(32, 4), (31, 1), (30, 3), (34, 2), (1, 1)])
def test_the_interval_is_the_largest_divisor(columns, expected):
    assert jpeg.interval_for(columns) == expected
