import shutil
import tracemalloc

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from budgetloader import BudgetLoader, Dataset, DatasetError, EngineError, Schedule, beton


@pytest.fixture
def copy(beton, tmp_path):
    return shutil.copy(beton, tmp_path / "copy.beton")


def patch(path, offset, data):
    with open(path, "r+b") as file:
        file.seek(offset)
        file.write(data)


def test_the_index_says_what_the_folder_has(dataset, folder):
    assert len(dataset) == 70 and dataset.classes == tuple(sorted(p.name for p in folder.iterdir()))
    np.testing.assert_array_equal(dataset.labels, np.repeat(np.arange(14), 5))


def test_the_bytes_are_views_of_the_map_and_read_only(dataset):
    view = dataset.jpeg(3)
    assert view.base is not None and not view.flags.writeable


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "too short"),
        (b"hello", "too short"),
        (b"PK\x03\x04" + bytes(100), "version 2"),
        (bytes(5000), "version 2"),
    ],
)
def test_a_foreign_file_is_refused(tmp_path, content, why):
    (tmp_path / "x.beton").write_bytes(content)
    with pytest.raises(DatasetError, match=why):
        Dataset(tmp_path / "x.beton")


def test_a_missing_file_and_a_folder_are_said(tmp_path):
    with pytest.raises(DatasetError, match="does not exist"):
        Dataset(tmp_path / "none.beton")
    with pytest.raises(DatasetError, match="cannot be read"):
        Dataset(tmp_path)


def test_a_truncated_file_is_refused_wherever_it_is_cut(copy):
    size = copy.stat().st_size
    for keep in (size - 1, size - 24, size - 70 * 24, size // 2, 9_000_000, 3000, 30):
        with open(copy, "r+b") as file:
            file.truncate(keep)
        with pytest.raises(DatasetError, match="truncated|damaged|allocation|too short"):
            Dataset(copy)


def test_a_file_of_unsupported_fields_is_refused(copy):
    patch(copy, beton.HEADER.itemsize, b"\x03")
    with pytest.raises(DatasetError, match="types"):
        Dataset(copy)


@pytest.mark.parametrize(
    ("mode", "why"),
    [(b"\x01", "sample 0 has .* bytes of pixels, and .* are another number"), (b"\x02", "neither a JPEG")],
)
def test_pixels_of_another_number_and_unknown_kinds_are_refused(copy, mode, why):
    patch(copy, beton.HEADER.itemsize + 2 * beton.FIELD.itemsize, mode)
    with pytest.raises(DatasetError, match=why):
        Dataset(copy)


def test_pointers_outside_the_file_are_refused(copy):
    patch(copy, beton.HEADER.itemsize + 2 * beton.FIELD.itemsize + 5, b"\xff" * 8)
    with pytest.raises(DatasetError, match="sample 0"):
        Dataset(copy)


@given(st.data())
@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_damage_before_the_images_raises_or_is_harmless(copy, data):
    """Whatever the index says after damage, reading the samples stays inside the file."""
    end = beton.HEADER.itemsize + 2 * beton.FIELD.itemsize + 70 * 24
    places = [*range(30), *range(end - 70 * 24, end), *range(30, 60)]
    offset = data.draw(st.sampled_from(places))
    with open(copy, "rb") as file:
        file.seek(offset)
        before = file.read(1)
    patch(copy, offset, bytes([data.draw(st.integers(0, 255))]))
    try:
        dataset = Dataset(copy)
        assert sum(len(dataset.jpeg(i)) for i in range(len(dataset))) > 0
    except DatasetError:
        pass
    finally:
        patch(copy, offset, before)


def test_an_index_of_imagenets_size_takes_less_than_200_mb(tmp_path):
    """The bar of memory; the time is the benchmark below."""
    path = imagenet_sized(tmp_path)
    tracemalloc.start()
    dataset = Dataset(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(dataset) == 1_281_167 and peak < 200_000_000


def test_benchmark_open_imagenet_sized(benchmark, tmp_path):
    """The bar: under 2 s."""
    path = imagenet_sized(tmp_path)
    benchmark.pedantic(Dataset, args=(path,), rounds=5, warmup_rounds=1)


def imagenet_sized(folder):
    """A file with ImageNet's number of index entries, all of one image's bytes."""
    count, path = 1_281_167, folder / "big.beton"
    samples = np.zeros(count, beton.metadata_type((beton.TYPE_IMAGE, beton.TYPE_INT)))
    start = -(-(100_000 + samples.nbytes) // beton.PAGE_BYTES) * beton.PAGE_BYTES
    samples["f0"]["width"], samples["f0"]["height"] = 500, 375
    samples["f0"]["data_ptr"] = start + np.arange(count)
    table = np.zeros(count, beton.ALLOCATION)
    table["ptr"], table["size"] = start + np.arange(count), 1
    fields = np.zeros(2, beton.FIELD)
    fields["type_id"] = beton.TYPE_IMAGE, beton.TYPE_INT
    header = np.array([(beton.VERSION, 2, beton.PAGE_BYTES, count, start + count)], beton.HEADER)
    with open(path, "wb") as file:
        file.write(header.tobytes() + fields.tobytes() + samples.tobytes())
        file.seek(start + count)
        file.write(table.tobytes())
    return path


def test_the_order_of_the_allocation_table_does_not_matter(tmp_path):
    """FFCV's workers write in any order, and its table has entries of no bytes at the next value's place."""
    path = of_fields(tmp_path / "x.beton", [("image", IMAGE), ("label", INT)])
    data, table = path.read_bytes(), np.zeros(5, beton.ALLOCATION)
    start = beton.PAGE_BYTES
    table["ptr"], table["size"] = start + np.array([0, 1, 2, 3, 5]), [1, 1, 1, 2, 7]
    place = beton.HEADER.itemsize + 2 * beton.FIELD.itemsize
    samples = np.frombuffer(data, beton.metadata_type((IMAGE, INT)), 5, place).copy()
    samples["f0"]["data_ptr"] = table["ptr"]
    head = bytearray(data[: start + 12])
    head[place : place + samples.nbytes] = samples.tobytes()
    head[16:24] = np.uint64(start + 12).tobytes()
    empty = np.array([(0, start + 2, 0)], beton.ALLOCATION)
    for rows in (table, table[::-1], np.concatenate([table[:2], empty, table[2:]]), table[[4, 0, 3, 1, 2]]):
        path.write_bytes(bytes(head) + rows.tobytes())
        assert Dataset(path).sizes.tolist() == [1, 1, 1, 2, 7]
    path.write_bytes(bytes(head) + table[:4].tobytes())
    with pytest.raises(DatasetError, match="sample 4 has no allocation"):
        Dataset(path)


INT, IMAGE, FLOAT = beton.TYPE_INT, beton.TYPE_IMAGE, beton.TYPE_FLOAT


def of_fields(path, fields):
    """A file of 5 samples with these (name, type) fields, as FFCV writes it; field i of sample j is 10 · i + j."""
    samples = np.zeros(5, beton.metadata_type([kind for _, kind in fields]))
    start = beton.PAGE_BYTES
    rows, table = np.zeros(len(fields), beton.FIELD), np.zeros(5, beton.ALLOCATION)
    for i, (name, kind) in enumerate(fields):
        rows[i]["type_id"] = kind
        rows[i]["name"][: len(name)] = np.frombuffer(name.encode(), np.uint8)
        if kind == IMAGE:
            samples[f"f{i}"] = [(beton.MODE_JPEG, 8, 8, start + j) for j in range(5)]
        else:
            samples[f"f{i}"] = 10 * i + np.arange(5)
    table["ptr"], table["size"] = start + np.arange(5), 1
    header = np.array([(beton.VERSION, len(fields), beton.PAGE_BYTES, 5, start + 5)], beton.HEADER)
    with open(path, "wb") as file:
        file.write(header.tobytes() + rows.tobytes() + samples.tobytes())
        file.seek(start + 5)
        file.write(table.tobytes())
    return path


def test_of_several_integers_the_one_named_label_is_the_label(tmp_path):
    path = of_fields(tmp_path / "x.beton", [("image", IMAGE), ("index", INT), ("weight", FLOAT), ("label", INT)])
    dataset = Dataset(path)
    assert dataset.label_field == "label" and dataset.labels.tolist() == [30, 31, 32, 33, 34]
    other = Dataset(path, label_field="index")
    assert other.label_field == "index" and other.labels.tolist() == [10, 11, 12, 13, 14]
    for wrong in ("weight", "image", "none"):
        with pytest.raises(DatasetError, match=f"no integer field '{wrong}' for label_field; it has 'index', 'label'"):
            Dataset(path, label_field=wrong)


def test_of_several_integers_without_a_label_one_has_to_be_named(tmp_path):
    path = of_fields(tmp_path / "x.beton", [("index", INT), ("image", IMAGE), ("class", INT)])
    with pytest.raises(DatasetError, match=r"\('index', 'class'\) and none named 'label'.*label_field='index'"):
        Dataset(path)
    options = {"schedule": Schedule.full(epochs=1), "batch_size": 2, "image_size": 8, "engine": "synthetic"}
    with BudgetLoader(path, **options, label_field="class") as batches:
        assert sorted(label for _, labels in batches for label in labels.tolist()) == [20, 21, 22, 23, 24]
    with BudgetLoader(Dataset(path, label_field="class"), **options, label_field="class"):
        pass
    with pytest.raises(EngineError, match=r"open already; give Dataset\(path, label_field='index'\)"):
        BudgetLoader(Dataset(path, label_field="class"), **options, label_field="index")


def test_the_only_integer_is_the_label_whatever_its_name(tmp_path):
    assert Dataset(of_fields(tmp_path / "x.beton", [("image", IMAGE), ("y", INT)])).label_field == "y"
