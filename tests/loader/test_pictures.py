"""Other images of a sample as targets: cut as the first one is, or whole, by the mean or the nearest pixel."""

import io

import numpy as np
import pytest
import torch
from conftest import damage
from PIL import Image as Pillow
from test_engines import PIXELS

from budgetloader import ArgumentError, BudgetLoader, CorruptSampleError, Dataset, Schedule, jpeg_tables
from budgetloader.columns import Images
from budgetloader.convert.converting import Settings, convert
from budgetloader.convert.other_sources import beton_source
from budgetloader.convert.sources import Filled, Source, image_folder
from budgetloader.fields import Field, Picture
from budgetloader.geometry import move_mask
from budgetloader.joined import join
from budgetloader.pictures import Image

SCHEDULE = Schedule.of(["0.5", 1])
OPTIONS = {"schedule": SCHEDULE, "batch_size": 8, "image_size": 24, "dtype": "uint8", "workers": 2}


class Pixels:
    """The first images, as pixels of a second field, and halves of them as JPEGs of a third."""

    def __init__(self, folder, *, half):
        self.source, self.half = image_folder(folder), half

    def __len__(self):
        return len(self.source)

    def __getitem__(self, i):
        image = self.source.load(i)
        if not self.half:
            return Picture(image.tobytes(), *image.size, raw=True)
        image = image.resize((image.width // 2, image.height // 2)).convert("L")
        return Picture(jpeg_tables.encode(image, quality=100, subsampling="4:4:4"), *image.size)


@pytest.fixture(scope="module")
def path(folder, tmp_path_factory):
    """Images with two more: `same`, pixels of the first one's size, and `half`, grey JPEGs of half of it."""
    source = image_folder(folder)
    small = lambda i: source.load(i)  # noqa: E731
    columns = (
        Filled(Field("same", "image"), Pixels(folder, half=False)),
        Filled(Field("half", "image", notes={"channels": 1}), Pixels(folder, half=True)),
    )
    made = Source(source.names, source.labels, source.classes, small, columns=columns)
    path = tmp_path_factory.mktemp("pictures") / "x.beton"
    convert(made, path, settings=Settings(raw=1))
    return path


def all_of(path, targets, **options):
    """Images, targets and ids of both epochs."""
    with BudgetLoader(path, with_ids=True, targets=targets, **{**OPTIONS, **options}) as batches:
        return [(images.clone(), found, ids) for _ in batches.epochs() for images, found, ids in batches]


def plans_of(path, **options):
    """The plans of the same batches."""
    with BudgetLoader(path, **{**OPTIONS, **options}) as batches:
        return [
            plan for epoch in range(2) for plan in batches._planner.plans(epoch, range(batches._planner.steps[epoch]))
        ]


def test_the_nearest_pixel_is_that_of_masks(path):
    dataset = Dataset(path)
    for (_, found, _), plan in zip(all_of(path, Image("same", filter="nearest")), plans_of(path), strict=True):
        assert found.dtype == torch.uint8 and found.shape == (len(plan), 3, 24, 24)
        for row, sample in enumerate(plan.samples.tolist()):
            whole = dataset.jpeg(sample).reshape(int(dataset.heights[sample]), int(dataset.widths[sample]), 3)
            expected = move_mask(whole, plan.windows[row], bool(plan.flips[row]), image_size=24)
            np.testing.assert_array_equal(found[row].permute(1, 2, 0).numpy(), expected)


def mean_of(pixels, top, left, height, width, size):
    """The mean of what each pixel covers, by a matrix for each axis."""

    def matrix(start, length, whole):
        edges = start + np.arange(size + 1) * length / size
        cells = np.arange(whole)
        overlap = np.minimum(edges[1:, None], cells + 1) - np.maximum(edges[:-1, None], cells)
        return np.clip(overlap, 0, None) * size / length

    down, across = matrix(top, height, pixels.shape[0]), matrix(left, width, pixels.shape[1])
    return np.einsum("yh,hwc,xw->yxc", down, pixels, across, optimize=True)  # one axis, and then the other


def test_the_area_filter_is_the_mean_of_what_a_pixel_covers(path):
    dataset = Dataset(path)
    for (_, found, _), plan in zip(all_of(path, "same"), plans_of(path), strict=True):
        for row, sample in enumerate(plan.samples.tolist()):
            whole = dataset.jpeg(sample).reshape(int(dataset.heights[sample]), int(dataset.widths[sample]), 3)
            expected = mean_of(whole, *plan.windows[row].tolist(), 24)
            expected = expected[:, ::-1] if plan.flips[row] else expected
            assert np.abs(found[row].permute(1, 2, 0).numpy() - expected).max() <= 0.51


def test_an_image_of_another_size_shows_the_same_part(path):
    for images, found, _ in all_of(path, "half"):
        assert found.shape[1] == 1  # as its notes say
        grey = (images.float() * torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)).sum(1, keepdim=True)
        assert (found.float() - grey).abs().mean() < 6  # and by a pixel off it would be more


def test_all_of_an_image_is_never_mirrored(path):
    targets = {"whole": Image("same", window="whole", size=10), "grey": Image("half", channels=3)}
    dataset = Dataset(path)
    for _, found, ids in all_of(path, targets):
        assert found["whole"].shape[1:] == (3, 10, 10) and found["grey"].shape[1:] == (3, 24, 24)
        for row, sample in enumerate(ids.tolist()):
            whole = dataset.jpeg(sample).reshape(int(dataset.heights[sample]), int(dataset.widths[sample]), 3)
            expected = mean_of(whole, 0, 0, *whole.shape[:2], 10)
            assert np.abs(found["whole"][row].permute(1, 2, 0).numpy() - expected).max() <= 0.51


@pytest.mark.parametrize("engine", PIXELS)
def test_they_are_the_same_on_every_engine_and_any_number_of_threads_and_ranks(path, small_beton, engine):
    if engine in ("dali", "resident"):
        pytest.skip("it needs JPEGs, or images of one size")
    whole = all_of(path, "half", engine="native", workers=1)
    ours = all_of(path, "half", engine=engine)
    assert all(torch.equal(a[1], b[1]) and torch.equal(a[2], b[2]) for a, b in zip(ours, whole, strict=True))
    for ranks in (2, 4):
        parts = [all_of(path, "half", engine=engine, rank=rank, world_size=ranks) for rank in range(ranks)]
        for full, *shares in zip(whole[:4], *(part[:4] for part in parts), strict=True):
            assert torch.equal(full[1], torch.cat([share[1] for share in shares]))


def test_with_views_each_has_its_own(path):
    both = all_of(path, ("label", "half"), views=2)
    once = all_of(path, ("label", "half"))
    differ = 0
    for (images, (labels, found), _), (_, (others, single), _) in zip(both, once, strict=True):
        assert found.shape == (2, images.shape[1], 1, 24, 24)
        assert torch.equal(found[0], single) and torch.equal(labels, others)
        differ += not torch.equal(found[0], found[1])
    assert differ > 5


def test_padded_images_have_a_border(small_beton, folder, tmp_path):
    source = image_folder(folder)
    load = lambda i: source.load(i).resize((40, 40))  # noqa: E731

    class White:
        def __len__(self):
            return len(source)

        def __getitem__(self, i):
            return Picture(bytes([255]) * 4800, 40, 40, raw=True)

    columns = (Filled(Field("white", "image"), White()),)
    convert(Source(source.names, source.labels, source.classes, load, columns=columns), tmp_path / "x.beton")
    asked = {"nearest": Image("white", filter="nearest", fill=7), "area": Image("white", fill=7)}
    seen = set()
    for _, found, _ in all_of(tmp_path / "x.beton", asked, image_size=40):
        assert torch.equal(found["nearest"], found["area"])  # a pixel for a pixel
        seen |= set(found["nearest"].unique().tolist())
    assert seen == {7, 255}


def test_a_column_of_images_gives_what_is_stored(path):
    dataset = Dataset(path)
    column = dataset.column("same")
    assert isinstance(column, Images) and len(column) == 70 and dataset.fields[2:] == ("same", "half")
    assert column[3].raw and column[3].data == dataset.jpeg(3).tobytes()
    assert [one.raw for one in dataset.column("half")[[5, 1]]] == [False, False]
    assert dataset.column("half").field.notes == {"channels": 1}


def test_a_conversion_keeps_them_and_makes_them_smaller_with_the_first(path, tmp_path):
    convert(beton_source(path), tmp_path / "all.beton")
    assert Dataset(tmp_path / "all.beton").column("half")[9].data == Dataset(path).column("half")[9].data
    convert(beton_source(path), tmp_path / "small.beton", settings=Settings(max_side=100))
    small = Dataset(tmp_path / "small.beton")
    assert max(small.image("same").heights.max(), small.image("same").widths.max()) == 100
    assert small.image("half").widths.max() == 50


def test_files_that_are_joined_have_them_too(path, tmp_path):
    convert(beton_source(path), tmp_path / "y.beton")
    both = join([path, tmp_path / "y.beton"])
    for _, found, ids in all_of(both, Image("half", window="whole", filter="nearest")):
        one = Dataset(path).column("half")[int(ids[0]) % 70]
        with Pillow.open(io.BytesIO(one.data)) as image:
            assert (image.width, image.height) == (one.width, one.height)
        assert found.shape == (len(ids), 1, 24, 24)


def test_with_a_replacement_they_are_of_the_sample_that_is_shown(path, tmp_path):
    broken = damage(path, tmp_path / "x.beton", samples=(3, 40))
    content = bytearray(broken.read_bytes())
    half = Dataset(path).image("half")
    start = int(half.starts[9])
    content[start : start + 300] = bytes(300)
    (tmp_path / "y.beton").write_bytes(content)
    with pytest.raises(CorruptSampleError, match="sample 9: its other image"):
        all_of(tmp_path / "y.beton", "half")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Image("half", filter="cubic"), "filter 'cubic'"),
        (lambda: Image("half", window="all"), "window 'all'"),
        (lambda: Image("half", size=0), "size 0"),
        (lambda: Image("half", channels=4), "channels=4: give 1"),
        (lambda: Image("half", fill=300), "fill=300: give a pixel's value"),
        (lambda: Image("label"), "holds int64, and|give an image field"),
    ],
)
def test_what_cannot_be_asked_for_is_refused(path, make, message):
    with pytest.raises(ArgumentError, match=message):
        all_of(path, make())
