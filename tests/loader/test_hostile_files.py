"""Files that a stranger made, or that a disk damaged: one error each, at once, and nothing large allocated."""

import io
import json
import os
import resource
import struct
import time

import numpy as np
import pytest
import simplejpeg
from conftest import damage
from PIL import Image

from budgetloader import BudgetLoader, CorruptSampleError, Dataset, DatasetError, EngineError, Schedule, beton, engines
from budgetloader.cli import main
from budgetloader.convert.converting import Settings, convert
from budgetloader.convert.sources import Source, image_folder
from budgetloader.limits import MAX_PIXELS, MAX_SCANS

ENGINES = [
    pytest.param(name, marks=pytest.mark.skipif(not engines.installed(name), reason=f"{name} is not installed"))
    for name in ("native", "resident", "dali", "ffcv")
]


@pytest.fixture
def little():
    """Lets the process allocate 2 GiB more than it has, so that a bomb is a MemoryError and no burnt machine."""
    with open("/proc/self/statm") as file:
        now = int(file.read().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (now + (2 << 30), before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


def picture(width=64, height=48, **options):
    buffer = io.BytesIO()
    Image.effect_noise((width, height), 50).convert("RGB").save(buffer, "JPEG", **options)
    return buffer.getvalue()


def saying(data, width, height):
    """A JPEG whose header says another size."""
    at = data.index(b"\xff\xc0") if b"\xff\xc0" in data else data.index(b"\xff\xc2")
    return data[: at + 5] + struct.pack(">HH", height, width) + data[at + 9 :]


def scanned(data, times):
    """A progressive JPEG that goes over its pixels so many times more."""
    start = data.rindex(b"\xff\xda")
    return data[:start] + data[start:-2] * times + data[-2:]


def write(path, *samples, notes=None):
    with beton.Writer(path, capacity=len(samples), notes=notes or {}) as writer:
        for data, width, height, label in samples:
            writer.add(data, width=width, height=height, label=label)
    return path


def indexed(path, **changed):
    """Write over the first sample's entry in a file's index, and say that it is right."""
    dataset = Dataset(path)
    start = beton.HEADER.itemsize + len(dataset.fields) * beton.FIELD.itemsize
    layout = beton.metadata_type((beton.TYPE_IMAGE, beton.TYPE_INT))
    samples = np.fromfile(path, layout, count=len(dataset), offset=start)
    for name, value in changed.items():
        if name == "label":
            samples["f1"][0] = value
        else:
            samples["f0"][name][0] = value
    renote(path, fingerprint=beton.fingerprint(samples, dataset.sizes))
    with open(path, "r+b") as file:
        file.seek(start)
        file.write(samples.tobytes())
    return path


def renote(path, text=None, **changed):
    """Write other notes to a file."""
    dataset = Dataset(path)
    arguments = beton.HEADER.itemsize + np.dtype(beton.FIELD).fields["arguments"][1]
    with open(path, "r+b") as file:
        file.seek(arguments + 8)
        (start,) = struct.unpack("<Q", file.read(8))
        notes = text if text is not None else json.dumps({**dataset.notes, **changed}).encode()
        file.seek(arguments + 16)
        file.write(struct.pack("<Q", len(notes)))
        file.seek(start)
        file.write(notes)
    return path


def load(path, **options):
    options = {"batch_size": 2, "image_size": 16, "engine": "native", "workers": 1, "crop": "resized", **options}
    with BudgetLoader(path, schedule=Schedule.full(epochs=1), **options) as batches:
        return [images.clone() for images, _ in batches], sum(epoch.samples_replaced for epoch in batches.stats)


# Checksums


@pytest.fixture
def scratched(tmp_path):
    """A file of 8 grey images, one of which has another grey in it, which decodes as well."""
    grey = [picture(quality=90), *(picture(quality=50 + i) for i in range(7))]
    path = write(tmp_path / "grey.beton", *((data, 64, 48, i) for i, data in enumerate(grey)))
    dataset = Dataset(path)
    data = bytearray(dataset.jpeg(3).tobytes())
    at = next(i for i in range(len(data) - 60, 0, -1) if _decodes_otherwise(data, i))
    with open(path, "r+b") as file:
        file.seek(int(dataset.starts[3]) + at)
        file.write(bytes([data[at] ^ 1]))
    return path


def _decodes_otherwise(data, at):
    other = bytes([*data[:at], data[at] ^ 1, *data[at + 1 :]])
    try:
        return (simplejpeg.decode_jpeg(other) != simplejpeg.decode_jpeg(bytes(data))).any()
    except ValueError:
        return False


def test_verify_finds_what_a_decoder_does_not_notice(scratched, capsys):
    assert len(load(scratched)[0]) == 4  # nothing is noticed
    assert main(["verify", str(scratched)]) == 1
    assert "sample 3: its bytes are not those that were written" in capsys.readouterr().err


@pytest.mark.parametrize("engine", ENGINES)
def test_every_engine_verifies_on_request(scratched, engine):
    options = {"engine": engine, "verify": True, "image_size": 16}
    with pytest.raises(CorruptSampleError, match="sample 3 does not decode .*checksum"):
        load(scratched, **options)
    assert load(scratched, **options, on_corrupt="replace")[1] == 1


def test_a_whole_file_verifies(beton, capsys):
    assert main(["verify", str(beton)]) == 0
    assert "and have their checksums" in capsys.readouterr().out
    plain, verified = load(beton)[0], load(beton, verify=True)[0]
    assert all((a == b).all() for a, b in zip(plain, verified, strict=True))


def test_a_file_without_checksums_opens_and_says_so_when_they_are_asked_for(beton, tmp_path, capsys):
    old = tmp_path / "old.beton"
    old.write_bytes(beton.read_bytes())
    renote(old, checksums=None)
    assert load(old)[0] and main(["verify", str(old)]) == 0
    assert "it has no checksums" in capsys.readouterr().out
    with pytest.raises(DatasetError, match="has no checksums to verify"):
        load(old, verify=True)


def test_an_open_dataset_is_not_verified_behind_its_back(beton):
    with pytest.raises(EngineError, match="open already"):
        load(Dataset(beton), verify=True)
    assert load(Dataset(beton, verify=True), verify=True)[0]


def test_a_damaged_index_and_damaged_checksums_are_said(tmp_path):
    path = write(tmp_path / "a.beton", (picture(), 64, 48, 0), (picture(), 64, 48, 1))
    dataset = Dataset(path)
    start = dataset.notes["checksums"]["start"]
    whole = path.read_bytes()
    label = beton.HEADER.itemsize + 2 * beton.FIELD.itemsize + 16
    for at, why in ((label, "index is damaged"), (start, "checksums are damaged")):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with pytest.raises(DatasetError, match=why):
            Dataset(path)


# Bombs


def test_an_index_of_more_pixels_than_the_limit_is_refused_at_opening(tmp_path, little):
    path = indexed(write(tmp_path / "a.beton", (picture(), 64, 48, 0)), width=65535, height=65535)
    with pytest.raises(DatasetError, match="sample 0 has more pixels than 89,478,485"):
        Dataset(path)
    assert len(Dataset(path, max_pixels=65535 * 65535)) == 1
    with pytest.raises(DatasetError, match="max_pixels 0"):
        Dataset(path, max_pixels=0)


def test_a_header_that_says_more_than_the_index_is_a_corrupt_sample(tmp_path, little):
    bomb = saying(picture(), 30_000, 30_000)
    path = write(tmp_path / "a.beton", (bomb, 64, 48, 0), (picture(), 64, 48, 1))
    began = time.process_time()
    with pytest.raises(CorruptSampleError, match="its size is not the one in the index"):
        load(path)
    assert load(path, on_corrupt="replace")[1] == 1
    assert time.process_time() - began < 5


def test_a_sparse_file_that_says_it_is_large_is_refused(tmp_path):
    path = write(tmp_path / "a.beton", (picture(), 64, 48, 0))
    table = np.zeros(1, beton.ALLOCATION)
    start = Dataset(path).starts[0]
    table["ptr"], table["size"] = start, 1 << 40
    with open(path, "r+b") as file:
        end = int(start) + (1 << 40)
        try:
            file.seek(end)
            file.write(table.tobytes())
        except OSError as error:
            pytest.skip(f"no file of 1 TB here: {error}")
        header = np.zeros(1, beton.HEADER)
        header[0] = (beton.VERSION, 2, beton.PAGE_BYTES, 1, end)
        file.seek(0)
        file.write(header.tobytes())
    with pytest.raises(DatasetError, match="1,099,511,627,776 bytes"):
        Dataset(path)
    header["num_samples"] = 1 << 34  # and an index of nothing
    with open(path, "r+b") as file:
        file.write(header.tobytes())
    with pytest.raises(DatasetError, match=r"sample \d+ is"):  # read no further than to the first that is none
        Dataset(path)


def folder_of(tmp_path, name, data):
    (tmp_path / "images" / "class").mkdir(parents=True, exist_ok=True)
    (tmp_path / "images" / "class" / name).write_bytes(data)
    return tmp_path / "images"


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (lambda: saying(picture(), 30_000, 30_000), "pixels are more than|exceeds limit of"),
        (lambda: scanned(picture(progressive=True), 2000), "scans are more than 100"),
    ],
)
@pytest.mark.parametrize("lossless", [False, True])
def test_a_bomb_is_refused_at_conversion_before_it_is_decoded(tmp_path, data, why, lossless):
    import shutil

    if lossless and not shutil.which("jpegtran"):
        pytest.skip("jpegtran is not installed")
    root = folder_of(tmp_path, "a.jpg", data())
    began = time.process_time()
    with pytest.raises(DatasetError, match=why):
        convert(image_folder(root), tmp_path / "a.beton", settings=Settings(lossless=lossless, threads=1))
    assert time.process_time() - began < 5


@pytest.mark.slow
def test_many_scans_are_refused_at_reading(tmp_path):
    data = scanned(picture(progressive=True), 2000)
    path = write(tmp_path / "a.beton", (data, 64, 48, 0))
    for engine in ("native", *(name for name in ("dali", "ffcv") if engines.installed(name))):
        with pytest.raises(CorruptSampleError, match=f"more than {MAX_SCANS} scans"):
            load(path, engine=engine, batch_size=1)
    plain = write(tmp_path / "b.beton", (picture(progressive=True), 64, 48, 0))
    assert load(plain, batch_size=1)[0]


def test_the_limit_is_a_parameter(tmp_path):
    root = folder_of(tmp_path, "a.png", b"")
    Image.new("RGB", (40, 30)).save(root / "class" / "a.png")
    assert main(["convert", str(root), str(tmp_path / "a.beton"), "--max-pixels", "1199"]) == 1
    assert main(["convert", str(root), str(tmp_path / "a.beton"), "--max-pixels", "1200"]) == 0
    with pytest.raises(DatasetError, match="max_pixels -1"):
        Settings(max_pixels=-1)
    assert MAX_PIXELS == 89_478_485 <= Image.MAX_IMAGE_PIXELS


# Formats, notes, labels


def test_formats_that_start_other_programs_are_not_opened(tmp_path):
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n"
    root = folder_of(tmp_path, "a.jpg", eps)
    with pytest.raises(DatasetError, match="it is no image that PIL knows"):
        convert(image_folder(root), tmp_path / "a.beton")


@pytest.mark.parametrize(
    "text",
    [b"[" * 4000 + b"]" * 4000, b'{"a":' * 3000, b"[]", b"3", b'{"classes": 5}', b'{"classes": ["a", 5]}',
     b'{"checksums": 5}', b'{"checksums": {"algorithm": "crc32", "start": -1, "crc32": 0}}',
     b'{"checksums": {"algorithm": "crc32", "start": 99999999999999, "crc32": 0}}', b'{"fingerprint": 7}',
     b'{"checksums": {"algorithm": "none"}}', b"\xff\xfe", b'{"classes": ["a"]', b"1" * 4400],
)  # fmt: skip
def test_notes_that_nobody_wrote_are_one_error(tmp_path, text):
    path = renote(write(tmp_path / "a.beton", (picture(), 64, 48, 0)), text)
    with pytest.raises(DatasetError, match=r"a\.beton"):
        Dataset(path)


def test_notes_of_any_size_are_not_read(tmp_path, little):
    path = write(tmp_path / "a.beton", (picture(), 64, 48, 0))
    arguments = beton.HEADER.itemsize + np.dtype(beton.FIELD).fields["arguments"][1]
    with open(path, "r+b") as file:
        file.truncate(1 << 36)
        file.seek(arguments + 16)
        file.write(struct.pack("<Q", 1 << 35))
    with pytest.raises(DatasetError):
        Dataset(path)


@pytest.mark.parametrize("label", [-1, 2, 1 << 40])
def test_labels_that_no_class_has_are_refused(tmp_path, label):
    path = indexed(write(tmp_path / "a.beton", (picture(), 64, 48, 0), notes={"classes": ["a", "b"]}), label=label)
    with pytest.raises(DatasetError, match=f"sample 0 has label {label}"):
        Dataset(path)


@pytest.mark.parametrize(
    ("classes", "label"), [(("a", "b"), 2), (("a", "b"), -1), ((), -1), ((), 1 << 31), ((), 1.5), ((), True)]
)
def test_so_they_are_at_conversion(tmp_path, classes, label):
    source = Source(["only"], [label], classes, lambda i: Image.new("RGB", (8, 8)))
    with pytest.raises(DatasetError, match="only has label"):
        convert(source, tmp_path / "a.beton")
    assert os.listdir(tmp_path) == []


def test_names_that_a_terminal_would_obey_are_shown_as_text(tmp_path, capsys):
    path = write(tmp_path / "a.beton", (picture(), 64, 48, 0), notes={"classes": ["a\x1b[2Jb"], "writer": "x\x1b[1m"})
    assert main(["inspect", str(path)]) == 0
    assert "\x1b" not in capsys.readouterr().out


def test_a_library_that_fails_is_not_a_corrupt_sample(beton, monkeypatch):
    """A full memory, or a library that is broken, would have every sample replaced."""
    from budgetloader.engines import rendering, turbojpeg

    def fail(*_, **__):
        raise MemoryError("no memory")

    monkeypatch.setattr(turbojpeg, "library", lambda: None)  # what the system's refuses is left to simplejpeg
    monkeypatch.setattr(rendering.simplejpeg, "decode_jpeg", fail)
    with pytest.raises(MemoryError):
        load(beton, on_corrupt="replace")
    monkeypatch.setattr("budgetloader.jpeg_tables.encode", fail)
    source = Source(["only"], [0], ("a",), lambda i: Image.new("RGB", (8, 8)))
    with pytest.raises(MemoryError):
        convert(source, beton.with_name("x.beton"), settings=Settings(on_bad="skip"))


def test_a_writer_that_meets_a_finished_file_leaves_it_alone(tmp_path, monkeypatch):
    """Between opening the partial file and locking it, another process may rename it to the finished one."""
    import fcntl

    path, flock = tmp_path / "a.beton", fcntl.flock
    done = []

    def slow(file, how):
        if not done:
            done.append(1)
            os.replace(path.with_name("a.beton.partial"), tmp_path / "finished")
            (tmp_path / "finished").write_bytes(b"whole")
        flock(file, how)

    monkeypatch.setattr(beton.fcntl, "flock", slow)
    write(path, (picture(), 64, 48, 0))
    assert (tmp_path / "finished").read_bytes() == b"whole" and len(Dataset(path)) == 1


def test_replacing_counts_a_sample_that_is_damaged_otherwise(beton, tmp_path):
    copy = damage(beton, tmp_path / "damaged.beton", samples=(3, 5))
    assert load(copy, on_corrupt="replace", verify=True)[1] == 2
