import io
import os
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
import simplejpeg
from PIL import Image

from budgetloader import Dataset, DatasetError
from budgetloader.convert.colour import flattened
from budgetloader.convert.converting import Settings, convert, to_rgb
from budgetloader.convert.sources import image_folder
from budgetloader.jpeg import read_frame


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
    for same in (2, 6, 7):  # the colour ones are one picture
        assert np.abs(pixels[same] - pixels[0]).mean() < 4
    assert np.abs(pixels[5] - 255)[0].mean() < 9 and report.transparent == 1  # its first row is transparent
    assert np.abs(pixels[1] - pixels[3]).mean() < 2  # 16 bits were scaled, not clipped


@pytest.mark.parametrize(("mode", "value"), [("I;16", 65535), ("I;16", 0), ("L", 200)])
def test_to_rgb_keeps_the_brightness(mode, value):
    image = Image.fromarray(np.full((4, 4), value, np.uint16 if mode == "I;16" else np.uint8))
    expected = value // 257 if mode == "I;16" else value
    assert (np.asarray(to_rgb(image)) == expected).all()


@pytest.mark.parametrize(
    ("mode", "options"),
    [
        ("RGBA", {}),
        ("LA", {}),
        ("P", {"transparency": 0}),
        ("L", {"transparency": 0}),
        ("RGB", {"transparency": (0, 0, 0)}),
    ],
)
@pytest.mark.parametrize(("background", "pixel"), [("white", (255, 255, 255)), ("#ff8000", (255, 128, 0))])
def test_transparent_images_are_put_on_the_background(tmp_path, mode, options, background, pixel):
    """The upper half is transparent, and black underneath; the lower half is not."""
    (tmp_path / "i" / "a").mkdir(parents=True)
    values = np.zeros((32, 32), np.uint8)
    values[16:] = 90
    image = Image.fromarray(values).convert(mode)
    if "A" in mode:
        image.putalpha(Image.fromarray(np.where(values, 255, 0).astype(np.uint8)))
    image.save(tmp_path / "i" / "a" / "x.png", **options)
    settings = Settings(background=background, quality=100, subsampling="4:4:4")
    report = convert(image_folder(tmp_path / "i"), tmp_path / "x.beton", settings=settings)
    pixels = simplejpeg.decode_jpeg(Dataset(tmp_path / "x.beton").jpeg(0)).astype(int)
    assert np.abs(pixels[:14] - pixel).max() < 8 and np.abs(pixels[18:] - 90).max() < 8
    assert report.transparent == 1 and report.labels == {0: 1}


@pytest.mark.parametrize("alpha", [255, 128])
def test_what_shows_through_is_counted_and_an_opaque_alpha_channel_is_not(alpha):
    image, transparent = flattened(Image.new("RGBA", (4, 4), (10, 20, 30, alpha)), background=(255, 255, 255))
    assert transparent == (alpha < 255)
    expected = [round(c * alpha / 255 + 255 * (1 - alpha / 255)) for c in (10, 20, 30)]
    assert np.abs(np.asarray(image)[0, 0].astype(int) - expected).max() <= 1


@pytest.mark.parametrize("alpha", [True, False])
def test_sixteen_bits_with_a_transparent_value_are_scaled(tmp_path, alpha):
    values = np.full((4, 4), 40_000, np.uint16)
    values[0] = 7
    Image.fromarray(values).save(tmp_path / "x.png", **({"transparency": 7} if alpha else {}))
    with Image.open(tmp_path / "x.png") as image:
        pixels = np.asarray(to_rgb(image))
    assert (pixels[0] == (255 if alpha else 0)).all() and (pixels[1:] == round(40_000 / 257)).all()


def test_noise_of_the_highest_quality_is_stored(tmp_path):
    (tmp_path / "i" / "a").mkdir(parents=True)
    noise = np.random.default_rng(0).integers(0, 256, (800, 800, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "i" / "a" / "x.png")
    settings = Settings(quality=100, subsampling="4:4:4")
    report = convert(image_folder(tmp_path / "i"), tmp_path / "x.beton", settings=settings)
    assert report.jpeg_bytes > 2 * 800 * 800  # Pillow's own room
    assert np.abs(simplejpeg.decode_jpeg(Dataset(tmp_path / "x.beton").jpeg(0)).astype(int) - noise).max() < 8


def test_an_image_that_is_too_large_for_the_file_is_named_or_skipped(tmp_path):
    root = tmp_path / "i" / "a"
    root.mkdir(parents=True)
    noise = np.random.default_rng(0).integers(0, 256, (2100, 2100, 3), np.uint8)
    Image.fromarray(noise).save(root / "large.ppm")
    Image.new("RGB", (8, 8)).save(root / "small.png")
    settings = {"quality": 100, "subsampling": "4:4:4"}
    with pytest.raises(DatasetError, match=r"a/large\.ppm cannot be converted: .*--max-side"):
        convert(image_folder(tmp_path / "i"), tmp_path / "x.beton", settings=Settings(**settings))
    assert os.listdir(tmp_path) == ["i"]
    report = convert(image_folder(tmp_path / "i"), tmp_path / "x.beton", settings=Settings(on_bad="skip", **settings))
    assert report.samples == 1 and "a/large.ppm: " in report.skipped[0] and "8,388,608" in report.skipped[0]


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
    "bad",
    [{"quality": 0}, {"interval": 65}, {"subsampling": "4:1:1"}, {"on_bad": "x"}, {"threads": 0}, {"background": "x"}],
)
def test_settings_outside_their_range_are_refused(bad):
    with pytest.raises(DatasetError, match=f"{next(iter(bad))} {next(iter(bad.values()))!r}"):
        Settings(**bad)


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL, signal.SIGTERM])
def test_an_interrupted_conversion_never_leaves_a_file_that_opens(folder, tmp_path, how):
    target = tmp_path / "x.beton"
    code = (
        "import sys, time\nfrom budgetloader.convert import convert\n"
        "from budgetloader.convert.sources import image_folder\n"
        "s = image_folder(sys.argv[1])\n"
        "def slow(done):\n    print(done, flush=True); time.sleep(0.05)\n"
        "convert(s, sys.argv[2], progress=slow)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(folder), str(target)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert process.stdout is not None
    assert any(line.strip() == b"20" for line in process.stdout)  # it ends if the process does
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
    monkeypatch.setattr("budgetloader.convert.converting.JPEGTRAN", "no-such-program")
    with pytest.raises(DatasetError, match="libjpeg-turbo-progs"):
        convert(image_folder(folder), tmp_path / "x.beton", settings=Settings(lossless=True))
