"""Folders and tars of ordinary JPEGs as sources: the same batches as from a .beton of the same bytes."""

import io
import logging
import os
import tarfile

import pytest
from own_sources import jpeg, tar_of

from budgetloader import ArgumentError, BudgetLoader, DatasetError, EngineError, Schedule
from budgetloader.beton import Writer
from budgetloader.image_folder import JpegFolder
from budgetloader.tars import JpegTar

OPTIONS = {"schedule": Schedule.of([1, "0.5"]), "batch_size": 16, "image_size": 24, "workers": 2, "with_ids": True}


@pytest.fixture
def small(tmp_path):
    """A folder of two classes, with an image in each."""
    for name in ("a", "b"):
        (tmp_path / "set" / name).mkdir(parents=True)
        (tmp_path / "set" / name / "1.jpg").write_bytes(jpeg())
    return tmp_path / "set"


@pytest.fixture(scope="module")
def packed(folder, tmp_path_factory):
    """`folder` as a tar of class folders, as a WebDataset shard, and as a .beton of the very same bytes."""
    place, source = tmp_path_factory.mktemp("packed"), JpegFolder(folder)
    with tarfile.open(place / "folders.tar", "w") as tar:
        for name in source.names:
            tar.add(folder / name, f"./train/{name}")
    with tarfile.open(place / "shard.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        for sample, label in enumerate(source.labels):
            for end, data in (("cls", str(label).encode()), ("jpg", source.jpeg(sample).tobytes()), ("json", b"{}")):
                member = tarfile.TarInfo(f"{sample:06}.{end}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    with Writer(place / "same.beton", capacity=len(source), notes={}) as writer:
        for sample in range(len(source)):
            size = {"width": int(source.widths[sample]), "height": int(source.heights[sample])}
            writer.add(source.jpeg(sample).tobytes(), label=int(source.labels[sample]), **size)
    return place


def batches_of(path, **options):
    with BudgetLoader(path, **{**OPTIONS, **options}) as batches:
        return [
            (ids.tolist(), labels.tolist(), images.clone()) for _ in batches.epochs() for images, labels, ids in batches
        ]


@pytest.mark.parametrize("engine", ["native", "dali"])
@pytest.mark.parametrize("kind", ["folder", "folders.tar", "shard.tar"])
def test_batches_are_those_of_a_beton_of_the_same_bytes(folder, packed, engine, kind):
    pytest.importorskip("nvidia.dali") if engine == "dali" else None
    expected = batches_of(packed / "same.beton", engine=engine)
    found = batches_of(folder if kind == "folder" else packed / kind, engine=engine)
    for (ids, labels, images), (other_ids, other_labels, others) in zip(found, expected, strict=True):
        assert (ids, labels) == (other_ids, other_labels) and (images == others).all()


def test_a_state_resumes_and_ranks_share(folder):
    whole = batches_of(folder, engine="native")
    with BudgetLoader(folder, engine="native", **OPTIONS) as batches:
        for step, _ in enumerate(batches):
            if step == 2:
                state = batches.state_dict()
    with BudgetLoader(folder, engine="native", **OPTIONS) as batches:
        batches.load_state_dict(state)
        assert [ids.tolist() for _ in batches.epochs() for _, _, ids in batches] == [ids for ids, _, _ in whole[3:]]
    halves = [batches_of(folder, engine="synthetic", rank=rank, world_size=2) for rank in range(2)]
    assert [a + b for (a, _, _), (b, _, _) in zip(*halves, strict=True)][:4] == [ids for ids, _, _ in whole[:4]]


def test_it_is_said_once_that_images_are_decoded_whole(small, caplog):
    made = {**OPTIONS, "batch_size": 1}
    with caplog.at_level(logging.WARNING, "budgetloader"), BudgetLoader(small, **made) as batches:
        assert batches.dataset.classes == ("a", "b") and len(list(batches)) == 2
    assert [record.message.count("2 ordinary JPEGs, which are decoded whole") for record in caplog.records] == [1]


def test_progressive_and_grey_images_and_long_headers_are_read(small):
    (small / "a" / "2.JPEG").write_bytes(jpeg(progressive=True))
    (small / "a" / "3.jpg").write_bytes(jpeg(color=7, mode="L"))
    (small / "a" / "4.jpg").write_bytes(jpeg(comment=b"x" * 60_000))
    (small / "a" / "5.jpg").write_bytes(jpeg(size=(50, 20)))
    dataset = JpegFolder(small)
    assert dataset.names == ("a/1.jpg", "a/2.JPEG", "a/3.jpg", "a/4.jpg", "a/5.jpg", "b/1.jpg")
    assert dataset.heights.tolist() == [30, 30, 30, 30, 20, 30] and dataset.labels.tolist() == [0] * 5 + [1]
    with BudgetLoader(small, train=False, batch_size=6, image_size=8, engine="native", dtype="uint8") as batches:
        assert next(iter(batches))[0][:, :, 4, 4].tolist() == [[0] * 3] * 2 + [[7] * 3] + [[0] * 3] * 3


@pytest.mark.slow
@pytest.mark.parametrize("options", [{"engine": "ffcv"}, {"verify": True}, {"label_field": "label"}])
def test_what_ordinary_jpegs_do_not_have_is_refused(small, options):
    pytest.importorskip("ffcv") if options.get("engine") == "ffcv" else None
    with pytest.raises((EngineError, DatasetError, ArgumentError), match="map|no checksums|no fields"):
        BudgetLoader(small, **{**OPTIONS, "batch_size": 1, **options})


# What strangers may have put there


@pytest.mark.parametrize(
    ("put", "message"),
    [
        (
            lambda root: (root / "a" / "2.png").write_bytes(b"x"),
            "is no JPEG, and nothing else is read without a conversion",
        ),
        (lambda root: (root / "a" / "2.jpg").write_bytes(b"x"), r"a/2.jpg is no JPEG; mend or remove it"),
        (lambda root: (root / "a" / "2.jpg").write_bytes(b""), "a/2.jpg has 0 bytes"),
        (lambda root: (root / "a" / "2.jpg").write_bytes(jpeg()[:100]), "a/2.jpg ends in its header"),
        (lambda root: (root / "a" / "2.jpg").write_bytes(jpeg(mode="CMYK")), "has 4 channels"),
        (lambda root: (root / "a" / "2.jpg").symlink_to("/etc/passwd"), "leads out of"),
        (lambda root: (root / "c").symlink_to("/etc"), "leads out of"),
        (lambda root: os.truncate(root / "a" / "1.jpg", 1 << 30), "1,073,741,824 bytes, as no JPEG"),
    ],
)
def test_a_folder_of_strange_things_is_refused_by_name(small, put, message):
    put(small)
    with pytest.raises(DatasetError, match=message):
        JpegFolder(small)


def test_pipes_are_no_images_and_links_inside_are(small):
    os.mkfifo(small / "a" / "0.jpg")
    (small / "b" / "2.jpg").symlink_to(small / "a" / "1.jpg")
    (small / ".hidden").mkdir()
    assert JpegFolder(small).names == ("a/1.jpg", "b/1.jpg", "b/2.jpg")


def test_an_image_that_says_it_is_huge_is_refused(small):
    data = bytearray(jpeg())
    at = data.index(b"\xff\xc0")
    data[at + 5 : at + 9] = b"\xff\xff\xff\xff"
    (small / "a" / "2.jpg").write_bytes(data)
    with pytest.raises(DatasetError, match=r"65,535 × 65,535 pixels"):
        JpegFolder(small)


def test_a_file_that_changes_under_the_loader_is_an_error(small):
    dataset = JpegFolder(small)
    (small / "a" / "1.jpg").write_bytes(jpeg(color=9, size=(40, 31)))
    with pytest.raises(DatasetError, match=r"a/1.jpg was written to or cut short"):
        dataset.jpeg(0)
    (small / "b" / "1.jpg").unlink()
    with pytest.raises(DatasetError, match="cannot be read"):
        dataset.jpeg(1)


def test_folders_without_jpegs_are_said(tmp_path):
    with pytest.raises(DatasetError, match="no JPEGs in class folders"):
        BudgetLoader(tmp_path, **OPTIONS)
    (tmp_path / "batches.meta").write_bytes(b"x")
    with pytest.raises(DatasetError, match="CIFAR's pickles; convert"):
        BudgetLoader(tmp_path, **OPTIONS)


# Tars


def test_names_in_a_tar_are_never_paths_here(tmp_path):
    members = [("../../etc/passwd.jpg", jpeg(), {}), ("/abs/x/1.jpg", jpeg(), {}), ("x/\x1b[2J.jpg", jpeg(), {})]
    dataset = JpegTar(tar_of(tmp_path / "x.tar", *members))
    assert dataset.classes == ("etc", "x") and dataset.labels.tolist() == [0, 1, 1]
    assert all(len(dataset.jpeg(sample)) == len(jpeg()) for sample in range(3)) and not (tmp_path / "etc").exists()


def test_links_and_devices_in_a_tar_are_passed_over(tmp_path):
    links = [("x/2.jpg", b"", {"type": kind, "linkname": "/etc/passwd"}) for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE)]
    devices = [("x/3.jpg", b"", {"type": kind}) for kind in (tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.DIRTYPE)]
    assert JpegTar(tar_of(tmp_path / "x.tar", *links, ("x/1.jpg", jpeg(), {}), *devices)).names == ("x/1.jpg",)


def header(name="x/1.jpg", **changes):
    member = tarfile.TarInfo(name)
    for key, value in changes.items():
        setattr(member, key, value)
    return member.tobuf(tarfile.GNU_FORMAT)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "no tar that can be read"),
        (b"no tar" * 200, "no tar that can be read"),
        (header(size=5000) + b"x" * 512, "cut short"),
        (header(size=1 << 62), "cut short"),
        (header(size=-512), "ends before it begins"),
        (header(type=b"x", size=-512), "a file's header has|no tar"),
        (header(type=b"L", size=1 << 40), "a file's header has"),
        (header(type=b"x", size=1 << 40), "a file's header has"),
        (header() + b"garbage" * 100, "damaged|no tar|has 0 bytes"),
        (b"".join(header(type=b"L", size=0) for _ in range(3000)), "no tar|no image"),
        (header("1.txt"), "no image .* among its 1 files"),
        (header("1.jpg", size=0), "lies in no folder"),
    ],
)
def test_hostile_tars_are_refused(tmp_path, data, message):
    (tmp_path / "x.tar").write_bytes(data)
    with pytest.raises(DatasetError, match=message):
        JpegTar(tmp_path / "x.tar")


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([("1.jpg", jpeg(), {}), ("2.jpg", jpeg(), {}), ("1.cls", b"3", {})], "2.jpg has no .cls beside it"),
        ([("1.jpg", jpeg(), {}), ("1.cls", b"cat", {})], "1.cls has 'cat', and no number"),
        ([("1.jpg", jpeg(), {}), ("1.cls", b"9" * 31, {})], "and no number from 0"),
        ([("1.jpg", jpeg(), {}), ("1.cls", b" " * 5000, {})], "and no number from 0"),
    ],
)
def test_labels_that_are_none_are_refused(tmp_path, members, message):
    with pytest.raises(DatasetError, match=message):
        JpegTar(tar_of(tmp_path / "x.tar", *members))


def test_compressed_tars_pipes_and_missing_ones_are_refused(tmp_path):
    (tmp_path / "x.tar.gz").write_bytes(b"x")
    with pytest.raises(DatasetError, match="is compressed"):
        BudgetLoader(tmp_path / "x.tar.gz", **OPTIONS)
    os.mkfifo(tmp_path / "pipe.tar")
    with pytest.raises(DatasetError, match="is no file"):
        BudgetLoader(tmp_path / "pipe.tar", **OPTIONS)
    with pytest.raises(DatasetError, match="cannot be read: No such file"):
        BudgetLoader(tmp_path / "none.tar", **OPTIONS)


def test_a_tar_that_is_written_to_is_an_error(tmp_path):
    dataset = JpegTar(tar_of(tmp_path / "x.tar", ("x/1.jpg", jpeg(), {})))
    with open(tmp_path / "x.tar", "ab") as file:
        file.write(b"more")
    with pytest.raises(DatasetError, match="written to or cut short"):
        dataset.jpeg(0)
