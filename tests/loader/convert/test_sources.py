import os
import pickle

import numpy as np
import pytest
from PIL import Image

from budgetloader import Dataset, DatasetError
from budgetloader.convert.sources import cifar, image_folder, open_source, torchvision_dataset
from budgetloader.generate import generate


def write_cifar10(root, per_file=4):
    root.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(0)
    names = [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]
    for name in names:
        content = {
            b"data": random.integers(0, 256, (per_file, 3072), dtype=np.uint8),
            b"labels": random.integers(0, 10, per_file).tolist(),
        }
        (root / name).write_bytes(pickle.dumps(content))
    (root / "batches.meta").write_bytes(pickle.dumps({b"label_names": [b"c%d" % i for i in range(10)]}))
    return root


def test_an_image_folder_is_read_in_order(folder):
    source = image_folder(folder)
    assert source.names == sorted(source.names) and source.labels == sorted(source.labels)
    assert source.classes[0] == "astronaut" and source.load(0).mode == "RGB"


def test_an_empty_and_a_missing_folder_are_said(tmp_path):
    with pytest.raises(DatasetError, match="no images in class folders"):
        open_source(tmp_path)
    with pytest.raises(DatasetError, match="none does not exist"):
        open_source(tmp_path / "none")


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("x.beton", "is a .beton already"),
        ("x.tar", "is a tar, which is a source by itself"),
        ("x.tar.gz", "is an archive; unpack it"),
        ("X.ZIP", "is an archive; unpack it"),
        ("x.parquet", "is a table of columns; write its images to CLASS/NAME.jpg"),
        ("x.tfrecord", "is another program's container"),
        ("x.npy", "is another program's container"),
        ("labels.csv", "is a list, and labels come from folders"),
        ("x.jpg", "is one image; give a folder"),
        ("x", "is no folder"),
    ],
)
def test_a_file_is_refused_in_words_that_fit_it(tmp_path, name, says):
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(DatasetError) as caught:
        open_source(tmp_path / name)
    assert str(caught.value).startswith(f"{tmp_path / name} {says}")
    if "image" not in says and name != "x":  # and so is a folder of nothing else
        with pytest.raises(DatasetError, match=f"no images in class folders.*{name} in it {says}"):
            open_source(tmp_path)


def test_images_beside_no_class_folder_are_said(tmp_path):
    (tmp_path / "x.jpg").write_bytes(b"x")
    with pytest.raises(DatasetError, match=r"no images in class folders.*; x\.jpg lies in it beside no class folder"):
        open_source(tmp_path)


@pytest.mark.parametrize("address", ["s3://bucket/train", "GS://bucket/x", "https://host/x.tar", "file:///x"])
def test_an_address_is_refused_as_it_was_given(address):
    for opened in (open_source, image_folder, cifar, Dataset, lambda path: generate(path, images=1)):
        with pytest.raises(DatasetError) as caught:
            opened(address)
        assert str(caught.value).startswith(f"{address} is an address, not a path")


def images(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(root / name)
    return root


def test_sets_that_would_be_taken_for_classes_are_warned_of(tmp_path):
    (warning,) = open_source(images(tmp_path, "train/cat/1.png", "val/cat/1.png", "val/dog/1.png")).warnings
    assert "the classes train and val" in warning
    assert f"`budgetloader convert {tmp_path / 'train'} train.beton`" in warning and "val.beton`" in warning


@pytest.mark.parametrize(
    "names",
    [
        ("train/1.png", "val/1.png"),  # perhaps a set of things that are called so
        ("train/a/1.png", "plane/a/1.png"),
        ("cat/1.png", "dog/1.png"),
        ("train/1.png", "test/a/1.png"),
    ],
)
def test_classes_are_no_reason_for_a_warning(tmp_path, names):
    assert open_source(images(tmp_path, *names)).warnings == ()


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_an_unreadable_folder_is_said(tmp_path):
    (tmp_path / "a").mkdir(mode=0)
    with pytest.raises(DatasetError, match="cannot be read|no images"):
        open_source(tmp_path)


def test_cifar_pickles_are_read_as_their_authors_wrote_them(tmp_path):
    root = write_cifar10(tmp_path / "cifar-10-batches-py")
    train, test = open_source(tmp_path), open_source(root, split="test")
    assert (len(train), len(test)) == (20, 4) and train.classes[3] == "c3" and not train.lossy
    first = pickle.loads((root / "data_batch_1").read_bytes())
    np.testing.assert_array_equal(np.asarray(train.load(2)), first[b"data"][2].reshape(3, 32, 32).transpose(1, 2, 0))
    assert train.labels[:4] == first[b"labels"]


def test_cifar100_has_fine_labels(tmp_path):
    content = {b"data": np.zeros((3, 3072), np.uint8), b"fine_labels": [5, 6, 7], b"coarse_labels": [0, 0, 0]}
    (tmp_path / "train").write_bytes(pickle.dumps(content))
    (tmp_path / "meta").write_bytes(pickle.dumps({b"fine_label_names": [b"x"] * 100}))
    source = open_source(tmp_path)
    assert source.labels == [5, 6, 7] and len(source.classes) == 100


def test_a_pickle_that_would_run_code_is_refused(tmp_path):
    root = write_cifar10(tmp_path)
    marker = tmp_path / "ran"

    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(marker),)

    (root / "data_batch_3").write_bytes(pickle.dumps({b"data": Evil()}))
    with pytest.raises(DatasetError, match="data_batch_3"):
        cifar(root)
    assert not marker.exists()


@pytest.mark.parametrize("content", [b"", b"garbage", pickle.dumps({b"x": 1}), pickle.dumps([1])])
def test_damaged_pickles_are_said(tmp_path, content):
    root = write_cifar10(tmp_path)
    (root / "data_batch_2").write_bytes(content)
    with pytest.raises(DatasetError, match="CIFAR"):
        cifar(root)


def test_torchvision_datasets_on_disk_are_read(folder, tmp_path):
    write_cifar10(tmp_path / "cifar-10-batches-py")
    ours = torchvision_dataset("ImageFolder", folder)
    assert ours.labels == image_folder(folder).labels and ours.load(0).mode == "RGB"
    with pytest.raises(DatasetError, match="no dataset 'Nope'"):
        torchvision_dataset("Nope", tmp_path)
    with pytest.raises(DatasetError, match="Flowers102 cannot be read"):
        torchvision_dataset("Flowers102", tmp_path)
