"""JPEGs that go into a file without Pillow are, byte for byte, what Pillow makes of them."""

import io
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from budgetloader import DatasetError, jpeg, jpeg_tables
from budgetloader.convert import recoding
from budgetloader.convert.converting import Settings, convert
from budgetloader.convert.sources import image_folder, image_of
from budgetloader.limits import MAX_PIXELS

pytest.importorskip("cv2", reason="OpenCV is not installed")
HOW = {"quality": 90, "subsampling": "4:2:0", "interval": 2, "optimize": True}
LIMITS = {"max_side": None, "max_pixels": MAX_PIXELS}


def photograph(width, height, *, seed=0):
    smooth = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), np.uint8)
    return Image.fromarray(smooth).resize((width, height), Image.Resampling.BICUBIC)


def jpeg_of(image, **how):
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", **how)
    return buffer.getvalue()


def pillows(data, **how):
    return jpeg_tables.encode(image_of(data, max_pixels=MAX_PIXELS), **how)


@pytest.mark.parametrize("size", [(1, 1), (3, 50), (17, 16), (150, 111), (233, 90)])
@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0"])
@pytest.mark.parametrize("optimize", [True, False])
def test_bytes_are_pillows(size, subsampling, optimize):
    how = {"quality": 93, "subsampling": subsampling, "interval": 3, "optimize": optimize}
    for source in ("4:4:4", "4:2:2", "4:2:0"):
        for progressive in (False, True):
            data = jpeg_of(photograph(*size), quality=88, subsampling=source, progressive=progressive)
            found = recoding.recode(data, **how, **LIMITS)
            assert found == recoding.Recoded(pillows(data, **how), *size)


def test_pixels_stored_as_rgb_are_read_as_such():
    data = jpeg_of(photograph(64, 48), keep_rgb=True)
    assert recoding.recode(data, **HOW, **LIMITS).data == pillows(data, **HOW)


def test_noise_that_needs_much_room_is_pillows_too():
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (200, 300, 3), np.uint8))
    data, how = jpeg_of(noise, quality=100, subsampling="4:4:4"), {**HOW, "quality": 100, "subsampling": "4:4:4"}
    assert recoding.recode(data, **how, **LIMITS).data == pillows(data, **how)


def other_images():
    image = photograph(64, 48)
    png = io.BytesIO()
    image.save(png, "PNG")
    whole = jpeg_of(image)
    yield "png", png.getvalue()
    yield "grey", jpeg_of(image.convert("L"))
    yield "cmyk", jpeg_of(image.convert("CMYK"))
    yield "nothing", b""
    yield "headers alone", whole[: jpeg.read_frame(whole).start]
    yield "damaged", whole[:-200] + whole[-100:]
    yield "cut", whole[: len(whole) // 2]


@pytest.mark.parametrize(
    ("name", "data"), list(other_images()), ids=lambda value: value if isinstance(value, str) else ""
)
def test_any_other_image_is_left_to_pillow(name, data):
    try:
        assert recoding.recode(data, **HOW, **LIMITS) is None
    except OSError as error:
        with pytest.raises(OSError, match=str(error)):
            pillows(data, **HOW)


SEGMENTS = {  # behind the start of an image
    "a comment": (0xFE, b"CREATOR: gd-jpeg v1.0 (using IJG JPEG v62), quality = 90"),
    "a profile": (0xE2, b"ICC_PROFILE\0\1\1" + bytes(200)),
    "an orientation": (0xE1, b"Exif\0\0MM\0*\0\0\0\x08\0\1\1\x12\0\3\0\0\0\1\0\6\0\0\0\0\0\0"),
    "a short JFIF": (0xE0, b"JFIF"),
    "a short Adobe": (0xEE, b"Adobe"),
    "a short profile": (0xE2, b"ICC_PROFILE\0\1"),
    "a short Photoshop": (0xED, b"Photoshop 3.0\0" + b"8BIM\x03\xed"),
}


@pytest.mark.parametrize("name", SEGMENTS)
def test_metadata_are_dropped_and_refused_as_pillow_does(name):
    marker, payload = SEGMENTS[name]
    whole = jpeg_of(photograph(64, 48))
    data = whole[:2] + bytes([0xFF, marker]) + (2 + len(payload)).to_bytes(2, "big") + payload + whole[2:]
    try:
        expected = pillows(data, **HOW)
    except Exception as error:
        with pytest.raises(type(error)):
            recoding.recode(data, **HOW, **LIMITS)
        assert "short" in name
    else:
        assert recoding.recode(data, **HOW, **LIMITS).data == expected == pillows(whole, **HOW)


def test_larger_images_are_left_to_pillow_or_refused():
    data = jpeg_of(photograph(64, 48))
    assert recoding.recode(data, **HOW, max_side=63, max_pixels=MAX_PIXELS) is None
    assert recoding.recode(data, **HOW, max_side=64, max_pixels=MAX_PIXELS)
    with pytest.raises(DatasetError, match="more than 3,071"):
        recoding.recode(data, **HOW, max_side=None, max_pixels=64 * 48 - 1)


@pytest.mark.parametrize("how", [{}, {"optimize": False, "quality": 80}, {"max_side": 100}, {"raw": 0.5}])
def test_a_file_is_the_same_without_opencv(tmp_path, monkeypatch, how):
    for i in range(24):
        path = tmp_path / "images" / f"class{i % 3}" / f"{i}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(jpeg_of(photograph(60 + 4 * i, 40 + 3 * i, seed=i), progressive=i % 2 == 0))
    calls = []
    recode = recoding.recode
    monkeypatch.setattr(
        "budgetloader.convert.encoding.recode", lambda *a, **k: calls.append(recode(*a, **k)) or calls[-1]
    )
    convert(image_folder(tmp_path / "images"), tmp_path / "with.beton", settings=Settings(**how))
    used = sum(found is not None for found in calls)
    assert used == {0: 24, 100: 11, 0.5: 0}[how.get("max_side", how.get("raw", 0))]
    monkeypatch.setattr(recoding, "_opencv", lambda: None)
    convert(image_folder(tmp_path / "images"), tmp_path / "without.beton", settings=Settings(**how))
    assert (tmp_path / "with.beton").read_bytes() == (tmp_path / "without.beton").read_bytes()


@pytest.mark.parametrize("broken", ["raise ImportError('libGL.so.1')", "raise RuntimeError('ABI')", ""])
def test_an_opencv_that_does_not_load_or_lacks_the_option_is_not_used(monkeypatch, tmp_path, broken):
    (tmp_path / "cv2.py").write_text(broken)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "cv2")
    recoding._opencv.cache_clear()
    try:
        assert recoding._opencv() is None
        assert recoding.recode(jpeg_of(photograph(64, 48)), **HOW, **LIMITS) is None
    finally:
        recoding._opencv.cache_clear()


def test_threads_that_begin_at_once_all_use_opencv(tmp_path):
    """OpenCV, imported by two threads at once, is an error in one of them."""
    script = """
import sys, threading
from budgetloader.convert.recoding import recode
how = {"quality": 90, "subsampling": "4:2:0", "interval": 2, "optimize": True, "max_side": None, "max_pixels": 10**6}
data, found, begin = open(sys.argv[1], "rb").read(), [], threading.Barrier(8)
def work():
    begin.wait()
    found.append(recode(data, **how))
threads = [threading.Thread(target=work) for _ in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(sum(one is not None for one in found))
"""
    (tmp_path / "x.jpg").write_bytes(jpeg_of(photograph(64, 48)))
    command = [sys.executable, "-c", script, str(tmp_path / "x.jpg")]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.split() == ["8"]
