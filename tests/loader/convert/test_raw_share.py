"""Samples stored as pixels: which are chosen, that every engine reads them, and that FFCV's files and ours agree."""

import importlib.util
import subprocess
import sys
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from budgetloader import BudgetLoader, Dataset, DatasetError, EngineError, Schedule
from budgetloader.cli import main
from budgetloader.convert.converting import Settings, convert
from budgetloader.convert.raw_share import RawChoice
from budgetloader.convert.sources import Source, image_folder
from budgetloader.engines import choose, installed
from budgetloader.engines.base import Output
from budgetloader.joined import join

OPTIONS = {"schedule": Schedule.of(["0.6"]), "batch_size": 10, "image_size": 32, "dtype": "uint8", "with_ids": True}


@given(st.fractions(0, 1, max_denominator=50), st.integers(0, 500), st.integers(1, 500))
def test_a_share_is_spread_evenly(share, first, count):
    choice = RawChoice.parse(str(share))
    taken = sum(choice.picks(i) for i in range(first, first + count))
    assert abs(taken - share * count) < 1  # of any stretch, such as a class


@pytest.mark.parametrize("value", [-0.1, 1.5, "clever", "smart:0", "smart:x", "", True, None, "1/0", float("nan")])
def test_what_is_no_choice_is_refused_with_its_value(value):
    with pytest.raises(DatasetError, match="raw .* is not known"):
        RawChoice.parse(value)


def test_smart_takes_images_that_compress_badly():
    choice = RawChoice.parse("smart")
    assert choice.ratio == 4 and choice.pays(pixel_bytes=400, jpeg_bytes=100)
    assert not choice.pays(pixel_bytes=401, jpeg_bytes=100) and not choice.picks(0)
    assert RawChoice.parse("smart:5/2").ratio == Fraction(5, 2)


@pytest.fixture(scope="session")
def half(folder, tmp_path_factory):
    """`folder` with every second image stored as pixels."""
    path = tmp_path_factory.mktemp("raw") / "half.beton"
    report = convert(image_folder(folder), path, settings=Settings(raw=0.5))
    assert report.raw == 35
    return path


@pytest.fixture(scope="session")
def small_raw(folder, tmp_path_factory):
    """`folder` with every image made 40 × 40, as pixels."""
    path, source = tmp_path_factory.mktemp("raw") / "small.beton", image_folder(folder)
    load = lambda i: source.load(i).resize((40, 40))  # noqa: E731
    convert(Source(source.names, source.labels, source.classes, load), path, settings=Settings(raw=1))
    return path


def test_pixels_are_those_of_the_image(folder, half):
    dataset, source = Dataset(half, verify=True), image_folder(folder)
    assert dataset.raw.tolist() == [i % 2 == 1 for i in range(70)]
    for sample in (1, 33, 69):
        stored = dataset.jpeg(sample).reshape(dataset.heights[sample], dataset.widths[sample], 3)
        np.testing.assert_array_equal(stored, np.asarray(source.load(sample).convert("RGB")))


@pytest.mark.parametrize("engine", ["native", "ffcv"])
@pytest.mark.parametrize("interpolation", ["antialias", "linear"])
def test_an_engines_pixels_are_those_of_the_window(half, engine, interpolation):
    if not installed(engine):
        pytest.skip(f"{engine} is not installed")
    from budgetloader.engines.rendering import Decoder
    from budgetloader.plans import Planner, stream
    from budgetloader.resize import resample

    dataset, size = Dataset(half), OPTIONS["image_size"]
    planner = Planner(dataset, schedule=OPTIONS["schedule"], batch_size=10, seed=0)
    decoder, nothing = Decoder(dataset), np.empty((3, 0), np.float32)
    with BudgetLoader(dataset, engine=engine, interpolation=interpolation, **OPTIONS) as batches:
        for plan, (images, _, ids) in zip(stream(planner, epoch=0, step=0), batches, strict=True):
            assert ids.tolist() == plan.samples.tolist()
            for row in np.flatnonzero(dataset.raw[plan.samples]).tolist():
                pixels, out = decoder.decode_whole(int(ids[row])), np.zeros((size, size, 3), np.uint8)
                flip = bool(plan.flips[row])
                assert resample(pixels, *plan.windows[row].tolist(), interpolation == "antialias", flip, nothing, out)
                np.testing.assert_array_equal(images[row].permute(1, 2, 0).numpy(), out)


def test_files_that_are_read_or_joined_give_the_same_batches(half, beton):
    def batches_of(dataset, **options):
        with BudgetLoader(dataset, engine="native", **{**OPTIONS, **options}) as batches:
            return [images.clone() for images, *_ in batches]

    mapped = batches_of(Dataset(half))
    for other in (Dataset(half, mapped=False), Dataset(half, verify=True)):
        assert all(map(torch.equal, mapped, batches_of(other)))
    both = join([half, beton])
    assert both.raw.tolist() == Dataset(half).raw.tolist() + [False] * 70
    assert len(batches_of(both)) > len(mapped)


def test_small_images_stay_on_the_device_or_are_padded(small_raw):
    made = []
    for engine in ("resident", "native"):
        with BudgetLoader(small_raw, engine=engine, **{**OPTIONS, "image_size": 40}, crop="pad") as batches:
            made.append([images.clone() for images, *_ in batches])
    assert all(map(torch.equal, *made))


def test_dali_says_that_it_reads_jpegs_alone(half):
    with pytest.raises(EngineError, match="35 of 70 samples are stored as pixels; use engine='native'|not installed"):
        BudgetLoader(half, engine="dali", **OPTIONS)
    assert choose(output=Output(32, device="cuda:0"), dataset=Dataset(half)) == (
        "native",
        "some samples are stored as pixels, which need no decoder",
    )


def test_the_commands_say_how_many(folder, tmp_path, capsys):
    path = str(tmp_path / "x.beton")
    assert main(["convert", str(folder), path, "--raw", "0.1"]) == 0
    assert "7 stored as pixels" in capsys.readouterr().out
    assert main(["inspect", path]) == 0
    shown = capsys.readouterr().out
    assert "pixels: 7 of 70 samples are stored so" in shown
    assert main(["verify", path]) == 0
    assert main(["convert", str(folder), str(tmp_path / "y.beton"), "--raw", "most"]) != 0
    assert "raw 'most' is not known" in capsys.readouterr().err


def test_smart_stores_what_compresses_badly(folder, tmp_path):
    path = tmp_path / "smart.beton"
    report = convert(image_folder(folder), path, settings=Settings(raw="smart:6"))
    plain = tmp_path / "plain.beton"
    convert(image_folder(folder), plain)
    jpegs, pixels = Dataset(plain), Dataset(path)
    expected = 3 * jpegs.heights * jpegs.widths <= 6 * jpegs.sizes
    assert 0 < report.raw < 70 and report.raw == expected.sum()
    np.testing.assert_array_equal(pixels.raw, expected)


_FFCV = """
import sys
import numpy as np
from ffcv.fields import IntField, RGBImageField
from ffcv.fields.basics import IntDecoder
from ffcv.fields.decoders import SimpleRGBImageDecoder
from ffcv.loader import Loader, OrderOption
from ffcv.writer import DatasetWriter

ours, theirs, images, out = sys.argv[1:]
pixels = np.load(images)
class Data:
    def __len__(self):
        return len(pixels)
    def __getitem__(self, i):
        return pixels[i], i % 10
mode = {"write_mode": "proportion", "compress_probability": 0.5, "jpeg_quality": 90}
fields = {"image": RGBImageField(**mode), "label": IntField()}
np.random.seed(3)
DatasetWriter(theirs, fields, num_workers=1).from_indexed_dataset(Data())
read = []
for path in (ours, theirs):
    pipelines = {"image": [SimpleRGBImageDecoder()], "label": [IntDecoder()]}
    loader = Loader(path, batch_size=7, num_workers=1, order=OrderOption.SEQUENTIAL, os_cache=True, pipelines=pipelines)
    read.append(np.concatenate([i.copy() for i, _ in loader]))
np.savez(out, ours=read[0], theirs=read[1])
"""


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("ffcv") is None, reason="FFCV is not installed")
def test_stock_ffcv_reads_our_pixels_and_we_read_ffcvs(small_raw, tmp_path):
    dataset = Dataset(small_raw)
    pixels = np.stack([dataset.jpeg(i).reshape(40, 40, 3) for i in range(len(dataset))])
    np.save(tmp_path / "images.npy", pixels)
    theirs, out = tmp_path / "theirs.beton", tmp_path / "out.npz"
    command = [sys.executable, "-c", _FFCV, str(small_raw), str(theirs), str(tmp_path / "images.npy"), str(out)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=280)
    assert result.returncode == 0, result.stderr[-3000:]
    read = np.load(out)
    np.testing.assert_array_equal(read["ours"], pixels)
    mixed = Dataset(theirs)
    assert 0 < mixed.raw.sum() < len(mixed)
    with BudgetLoader(theirs, train=False, batch_size=len(mixed), image_size=40, dtype="uint8", crop="pad") as batches:
        ours = next(iter(batches))[0].permute(0, 2, 3, 1).numpy()
    np.testing.assert_array_equal(ours[mixed.raw], read["theirs"][mixed.raw])
    np.testing.assert_array_equal(ours[mixed.raw], pixels[mixed.raw])
