"""From folders and tables to a file, and from there to a batch."""

import csv
import io
import json

import numpy as np
import pytest
import torch
from PIL import Image

from budgetloader import BudgetLoader, Dataset, DatasetError, Schedule
from budgetloader.cli import main
from budgetloader.convert.converting import Settings, convert
from budgetloader.convert.labelling import annotated, images_in, masked
from budgetloader.convert.sources import image_folder

COUNT = 6
OPTIONS = {"schedule": Schedule.full(epochs=1), "batch_size": 3, "image_size": 16, "workers": 1, "with_ids": True}


@pytest.fixture(scope="module")
def flat(tmp_path_factory):
    """A folder of images without classes, 40 × 30 and larger."""
    root = tmp_path_factory.mktemp("flat") / "images"
    root.mkdir()
    for i in range(COUNT):
        Image.new("RGB", (40 + 2 * i, 30 + i), (40 * i, 9, 9)).save(root / f"im{i}.png")
    return root


@pytest.fixture(scope="module")
def classed(flat):
    """The same in two class folders."""
    root = flat.parent / "classed"
    for i in range(COUNT):
        (root / "ab"[i % 2]).mkdir(parents=True, exist_ok=True)
        Image.open(flat / f"im{i}.png").save(root / "ab"[i % 2] / f"im{i}.png")
    return root


def table(path, names, **columns):
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file_name", *columns])
        writer.writerows(zip(names, *columns.values(), strict=True))
    return path


def test_a_table_gives_labels_numbers_texts_and_several_labels(flat, tmp_path, capsys):
    order = [3, 0, 5, 1, 4, 2]
    columns = {
        "species": [f"s{i % 3}" for i in order],
        "weight": [i / 2 for i in order],
        "cat": [i % 2 for i in order],
        "dog": [1 - i % 2 for i in order],
        "a_very_long_description": [f"no. {i}" for i in order],
    }
    labels = table(tmp_path / "t.csv", [f"im{i}" for i in order], **columns)
    path = tmp_path / "x.beton"
    chosen = ["weight", "pets=cat+dog", "caption=a_very_long_description"]
    command = ["convert", str(flat), str(path), "--labels", str(labels), "--label", "species", "--columns", *chosen]
    assert main(command) == 0, capsys.readouterr()
    dataset = Dataset(path)
    assert dataset.fields == ("image", "label", "weight", "pets", "caption") and dataset.classes == ("s0", "s1", "s2")
    with BudgetLoader(path, targets=("label", "weight", "pets", "caption"), **OPTIONS) as batches:
        for _, (label, weight, pets, caption), ids in batches:
            for row, i in enumerate(ids.tolist()):
                assert (label[row], weight[row], pets[row].tolist()) == (i % 3, i / 2, [i % 2, 1 - i % 2])
                assert caption[row] == f"no. {i}"


def test_a_folder_without_classes_and_a_table_without_a_label_have_no_labels(flat, tmp_path):
    source = annotated(images_in(flat), table(tmp_path / "t.csv", [f"im{i}.png" for i in range(COUNT)], y=range(COUNT)))
    report = convert(source, tmp_path / "x.beton")
    assert report.samples == COUNT and not report.labels and images_in(tmp_path) is None
    dataset = Dataset(tmp_path / "x.beton", label_field="y")
    assert Dataset(tmp_path / "x.beton").fields == ("image", "y") and dataset.labels.tolist() == list(range(COUNT))


def test_class_folders_keep_their_labels(classed, tmp_path):
    names = ["ab"[i % 2] + f"/im{i}.png" for i in range(COUNT)]
    source = annotated(image_folder(classed), table(tmp_path / "t.csv", names, y=[i / 4 for i in range(COUNT)]))
    convert(source, tmp_path / "x.beton")
    dataset = Dataset(tmp_path / "x.beton")
    assert dataset.classes == ("a", "b") and dataset.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert dataset.column("y")[:].tolist() == [0, 0.5, 1, 0.25, 0.75, 1.25]


def test_images_that_cannot_be_stored_take_their_values_with_them(flat, tmp_path):
    root = tmp_path / "broken"
    root.mkdir()
    for i in range(COUNT):
        (root / f"im{i}.png").write_bytes(b"no" if i == 2 else (flat / f"im{i}.png").read_bytes())
    source = annotated(images_in(root), table(tmp_path / "t.csv", [f"im{i}" for i in range(COUNT)], y=range(COUNT)))
    convert(source, tmp_path / "x.beton", settings=Settings(on_bad="skip"))
    assert Dataset(tmp_path / "x.beton").column("y")[:].tolist() == [0, 1, 3, 4, 5]


@pytest.mark.parametrize(
    ("names", "options", "why"),
    [
        (["im0", "im1"], {}, "no row for 4 of the 6 images, such as im2.png.*--missing skip"),
        (["im0"] * 6, {}, "names 'im0' in rows 1 and 2"),
        ([f"im{i}" for i in range(6)], {"key": "nil"}, "no column 'nil'; say which does, with --key"),
        ([f"im{i}" for i in range(6)], {"label": "nil"}, "no column 'nil' for the label"),
        ([f"im{i}" for i in range(6)], {"label": "y"}, "label 0.5 in 'y'"),
        ([f"im{i}" for i in range(6)], {"columns": ["nil"]}, "no column 'nil'; it has 'file_name', 'y'"),
        ([f"im{i}" for i in range(6)], {"columns": {"a name": "y"}}, "16 letters"),
        ([f"im{i}" for i in range(6)], {"columns": {"label": "y"}}, "two fields are named 'label'"),
    ],
)
def test_a_table_that_does_not_fit_is_refused(flat, classed, tmp_path, names, options, why):
    labels = table(tmp_path / "t.csv", names, y=[0.5] * len(names))
    with pytest.raises(DatasetError, match=why):
        convert(
            annotated(image_folder(classed) if "two" in why else images_in(flat), labels, **options), tmp_path / "x"
        )
    assert not (tmp_path / "x").exists()


def test_images_without_a_row_can_be_left_out_and_rows_without_an_image_are_told(flat, tmp_path):
    labels = table(tmp_path / "t.csv", ["im1", "im4", "other"], y=[1, 4, 9])
    source = annotated(images_in(flat), labels, missing="skip")
    assert source.names == ["im1.png", "im4.png"] and source.columns[0].values == [1, 4]
    assert source.load(1).size == (48, 34)
    rows, images = source.warnings
    assert rows.startswith("1 of the 3 rows of") and images.startswith("4 images that")


def test_a_file_name_in_several_folders_is_ambiguous(classed, tmp_path):
    for folder in "ab":
        Image.new("RGB", (8, 8)).save(classed / folder / "same.png")
    try:
        labels = table(tmp_path / "t.csv", [*(f"im{i}" for i in range(COUNT)), "same"], y=range(COUNT + 1))
        with pytest.raises(DatasetError, match="'same' names 2 images"):
            annotated(image_folder(classed), labels)
    finally:
        for folder in "ab":
            (classed / folder / "same.png").unlink()


# COCO


def coco(path, *, keypoints=False, **changed):
    images = [{"id": 100 + i, "file_name": f"im{i}.png", "width": 1, "height": 1} for i in range(COUNT)]
    category = {"id": 7, "name": "dog"}
    if keypoints:
        category["keypoints"] = ["nose", "left_eye", "right_eye"]
    annotations = [
        {
            "image_id": 100 + i,
            "category_id": 7 if k else 3,
            "bbox": [2 + k, 3, 10, 8],
            "iscrowd": k,
            **({"keypoints": [5, 6, 2, 7, 8, 1, 0, 0, 0]} if keypoints and k else {}),
        }
        for i in range(COUNT)
        for k in range(i % 3)
    ]
    content = {"images": images, "annotations": annotations, "categories": [category, {"id": 3, "name": "cat"}]}
    path.write_text(json.dumps({**content, **changed}))
    return path


def test_cocos_boxes_follow_the_image_from_its_file_to_the_batch(flat, tmp_path, capsys):
    path = tmp_path / "x.beton"
    assert main(["convert", str(flat), str(path), "--labels", str(coco(tmp_path / "c.json"))]) == 0
    assert "boxes: boxes" in capsys.readouterr().out
    dataset = Dataset(path)
    assert dataset.fields == ("image", "image_id", "boxes", "box_labels", "box_crowd")
    boxes = dataset.column("boxes")
    assert [len(one) for one in boxes[:]] == [0, 1, 2, 0, 1, 2] and boxes[2].tolist() == [
        [2, 3, 12, 11],
        [3, 3, 13, 11],
    ]
    assert dataset.column("box_labels").field.notes["classes"] == ["cat", "dog"]
    assert dataset.column("box_labels")[2].tolist() == [0, 1] and dataset.column("image_id")[:].tolist() == list(
        range(100, 106)
    )
    with BudgetLoader(
        Dataset(path, label_field="image_id"), targets="boxes", train=False, **{**OPTIONS, "schedule": None}
    ) as batches:
        for _, boxes, ids in batches:
            for row, i in enumerate(ids.tolist()):
                height, width = 30 + i, 40 + 2 * i
                side = round(0.875 * height)
                left, top = (width - side) // 2, (height - side) // 2
                expected = (np.array([[2 - left, 3 - top, 12 - left, 11 - top]]) * 16 / side).clip(0, 16)
                if i % 3:
                    np.testing.assert_allclose(boxes[row][:1], expected, atol=1e-4)


def test_boxes_points_and_masks_shrink_with_the_image(flat, tmp_path):
    folder = tmp_path / "masks"
    folder.mkdir()
    for i in range(COUNT):
        mask = np.zeros((30 + i, 40 + 2 * i), np.uint8)
        mask[:, : (40 + 2 * i) // 2] = 5
        Image.fromarray(mask).save(folder / f"im{i}.png")
    source = masked(annotated(images_in(flat), coco(tmp_path / "c.json", keypoints=True)), folder)
    convert(source, tmp_path / "x.beton", settings=Settings(max_side=20))
    dataset = Dataset(tmp_path / "x.beton", label_field="image_id")
    width, height = int(dataset.widths[2]), int(dataset.heights[2])
    by = np.array([width / 44, height / 32])
    assert (width, height) == (20, 15)
    np.testing.assert_allclose(dataset.column("boxes")[2][0], (np.array([2, 3, 12, 11]) * [*by, *by]), rtol=1e-6)
    points = dataset.column("points")
    np.testing.assert_allclose(
        points[2][1], [[5 * by[0], 6 * by[1], 2], [7 * by[0], 8 * by[1], 1], [0, 0, 0]], rtol=1e-6
    )
    assert points[2].shape == (2, 3, 3) and points.field.notes["mirrored"] == [0, 2, 1]
    stored = np.asarray(Image.open(io.BytesIO(dataset.column("mask")[2])))
    assert stored.shape == (15, 20) and set(np.unique(stored)) == {0, 5}
    with BudgetLoader(dataset, targets=("mask", "points"), **OPTIONS) as batches:
        for _, (masks, _), _ in batches:
            assert masks.shape == (3, 16, 16) and set(torch.unique(masks).tolist()) <= {0, 5}


@pytest.mark.parametrize(
    "changed",
    [
        {"annotations": [{"image_id": 100, "category_id": 9, "bbox": [1, 2, 3, 4]}]},
        {"annotations": [{"image_id": 1, "category_id": 7, "bbox": [1, 2, 3, 4]}]},
        {"annotations": [{"image_id": 100, "category_id": 7, "bbox": [1, 2, -3, 4]}]},
        {"annotations": [{"image_id": 100, "category_id": 7, "bbox": [1, 2]}]},
        {"annotations": [{"image_id": 100, "category_id": 7, "bbox": [1, 2, float("nan"), 4]}]},
        {"annotations": [3]},
        {"images": [{"id": "x", "file_name": "a"}]},
        {"categories": [{"name": "a"}]},
    ],
)
def test_annotations_that_are_not_cocos_are_one_error(flat, tmp_path, changed):
    with pytest.raises(DatasetError, match="is not as COCO has it"):
        annotated(images_in(flat), coco(tmp_path / "c.json", **changed))


def test_masks_that_do_not_fit_are_refused(flat, tmp_path):
    (tmp_path / "masks").mkdir()
    with pytest.raises(DatasetError, match="im0.png has no mask in .*it would be im0.png"):
        masked(images_in(flat), tmp_path / "masks")
    for i in range(COUNT):
        Image.new("L", (9, 9)).save(tmp_path / "masks" / f"im{i}.png")
    with pytest.raises(DatasetError, match=r"im0.png: its mask is of 9 × 9 pixels, unlike the image's \(40, 30\)"):
        convert(masked(images_in(flat), tmp_path / "masks"), tmp_path / "x.beton")
    Image.new("RGB", (40, 30)).save(tmp_path / "masks" / "im0.png")
    with pytest.raises(DatasetError, match="has pixels of RGB; a mask has numbers of 8 bits"):
        convert(masked(images_in(flat), tmp_path / "masks"), tmp_path / "x.beton")


@pytest.mark.parametrize("option", ["--key", "--label", "--columns"])
def test_what_a_table_is_needed_for_says_so(flat, tmp_path, capsys, option):
    assert main(["convert", str(flat), str(tmp_path / "x.beton"), option, "y"]) == 1
    assert f"{option} says what to take of a table; give it, as --labels FILE" in capsys.readouterr().err
