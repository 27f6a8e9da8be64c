"""Boxes, points and masks follow the image through every engine, and after a replacement."""

import io

import numpy as np
import pytest
import torch
from conftest import damage
from PIL import Image

from budgetloader import (
    ArgumentError,
    BudgetLoader,
    CorruptSampleError,
    DatasetError,
    Schedule,
    beton,
    engines,
    jpeg_tables,
)
from budgetloader.fields import Field
from budgetloader.spatial import Boxes, Detection, Mask, Points

SIDE, COUNT = 48, 24
FIELDS = (
    Field("boxes", "list", "<f4", (4,), "boxes"),
    Field("kinds", "list", "<i8"),
    Field("corner", "array", "<f4", (3,), "points"),
    Field("eyes", "list", "<f4", (3, 3), "points", {"mirrored": [0, 2, 1]}),
    Field("mask", "bytes", role="mask"),
    Field("raw", "json"),
)


def rectangle(i):
    left, top = 4 + i % 9, 6 + i % 7
    return left, top, left + 14 + i % 5, top + 10 + i % 11


def png(array, mode="L"):
    buffer = io.BytesIO()
    Image.fromarray(array).convert(mode).save(buffer, "PNG")
    return buffer.getvalue()


def picture(i):
    """Bright with a dark rectangle, its mask, and what lies in it."""
    left, top, right, bottom = rectangle(i)
    mask = np.zeros((SIDE, SIDE), np.uint8)
    mask[top:bottom, left:right] = 7
    pixels = np.repeat(np.where(mask, 0, 255).astype(np.uint8)[..., None], 3, axis=2)
    data = jpeg_tables.encode(Image.fromarray(pixels), quality=100, subsampling="4:4:4", interval=2)
    values = {
        "boxes": [rectangle(i), (-9, -9, -1, -1)][: 1 + i % 2],
        "kinds": [i, -1][: 1 + i % 2],
        "corner": [left, top, 2],
        "eyes": [[[left, top, 2], [right, top, 2], [left, bottom, 1]]] * (i % 3),
        "mask": png(mask),
        "raw": [list(rectangle(i))],
    }
    return data, values


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("spatial") / "x.beton"
    with beton.Writer(path, capacity=COUNT, notes={}, fields=FIELDS) as writer:
        for i in range(COUNT):
            data, values = picture(i)
            writer.add(data, width=SIDE, height=SIDE, label=i, values=values)
    return path


def batches_of(path, targets, **options):
    options = {"schedule": Schedule.full(epochs=2), "batch_size": 6, "image_size": 96, "dtype": "uint8", **options}
    options = {"engine": "native", "crop": "resized", "workers": 2, **options}
    with BudgetLoader(path, targets=targets, with_ids=True, **options) as batches:
        for _ in range(2 if options["schedule"] else 1):
            yield from batches


def dark(image):
    """Where an image is dark: bool [height, width]."""
    return image.float().mean(0).numpy() < 128


def covers(box, shown):
    """Whether a box is where pixels are, to a pixel and a half of an image that is enlarged by up to seven."""
    rows, columns = np.flatnonzero(shown.any(1)), np.flatnonzero(shown.any(0))
    if not rows.size:
        return ((box[2:] - box[:2]) < 2).any()
    found = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
    return (np.abs(found - box.numpy()) <= 2.5).all()


@pytest.mark.parametrize(
    ("engine", "crop"), [("native", "resized"), ("dali", "resized"), ("native", "pad"), ("resident", "pad")]
)
def test_they_lie_where_the_pixels_are(path, engine, crop):
    """FFCV, which takes long to compile, has the same windows by the engines' contract."""
    if not engines.installed(engine):
        pytest.skip(f"{engine} is not installed")
    seen = 0
    for images, (boxes, masks), _ in batches_of(path, ("boxes", "mask"), engine=engine, crop=crop, image_size=SIDE):
        assert masks.dtype == torch.uint8 and masks.shape == (len(images), SIDE, SIDE)
        for image, box, mask in zip(images, boxes, masks, strict=True):
            shown = dark(image) if crop == "resized" else dark(image) & (mask.numpy() > 0)
            assert covers(box[0], shown)
            differing = (dark(image) != (mask.numpy() == 7)) & _inside(image, crop)
            assert differing.mean() < 0.06 and set(mask.unique().tolist()) <= {0, 7}
            seen += 1
    assert seen == 2 * COUNT


def _inside(image, crop):
    """Without the black border of images that are shifted, which is dark, too."""
    return np.ones((SIDE, SIDE), bool) if crop == "resized" else np.pad(np.ones((SIDE - 8, SIDE - 8), bool), 4)


def test_the_targets_are_the_same_on_every_engine_thread_and_rank(path):
    asked = ("boxes", "corner", "eyes", "mask")

    def rows(**options):
        return {
            (step, i): [part[row].numpy().tobytes() for part in targets]
            for step, (_, targets, ids) in enumerate(batches_of(path, asked, **options))
            for row, i in enumerate(ids.tolist())
        }

    whole = rows()
    assert rows(engine="synthetic", workers=4) == rows(workers=1) == whole
    for ranks in (2, 3):
        assert {k: v for r in range(ranks) for k, v in rows(rank=r, world_size=ranks).items()} == whole


def test_points_and_boxes_agree(path):
    for _, targets, ids in batches_of(path, {"box": "boxes", "corner": "corner", "eyes": "eyes", "all": Boxes("raw")}):
        for row, i in enumerate(ids.tolist()):
            left, top, right, bottom = targets["box"][row][0].tolist()
            assert torch.equal(targets["all"][row], targets["box"][row][:1])
            x, y, seen = targets["corner"][row].tolist()
            assert seen == (2 if 0 <= x <= 96 and 0 <= y <= 96 else 0)
            if seen and (left, top, right, bottom) == pytest.approx((x, y, right, bottom), abs=1e-3):
                continue  # not mirrored: the corner is the left one
            assert not seen or (right, top) == pytest.approx((x, y), abs=1e-3)
            assert targets["eyes"][row].shape == (i % 3, 3, 3)


def test_a_mirrored_face_has_its_eyes_exchanged(path):
    found = set()
    for _, (eyes, corner), ids in batches_of(path, ("eyes", Points("corner"))):
        for row in range(len(ids)):
            if len(eyes[row]):
                nose, left, right = eyes[row][0].tolist()
                assert nose[:2] == corner[row].tolist()[:2]
                mirrored = left[0] == nose[0]  # what lay below the nose was the right eye
                found.add(mirrored)
                assert (left if mirrored else right)[1] > nose[1]
    assert found == {True, False}


def test_a_detector_gets_boxes_it_can_use_and_what_goes_with_them(path):
    kept = 0
    for _, targets, ids in batches_of(path, Detection("boxes", labels="kinds", least=2.0)):
        assert len(targets) == len(ids)
        for one, i in zip(targets, ids.tolist(), strict=True):
            assert one["boxes"].shape == (len(one["labels"]), 4) and set(one["labels"].tolist()) <= {i}
            assert (one["boxes"][:, 2:] - one["boxes"][:, :2] >= 2).all()
            kept += len(one["boxes"])
    assert COUNT < kept < 2 * COUNT


def test_a_replacements_targets_follow_its_own_window(path, tmp_path):
    broken = damage(path, tmp_path / "broken.beton", samples=tuple(range(0, COUNT, 2)))
    for images, (boxes, masks), ids in batches_of(broken, ("boxes", "mask"), on_corrupt="replace"):
        assert (ids % 2 == 1).all()
        for image, box, mask in zip(images, boxes, masks, strict=True):
            assert covers(box[0], dark(image)) and (dark(image) != (mask.numpy() == 7)).mean() < 0.06


def test_evaluation_and_resume_move_them_too(path):
    for images, (boxes, _), _ in batches_of(path, ("boxes", "mask"), train=False, schedule=None):
        assert all(covers(box[0], dark(image)) for image, box in zip(images, boxes, strict=True))
    options = {"schedule": Schedule.full(epochs=1), "batch_size": 6, "image_size": 32, "engine": "synthetic"}
    with (
        BudgetLoader(path, targets="mask", **options) as first,
        BudgetLoader(path, targets="mask", **options) as second,
    ):
        whole = [masks.clone() for _, masks in first]
        for _ in zip(range(2), second, strict=False):
            pass
        second.load_state_dict({**second.state_dict(), "step": 1})
        rest = [masks.clone() for _, masks in second]
    assert all(torch.equal(a, b) for a, b in zip(whole[1:], rest, strict=True))


def test_they_follow_images_whose_size_changes_by_epoch(path):
    sizes = []
    for images, (boxes, masks), _ in batches_of(path, ("boxes", "mask"), image_size=[32, 64]):
        sizes.append(images.shape[-1])
        assert masks.shape[-1] == images.shape[-1]
        assert all(covers(box[0], dark(image)) for image, box in zip(images, boxes, strict=True))
    assert sizes == [32] * 4 + [64] * 4


def test_a_transform_is_given_them_and_may_change_them(path):
    def upside_down(images, targets, keys):
        boxes, masks = targets
        side = images.shape[-1]
        turned = [torch.stack((b[:, 0], side - b[:, 3], b[:, 2], side - b[:, 1]), dim=1) for b in boxes]
        return images.flip(2), (turned, masks.flip(1))

    for images, (boxes, masks), _ in batches_of(path, ("boxes", "mask"), transform=upside_down):
        for image, box, mask in zip(images, boxes, masks, strict=True):
            assert covers(box[0], dark(image)) and (dark(image) != (mask.numpy() == 7)).mean() < 0.06


def file_of(path, field, value):
    data, _ = picture(0)
    with beton.Writer(path, capacity=1, notes={}, fields=[field]) as writer:
        writer.add(data, width=SIDE, height=SIDE, label=0, values={field.name: value})
    return path


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (b"no png", "is no PNG"),
        (png(np.zeros((SIDE, 9), np.uint8)), "is of 9 × 48 pixels, and its image of 48 × 48"),
        (png(np.zeros((SIDE, SIDE), np.uint8), "RGB"), "has pixels of RGB"),
        (png(np.zeros((SIDE, SIDE), np.uint8))[:60], "is no PNG"),
    ],
)
def test_a_mask_that_cannot_be_one_names_its_sample(tmp_path, value, why):
    file = file_of(tmp_path / "x.beton", Field("mask", "bytes", role="mask"), value)
    with pytest.raises(CorruptSampleError, match=f"sample 0: its mask {why}"):
        list(batches_of(file, "mask", batch_size=1))


@pytest.mark.parametrize("value", [{"a": 1}, [[1, 2]], [["a"] * 4], 3, [[1, 2, 3, 4], [1]]])
def test_json_that_holds_no_boxes_is_one_error(tmp_path, value):
    file = file_of(tmp_path / "x.beton", Field("b", "json"), value)
    with pytest.raises(DatasetError, match="boxes are"):
        list(batches_of(file, Boxes("b"), batch_size=1))


@pytest.mark.parametrize("mirrored", [3, ["a"], [0, 0], [[0]], [1 << 80]])
def test_notes_of_a_stranger_are_checked(path, tmp_path, mirrored):
    field = Field("p", "list", "<f4", (1, 3), "points", {"mirrored": mirrored})
    file = file_of(tmp_path / "x.beton", field, [[[1, 2, 3]]])
    with pytest.raises(DatasetError, match="'p' has notes that are not of the form"):
        list(batches_of(file, "p", batch_size=1))


def test_what_cannot_be_asked_for_is_refused(path):
    for wrong in (lambda: Points("p", mirrored=[0, 0]), lambda: Mask("m", fill=300), lambda: Detection("b", least=0)):
        with pytest.raises(ArgumentError, match="give"):
            wrong()
    with pytest.raises(DatasetError, match="sample .* has .* boxes, and its 'labels' are of shape"):
        list(batches_of(path, Detection("boxes", labels="eyes")))


ASKED = {"box": Boxes("boxes"), "mask": "mask", "found": Detection("boxes", labels="kinds"), "label": "label"}


@pytest.mark.parametrize("options", [{"views": 3}, {"train": False, "schedule": None, "crops": "ten"}], ids=str)
def test_each_view_and_crop_has_its_own(path, options):
    seen = 0
    for images, targets, ids in batches_of(path, ASKED, image_size=SIDE, **options):
        views = len(images)
        assert targets["mask"].shape == (views, len(ids), SIDE, SIDE) and len(targets["label"]) == len(ids)
        assert len(targets["box"]) == len(targets["found"]) == views
        assert torch.equal(targets["label"], ids)
        for image, boxes, masks, found in zip(images, targets["box"], targets["mask"], targets["found"], strict=True):
            for one, box, mask, each in zip(image, boxes, masks, found, strict=True):
                assert covers(box[0], dark(one)) and (dark(one) != (mask.numpy() == 7)).mean() < 0.06
                assert len(each["boxes"]) == len(each["labels"])
                seen += 1
    assert seen == (2 * 3 if "views" in options else 10) * COUNT


def test_the_first_view_has_the_targets_that_there_are_without_others(path):
    asked = ("mask", ["corner", "boxes"])
    for (_, two, _), (_, one, _) in zip(batches_of(path, asked, views=2), batches_of(path, asked), strict=True):
        assert torch.equal(two[0][0], one[0]) and torch.equal(two[1][0][0], one[1][0])
        assert not torch.equal(two[0][0], two[0][1])
        assert all(torch.equal(a, b) for a, b in zip(two[1][1][0], one[1][1], strict=True))


def test_a_transform_hands_back_the_targets_of_each_view_in_their_form(path):
    def same(images, targets, keys):
        return images, targets

    def other(images, targets, keys):
        return images, targets[0]

    asked = ("mask", "label")
    plain = list(batches_of(path, asked, views=2))
    for (_, targets, _), (_, (masks, labels), _) in zip(
        batches_of(path, asked, views=2, transform=same), plain, strict=True
    ):
        assert torch.equal(targets[0], masks) and torch.equal(targets[1], labels)
    with pytest.raises(ArgumentError, match="gave targets of another form"):
        list(batches_of(path, asked, views=2, transform=other))
