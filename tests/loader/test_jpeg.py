import contextlib
import io

import numpy as np
import pytest
import simplejpeg
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from budgetloader import jpeg, jpeg_tables

SUBSAMPLINGS = tuple(jpeg_tables.SUBSAMPLINGS)


def photo(width: int, height: int, seed: int = 0) -> Image.Image:
    small = np.random.default_rng(seed).integers(0, 256, (max(height // 6, 2), max(width // 6, 2), 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def plain(image: Image.Image, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=90, **options)
    return buffer.getvalue()


@given(st.integers(1, 200), st.integers(1, 200), st.sampled_from(SUBSAMPLINGS), st.integers(1, 8))
@settings(max_examples=60)
def test_an_encoded_image_has_a_table_that_adds_up(width, height, subsampling, interval):
    data = jpeg_tables.encode(photo(width, height), quality=90, subsampling=subsampling, interval=interval)
    frame = jpeg.read_frame(data)
    assert (frame.width, frame.height, frame.components, frame.baseline) == (width, height, 3, True)
    assert (frame.mcu_width, frame.mcu_height) == jpeg_tables.SUBSAMPLINGS[subsampling]
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
    data = jpeg_tables.encode(image, quality=50, subsampling="4:4:4", interval=1)
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
@settings(max_examples=300)
def test_damaged_headers_never_do_more_than_raise(data):
    whole = bytearray(jpeg_tables.encode(photo(64, 48), quality=80, subsampling="4:2:0"))
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, 700))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(jpeg.JpegError):
        jpeg.read_frame(bytes(whole[: data.draw(st.integers(0, len(whole)))]))


@pytest.mark.parametrize(("columns", "expected"), [(32, 4), (31, 1), (30, 3), (34, 2), (1, 1)])
def test_the_interval_is_the_largest_divisor(columns, expected):
    assert jpeg_tables.interval_for(columns, most=4) == expected


@given(st.data())
@settings(max_examples=300)
def test_cropped_bytes_decode_to_exactly_the_whole_images_pixels(data):
    width, height = data.draw(st.integers(1, 150)), data.draw(st.integers(1, 150))
    subsampling = data.draw(st.sampled_from((*SUBSAMPLINGS, "grey")))
    image = photo(width, height, seed=data.draw(st.integers(0, 9)))
    if subsampling == "grey":
        blocks = jpeg_tables.interval_for(-(-width // 8), most=4)
        whole = jpeg.add_table(plain(image.convert("L"), restart_marker_blocks=blocks))
    else:
        whole = jpeg_tables.encode(image, quality=90, subsampling=subsampling, interval=data.draw(st.integers(1, 5)))
    top, left = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    h, w = data.draw(st.integers(1, height - top)), data.draw(st.integers(1, width - left))
    expected = simplejpeg.decode_jpeg(whole)[top : top + h, left : left + w]
    source = np.frombuffer(whole, np.uint8)
    cropped, y, x = jpeg.Cropper().crop(source, top=top, left=left, height=h, width=w)
    pixels = simplejpeg.decode_jpeg(cropped)  # strict: it is valid, with all markers where they belong
    np.testing.assert_array_equal(pixels[top - y : top - y + h, left - x : left - x + w], expected)
    assert len(cropped) <= len(whole)


@pytest.mark.parametrize("subsampling", SUBSAMPLINGS)
@pytest.mark.parametrize("rest", range(1, 8))
def test_the_narrow_last_column_of_an_image_has_the_whole_images_pixels(subsampling, rest):
    """libjpeg-turbo smooths no chroma of images of up to 4 columns, and a crop must not be one if the image is not."""
    width = 128 + rest
    whole = jpeg_tables.encode(photo(width, 24, seed=3), quality=90, subsampling=subsampling, interval=1)
    cropped, y, x = jpeg.Cropper().crop(np.frombuffer(whole, np.uint8), top=2, left=width - 1, height=20, width=1)
    pixels = simplejpeg.decode_jpeg(cropped)[2 - y : 22 - y, width - 1 - x : width - x]
    np.testing.assert_array_equal(pixels, simplejpeg.decode_jpeg(whole)[2:22, width - 1 :])


def test_a_crop_has_no_more_segments_than_it_needs():
    whole = jpeg_tables.encode(photo(512, 384), quality=90, subsampling="4:2:0", interval=4)
    cropped, y, x = jpeg.Cropper().crop(np.frombuffer(whole, np.uint8), top=100, left=200, height=50, width=60)
    frame = jpeg.read_frame(cropped)
    assert (y, x, frame.height, frame.width) == (96, 192, 64, 128)  # rows 98…152, columns 198…262 of 16 and 64
    assert len(cropped) < len(whole) / 10


def test_a_jpeg_without_a_table_comes_back_whole():
    data = np.frombuffer(plain(photo(64, 64)), np.uint8)
    cropped, y, x = jpeg.Cropper().crop(data, top=8, left=8, height=8, width=8)
    assert cropped is data and (y, x) == (0, 0)


def test_scratch_memory_grows_with_the_image():
    whole = np.frombuffer(jpeg_tables.encode(photo(1600, 1200), quality=98, subsampling="4:4:4", interval=1), np.uint8)
    cropped, _, _ = jpeg.Cropper().crop(whole, top=0, left=0, height=1200, width=1600)
    assert len(whole) > 1 << 17
    np.testing.assert_array_equal(simplejpeg.decode_jpeg(cropped), simplejpeg.decode_jpeg(whole))


@pytest.mark.parametrize("window", [(-1, 0, 5, 5), (0, 0, 0, 5), (60, 0, 5, 5), (0, 60, 5, 5)])
def test_a_window_outside_the_image_cannot_be_cropped(window):
    whole = np.frombuffer(jpeg_tables.encode(photo(64, 64), quality=80, subsampling="4:2:0"), np.uint8)
    with pytest.raises(jpeg.JpegError, match="window"):
        jpeg.Cropper().crop(whole, **dict(zip(("top", "left", "height", "width"), window, strict=True)))


def test_too_little_room_is_said():
    whole = np.frombuffer(jpeg_tables.encode(photo(64, 64), quality=80, subsampling="4:2:0"), np.uint8)
    with pytest.raises(jpeg.JpegError, match="bytes to be cropped in"):
        jpeg.Cropper().crop(whole, top=0, left=0, height=9, width=9, out=np.empty(10, np.uint8))


@pytest.mark.slow
@given(st.data())
@settings(max_examples=500)
def test_damage_anywhere_raises_or_gives_bytes_and_never_reads_outside(data):
    whole = np.frombuffer(jpeg_tables.encode(photo(96, 80), quality=80, subsampling="4:2:0"), np.uint8).copy()
    for _ in range(data.draw(st.integers(1, 6))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    whole = whole[: data.draw(st.integers(len(whole) // 2, len(whole)))].copy()
    try:
        cropped, _, _ = jpeg.Cropper().crop(whole, top=20, left=30, height=40, width=40)
        assert 4 <= len(cropped) <= len(whole) + 2
        simplejpeg.decode_jpeg(cropped)
    except (jpeg.JpegError, ValueError):
        pass


def test_benchmark_crop_imagenet_window(benchmark):
    whole = np.frombuffer(jpeg_tables.encode(photo(500, 375), quality=90, subsampling="4:2:0"), np.uint8)
    cropper = jpeg.Cropper()
    benchmark(lambda: cropper.crop(whole, top=60, left=80, height=250, width=260))
