import io
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import simplejpeg
from PIL import Image

from budgetloader import Dataset, DatasetError
from budgetloader.convert import Settings, convert, to_rgb
from budgetloader.jpeg import read_frame
from budgetloader.sources import image_folder


@pytest.fixture
def images(tmp_path):
    """Every kind of image that a folder may hold."""
    root = tmp_path / "images" / "a"
    root.mkdir(parents=True)
    ramp = np.linspace(0, 255, 64 * 48).reshape(48, 64).astype(np.uint8)
    rgb = np.stack([ramp, ramp[::-1], 255 - ramp], axis=2)
    Image.fromarray(rgb).save(root / "0_rgb.jpg", quality=95)
    Image.fromarray(ramp).save(root / "1_grey.jpg", quality=95)
    Image.fromarray(rgb).convert("CMYK").save(root / "2_cmyk.jpg", quality=95)
    Image.fromarray(ramp.astype(np.uint16) * 257).save(root / "3_sixteen.png")
    Image.fromarray(rgb).convert("P").save(root / "4_palette.png")
    Image.fromarray(np.dstack([rgb, ramp])).save(root / "5_alpha.png")
    Image.fromarray(rgb).save(root / "6_progressive.jpg", quality=95, progressive=True)
    Image.fromarray(rgb).save(root / "7_png_called_jpg.jpeg", "PNG")
    return tmp_path / "images"


def test_every_kind_of_image_becomes_rgb(images, tmp_path):
    report = convert(image_folder(images), tmp_path / "x.beton", settings=Settings(quality=95, subsampling="4:4:4"))
    dataset = Dataset(tmp_path / "x.beton")
    assert report.samples == len(dataset) == 8
    assert set(report.converted) == {"L", "CMYK", "I;16", "P", "RGBA"}
    pixels = [simplejpeg.decode_jpeg(dataset.jpeg(i)).astype(int) for i in range(8)]
    assert all(p.shape == (48, 64, 3) for p in pixels)
    for same in (2, 5, 6, 7):  # the colour ones are one picture
        assert np.abs(pixels[same] - pixels[0]).mean() < 4
    assert np.abs(pixels[1] - pixels[3]).mean() < 2  # 16 bits were scaled, not clipped


@pytest.mark.parametrize(("mode", "value"), [("I;16", 65535), ("I;16", 0), ("L", 200)])
def test_to_rgb_keeps_the_brightness(mode, value):
    image = Image.fromarray(np.full((4, 4), value, np.uint16 if mode == "I;16" else np.uint8))
    expected = value // 257 if mode == "I;16" else value
    assert (np.asarray(to_rgb(image)) == expected).all()


def test_images_are_indexed_and_in_the_folders_order(dataset, folder):
    source = image_folder(folder)
    for i in (0, 33, 69):
        frame = read_frame(dataset.jpeg(i))
        assert frame.baseline and len(frame.segments) and (frame.width, frame.height) == source.load(i).size
        original = np.asarray(source.load(i)).astype(int)
        assert np.abs(simplejpeg.decode_jpeg(dataset.jpeg(i)) - original).mean() < 6


@pytest.mark.parametrize("content", [b"", b"no image at all", "truncated"])
def test_an_unreadable_image_is_named_or_skipped(images, tmp_path, content):
    if content == "truncated":
        buffer = io.BytesIO()
        Image.effect_noise((200, 200), 90).save(buffer, "JPEG")
        content = buffer.getvalue()[: len(buffer.getvalue()) // 2]
    (images / "a" / "8_bad.jpg").write_bytes(content)
    with pytest.raises(DatasetError, match=r"a/8_bad\.jpg cannot be converted"):
        convert(image_folder(images), tmp_path / "x.beton")
    assert os.listdir(tmp_path) == ["images"]
    report = convert(image_folder(images), tmp_path / "x.beton", settings=Settings(on_bad="skip"))
    assert report.samples == 8 and len(report.skipped) == 1 and "8_bad.jpg" in report.skipped[0]


def test_a_folder_of_nothing_but_bad_images_makes_no_file(tmp_path):
    (tmp_path / "i" / "a").mkdir(parents=True)
    (tmp_path / "i" / "a" / "x.jpg").write_bytes(b"no")
    with pytest.raises(DatasetError, match="none of the 1 images"):
        convert(image_folder(tmp_path / "i"), tmp_path / "x.beton", settings=Settings(on_bad="skip"))
    assert not (tmp_path / "x.beton").exists()


def test_a_huge_image_is_refused_and_made_smaller_on_request(tmp_path):
    (tmp_path / "i" / "a").mkdir(parents=True)
    Image.new("RGB", (66_000, 4), "red").save(tmp_path / "i" / "a" / "x.png")
    with pytest.raises(DatasetError, match="--max-side"):
        convert(image_folder(tmp_path / "i"), tmp_path / "x.beton")
    report = convert(image_folder(tmp_path / "i"), tmp_path / "x.beton", settings=Settings(max_side=500))
    assert report.resized == 1 and Dataset(tmp_path / "x.beton").widths[0] == 500


@pytest.mark.parametrize(
    "bad", [{"quality": 0}, {"interval": 65}, {"subsampling": "4:1:1"}, {"on_bad": "x"}, {"threads": 0}]
)
def test_settings_outside_their_range_are_refused(bad):
    with pytest.raises(DatasetError, match=f"{next(iter(bad))} {next(iter(bad.values()))!r}"):
        Settings(**bad)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL, signal.SIGTERM])
def test_an_interrupted_conversion_never_leaves_a_file_that_opens(folder, tmp_path, how):
    target = tmp_path / "x.beton"
    code = (
        "import sys, time\nfrom loader import sources, convert\n"
        "s = sources.image_folder(sys.argv[1])\n"
        "def slow(done):\n    print(done, flush=True); time.sleep(0.05)\n"
        "convert.convert(s, sys.argv[2], progress=slow)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(folder), str(target)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert process.stdout is not None
    while process.stdout.readline().strip() != b"20":
        time.sleep(0)
    process.send_signal(how)
    process.communicate(timeout=30)
    assert process.returncode != 0 and not target.exists()
    for left in tmp_path.iterdir():
        with pytest.raises(DatasetError):
            Dataset(left)
    assert convert(image_folder(folder), target).samples == 70  # what was left is no obstacle


needs_jpegtran = pytest.mark.skipif(shutil.which("jpegtran") is None, reason="jpegtran is not installed")


@needs_jpegtran
def test_lossless_keeps_every_pixel_of_colour_jpegs(folder, images, tmp_path):
    for root, kept in ((folder, 70), (images, 2)):  # of `images`, the plain and the progressive one are colour JPEGs
        path = tmp_path / f"{kept}.beton"
        report = convert(image_folder(root), path, settings=Settings(lossless=True))
        assert report.lossless == kept
    source, dataset = image_folder(folder), Dataset(tmp_path / "70.beton")
    for i in (0, 40, 69):
        np.testing.assert_array_equal(simplejpeg.decode_jpeg(dataset.jpeg(i)), simplejpeg.decode_jpeg(source.read(i)))
        assert len(read_frame(dataset.jpeg(i)).segments)


@needs_jpegtran
def test_lossless_names_a_truncated_jpeg(folder, tmp_path):
    target = tmp_path / "i" / "a" / "cut.jpg"
    target.parent.mkdir(parents=True)
    data = image_folder(folder).read(0)
    target.write_bytes(data[: len(data) // 2])
    with pytest.raises(DatasetError, match=r"cut\.jpg"):
        convert(image_folder(tmp_path / "i"), tmp_path / "x.beton", settings=Settings(lossless=True))


def test_lossless_without_jpegtran_says_what_to_install(folder, tmp_path, monkeypatch):
    monkeypatch.setattr("budgetloader.convert._JPEGTRAN", "no-such-program")
    with pytest.raises(DatasetError, match="libjpeg-turbo-progs"):
        convert(image_folder(folder), tmp_path / "x.beton", settings=Settings(lossless=True))
