"""Grey images, and images with alpha: on every engine with the window, the flip and the order of three channels."""

import io
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import damage
from PIL import Image
from test_engines import PIXELS, TOLERANCE
from torchvision.transforms import v2

from budgetloader import ArgumentError, BudgetLoader, Dataset, DatasetError, EngineError, Schedule, engines
from budgetloader.convert.converting import Settings, convert
from budgetloader.convert.sources import Source, image_folder
from budgetloader.engines import Batch, DirectEngine
from budgetloader.engines.base import Output
from budgetloader.engines.channels import grey
from budgetloader.engines.rendering import Decoder
from budgetloader.verify import problems

SCHEDULE = Schedule.of(["0.5", 1])
OPTIONS = {"schedule": SCHEDULE, "batch_size": 8, "image_size": 24, "dtype": "uint8", "workers": 2}


def written(folder, path, change, **settings):
    source = image_folder(folder)
    made = Source(source.names, source.labels, source.classes, lambda i: change(source.load(i), i))
    convert(made, path, settings=Settings(**settings))
    return path


def veiled(image, i):
    """An image whose alpha rises from left to right, from a value of its own."""
    image = image.convert("RGBA")
    ramp = np.linspace(i, 255, image.width).astype(np.uint8)
    image.putalpha(Image.fromarray(np.repeat(ramp[None], image.height, 0)))
    return image


@pytest.fixture(scope="module")
def greys(folder, tmp_path_factory):
    """Grey images, which decode to equal channels."""
    return written(folder, tmp_path_factory.mktemp("grey") / "x.beton", lambda image, _: image.convert("L"))


@pytest.fixture(scope="module")
def veils(folder, tmp_path_factory):
    return written(folder, tmp_path_factory.mktemp("alpha") / "x.beton", veiled, alpha="keep")


@pytest.fixture(scope="module")
def small_veils(folder, tmp_path_factory):
    change = lambda image, i: veiled(image.resize((40, 40)), i)  # noqa: E731
    return written(folder, tmp_path_factory.mktemp("alpha") / "small.beton", change, alpha="keep")


def all_of(path, **options):
    """Images, labels and ids of both epochs."""
    options = {**OPTIONS, **options}
    with BudgetLoader(path, with_ids=True, **options) as batches:
        found = [tuple(part.clone() for part in item) for _ in batches.epochs() for item in batches]
        assert all(s.samples_decoded == s.samples_emitted or s.samples_replaced for s in batches.stats)
    return found


def same(first, second):
    return len(first) == len(second) and all(
        all(torch.equal(a, b) for a, b in zip(x, y, strict=True)) for x, y in zip(first, second, strict=True)
    )


@pytest.mark.parametrize("interpolation", ["antialias", "linear"])
@pytest.mark.parametrize("layout", ["channels_last", "contiguous"])
def test_a_grey_image_has_the_bits_of_each_channel_of_a_coloured_one(greys, interpolation, layout):
    for dtype in ("uint8", "float16", "float32"):
        how = {"interpolation": interpolation, "layout": layout, "dtype": dtype, "engine": "native"}
        one = all_of(greys, channels=1, mean=0.5, std=0.25, **how)
        three = all_of(greys, mean=(0.5,) * 3, std=(0.25,) * 3, **how)
        for (images, *others), (coloured, *rest) in zip(one, three, strict=True):
            assert images.shape == (8, 1, 24, 24) or len(images) < 8
            assert all(torch.equal(images[:, 0], coloured[:, c]) for c in range(3))
            assert all(torch.equal(a, b) for a, b in zip(others, rest, strict=True))


def test_grey_is_the_luma_that_the_jpeg_stores(dataset):
    decoder = Decoder(dataset, grey=True)
    for sample in range(0, 70, 9):
        with Image.open(io.BytesIO(dataset.jpeg(sample).tobytes())) as image:
            image.draft("L", image.size)
            np.testing.assert_array_equal(decoder.decode_whole(sample)[..., 0], np.asarray(image))


def test_grey_of_pixels_is_pillows(folder, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    np.testing.assert_array_equal(grey(pixels)[..., 0], np.asarray(Image.fromarray(pixels).convert("L")))
    raw = written(folder, tmp_path / "raw.beton", lambda image, _: image, raw=1)
    dataset = Dataset(raw)
    assert dataset.raw.all()
    whole = dataset.jpeg(3).reshape(int(dataset.heights[3]), int(dataset.widths[3]), 3)
    np.testing.assert_array_equal(Decoder(dataset, grey=True).decode_whole(3), grey(whole))
    mapped, read = (all_of(file, channels=1, engine="native") for file in (dataset, Dataset(raw, mapped=False)))
    assert same(mapped, read)


@pytest.mark.parametrize("crop", ["resized", "pad"])
@pytest.mark.parametrize("engine", PIXELS)
def test_every_engine_makes_the_same_grey_images(beton, small_beton, engine, crop):
    path = small_beton if engine == "resident" or crop == "pad" else beton
    if crop == "pad" and engine in ("dali", "ffcv"):
        pytest.skip("it does not pad")
    ours, native = (all_of(path, channels=1, engine=name, crop=crop) for name in (engine, "native"))
    for (images, *others), (reference, *rest) in zip(ours, native, strict=True):
        assert images.shape[1] == 1 and all(torch.equal(a, b) for a, b in zip(others, rest, strict=True))
        difference = (images.int() - reference.int()).abs().float()
        assert difference.flatten(1).mean(1).max() <= 2 * TOLERANCE[engine] + 0.6  # FFCV's is of three channels


@pytest.mark.parametrize("channels", [1, 4])
@pytest.mark.parametrize("layout", ["channels_last", "contiguous"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_values_are_normalised_with_numbers_of_their_own(small_veils, channels, layout, dtype):
    mean, std = ((0.3,), (0.2,)) if channels == 1 else ((0.1, 0.2, 0.3, 0.4), (0.5, 0.6, 0.7, 0.8))
    shape = {"layout": layout, "channels": channels}
    numbers = [torch.tensor(one).view(1, -1, 1, 1) for one in (mean, std)]
    for engine in ("native", "resident", "synthetic"):
        pixels = all_of(small_veils, engine=engine, **shape)
        values = all_of(small_veils, engine=engine, dtype=dtype, mean=mean, std=std, **shape)
        for (found, *_), (plain, *_) in zip(values, pixels, strict=True):
            expected = ((plain / 255 - numbers[0]) / numbers[1]).to(found.dtype)
            torch.testing.assert_close(found, expected)
            memory = torch.channels_last if layout == "channels_last" else torch.contiguous_format
            assert found.is_contiguous(memory_format=memory)


def test_the_usual_mean_is_imagenets_and_alpha_stays_from_0_to_1():
    assert Output(8, channels=1).mean == (0.449,) and Output(8, channels=1).std == (0.226,)
    assert Output(8, channels=4).mean == (0.485, 0.456, 0.406, 0.0) and Output(8, channels=4).std[3] == 1.0
    assert Output(8).mean == (0.485, 0.456, 0.406) and Output(8, channels=1, mean=0.5).mean == (0.5,)


@pytest.mark.parametrize("channels", [1, 4])
def test_threads_ranks_and_a_resume_change_nothing(veils, channels):
    how = {"channels": channels, "engine": "native"}
    whole = all_of(veils, **how)
    assert same(whole, all_of(veils, **how, workers=4)) and same(whole, all_of(veils, **how, workers=1, prefetch=1))
    for ranks in (2, 4):
        parts = [all_of(veils, **how, rank=rank, world_size=ranks) for rank in range(ranks)]
        for full, *shares in zip(whole[:4], *(part[:4] for part in parts), strict=True):
            assert torch.equal(full[0], torch.cat([share[0] for share in shares]))
    with BudgetLoader(veils, with_ids=True, **how, **OPTIONS) as batches:
        taken = next(iter(batches))
        state = batches.state_dict()
    with BudgetLoader(veils, with_ids=True, **how, **OPTIONS) as batches:
        batches.load_state_dict(state)
        rest = [tuple(part.clone() for part in item) for _ in batches.epochs() for item in batches]
    assert same([taken, *rest], whole)


@pytest.mark.parametrize("channels", [1, 4])
def test_sizes_transforms_views_and_evaluation(veils, channels):
    how = {"channels": channels, "workers": 2, "dtype": "uint8"}
    with BudgetLoader(veils, schedule=SCHEDULE, batch_size=8, image_size="16@1,32@1", **how) as batches:
        shapes = {tuple(images.shape[1:]) for _ in batches.epochs() for images, _ in batches}
    assert shapes == {(channels, 16, 16), (channels, 32, 32)}
    turned, plain = (all_of(veils, channels=channels, transform=t) for t in (v2.RandomHorizontalFlip(p=1.0), None))
    assert all(torch.equal(a[0].flip(3), b[0]) for a, b in zip(turned, plain, strict=True))
    scaled = {"dtype": "float32", "mean": (0.5,) * channels, "std": (0.5,) * channels}
    normalised = all_of(veils, channels=channels, transform=v2.Identity(), **scaled)
    for (images, *_), (pixels, *_) in zip(normalised, plain, strict=True):
        torch.testing.assert_close(images, (pixels / 255 - 0.5) / 0.5)
    with BudgetLoader(veils, train=False, crops="five", batch_size=32, image_size=16, **how) as batches:
        assert next(iter(batches))[0].shape == (5, 32, channels, 16, 16)


@pytest.mark.parametrize("engine", ["native", "resident"])
def test_four_channels_are_the_colours_and_the_alpha_beside_each_other(veils, small_veils, engine):
    path = small_veils if engine == "resident" else veils
    alpha = Dataset(path).image("alpha")
    assert Dataset(path, image_field="alpha").image_field == alpha.image_field == "alpha"
    four, three, one = (
        all_of(file, channels=channels, engine=engine) for file, channels in ((path, 4), (path, 3), (alpha, 1))
    )
    for (images, labels, ids), (colours, others, numbers), (veil, *_) in zip(four, three, one, strict=True):
        assert torch.equal(images[:, :3], colours) and torch.equal(images[:, 3:], veil)
        assert torch.equal(labels, others) and torch.equal(ids, numbers)
    assert same(four, all_of(Dataset(path, mapped=False), channels=4, engine=engine))


def test_alpha_that_is_kept_is_that_of_the_image(veils, folder):
    dataset, source = Dataset(veils), image_folder(folder)
    assert dataset.fields == ("image", "label", "alpha")
    decoder = Decoder(dataset.image("alpha"), grey=True)
    for sample in (0, 30, 69):
        before = np.asarray(veiled(source.load(sample), sample))
        assert np.abs(decoder.decode_whole(sample)[..., 0] - before[..., 3].astype(int)).max() <= 2
        colours = Decoder(dataset).decode_whole(sample).astype(int)
        assert np.abs(colours - before[..., :3]).mean() < 6  # as they are, and not put on white


def test_opaque_images_get_an_alpha_of_255_and_smaller_ones_one_of_their_size(folder, tmp_path):
    path = written(folder, tmp_path / "x.beton", lambda image, _: image, alpha="keep", max_side=100)
    dataset = Dataset(path)
    alpha = dataset.image("alpha")
    assert alpha.heights.max() <= 100 and (alpha.widths == dataset.widths).all()
    assert (Decoder(alpha, grey=True).decode_whole(5) == 255).all()


def test_an_index_that_is_damaged_where_it_has_the_alpha_is_an_error_of_verify(veils, monkeypatch):
    def damaged(name):
        raise DatasetError(f"the entries of {name} are damaged")

    dataset = Dataset(veils)
    monkeypatch.setattr(dataset, "image", damaged)
    with pytest.raises(DatasetError, match="entries of alpha are damaged"):
        list(problems(dataset))


@pytest.mark.parametrize("field", ["image", "alpha"])
def test_a_sample_whose_colours_or_alpha_do_not_decode_is_replaced_as_one(veils, tmp_path, field):
    which = (3, 40)
    if field == "image":
        broken = damage(veils, tmp_path / "x.beton", samples=which)
    else:
        broken = tmp_path / "x.beton"
        content, alpha = bytearray(veils.read_bytes()), Dataset(veils).image("alpha")
        for sample in which:
            start = int(alpha.starts[sample])
            content[start : start + 600] = bytes(600)
        broken.write_bytes(content)
    told = {sample: why for sample, why in enumerate(problems(Dataset(broken), threads=2)) if why}
    assert set(told) == set(which) and all(("'alpha'" in why) == (field == "alpha") for why in told.values())
    four = all_of(broken, channels=4, on_corrupt="replace", engine="native")
    assert not {int(i) for _, _, ids in four for i in ids} & set(which)
    with pytest.raises(DatasetError, match=r"sample (3|40) does not decode"):
        all_of(broken, channels=4, engine="native")


def test_what_cannot_be_is_refused_in_words(beton, veils, tmp_path):
    for engine in ("dali", "ffcv"):
        if engines.installed(engine):
            with pytest.raises(EngineError, match="makes images of 1 or 3 channels; use engine='native'"):
                all_of(veils, channels=4, engine=engine)
    with pytest.raises(DatasetError, match="has no image field 'alpha'.*--alpha keep"):
        all_of(beton, channels=4, engine="native")
    for wrong in (2, True, "3", 3.5):
        with pytest.raises(ArgumentError, match="channels .*: give 1 .grey., 3"):
            all_of(beton, channels=wrong)
    for options, message in (
        ({"channels": 1, "mean": (0.5, 0.5)}, "mean .*: give one number, of grey"),
        ({"channels": 4, "std": (0.5, 0.5, 0.5)}, "std .*four numbers, of red, green, blue and alpha"),
        ({"channels": 1, "std": 0}, "std .*one number"),
        ({"channels": 1, "mean": 120}, r"mean=\(0.471,\)"),
    ):
        with pytest.raises(ArgumentError, match=message):
            all_of(veils, **options)
    with pytest.raises(DatasetError, match="alpha='keep' cannot be resumed"):
        convert(image_folder(tmp_path.parent), tmp_path / "y.beton", settings=Settings(alpha="keep"), resume=True)
    for settings, message in (({"alpha": "drop"}, "flatten, keep"), ({"alpha": "keep", "lossless": True}, "no alpha")):
        with pytest.raises(DatasetError, match=message):
            Settings(**settings)
    with pytest.raises(DatasetError, match="'label' for image_field"):
        Dataset(veils).image("label")


def test_an_engine_of_ones_own_that_knows_three_channels_alone_is_refused(beton):
    class Coloured(DirectEngine):
        def __init__(self, job):
            super().__init__(capacity=job.capacity)

        def make(self, plan):
            return Batch(torch.zeros(len(plan), 3, 24, 24), torch.from_numpy(plan.labels), plan)

    assert len(all_of(beton, engine=Coloured)) > 3
    with pytest.raises(EngineError, match="made images of 3 channels, and channels=1 was asked for"):
        all_of(beton, engine=Coloured, channels=1)


@pytest.mark.long
@pytest.mark.skipif(not engines.installed("ffcv"), reason="FFCV is not installed")
def test_stock_ffcv_opens_a_file_with_alpha(tmp_path):
    script = """
import sys
import numpy as np
from ffcv.loader import Loader, OrderOption
from ffcv.fields.decoders import IntDecoder, SimpleRGBImageDecoder
pipelines = {"image": [SimpleRGBImageDecoder()], "label": [IntDecoder()], "alpha": [SimpleRGBImageDecoder()]}
loader = Loader(sys.argv[1], batch_size=7, num_workers=1, order=OrderOption.SEQUENTIAL, pipelines=pipelines)
found = [[part.copy() for part in batch] for batch in loader]
np.savez(sys.argv[2], **{name: np.concatenate([batch[i] for batch in found]) for i, name in enumerate(pipelines)})
"""
    small = tmp_path / "small.beton"
    convert(_of_one_size(), small, settings=Settings(alpha="keep"))
    command = [sys.executable, "-W", "ignore", "-c", script, str(small), str(tmp_path / "found.npz")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-3000:]
    found, dataset = np.load(tmp_path / "found.npz"), Dataset(small)
    np.testing.assert_array_equal(found["label"][:, 0], dataset.labels)
    decoder = Decoder(dataset.image("alpha"), grey=True)
    for sample in range(14):
        differing = np.abs(found["alpha"][sample][..., :1] - decoder.decode_whole(sample).astype(int))
        assert differing.mean() <= 1.5 and differing.max() <= 12  # by FFCV's fast inverse DCT


def _of_one_size():
    images = [veiled(Image.new("RGB", (48, 32), (9 * i, 90, 200)), 7 * i) for i in range(14)]
    return Source([str(i) for i in range(14)], [i % 3 for i in range(14)], (), images.__getitem__)
