"""Blocks of a dataset in object storage, decoded as a worker does it, in this process."""

import numpy as np
import pytest

pytest.importorskip("obstore")
pytest.importorskip("msgspec")

from budgetloader import Dataset, StorageError
from budgetloader.convert.converting import Settings, convert
from budgetloader.convert.sharding import gather, list_path, part_of, shard_path
from budgetloader.convert.sources import image_folder
from budgetloader.service import fetching
from budgetloader.service.blocks import Key, Reading, Spec
from budgetloader.service.fetching import opened
from budgetloader.service.worker import decode_block, report


def key(path, *, epoch=0, number=0, ids=b"", on_corrupt="raise"):
    fingerprint = Reading((str(path),), False, 1 << 26).open().fingerprint
    return Key(Spec(fingerprint, 24, "antialias", "resized", 3, on_corrupt), epoch, number, ids)


def images(reading, of, rows=70):
    return decode_block(reading, of, 0, rows).images.copy()  # the buffer is the worker's own


def test_a_block_is_that_of_the_local_file_and_is_fetched_once(web, beton):
    far = Reading((f"{web.url}/train.beton",), False, 1 << 26)
    expected = images(Reading((str(beton),), False, 1 << 26), key(beton))
    before = opened(far).traffic
    assert (images(far, key(beton)) == expected).all()
    after = opened(far).traffic
    fetched, sizes = after.fetched_bytes - before.fetched_bytes, int(Dataset(beton).sizes.sum())
    assert sizes <= fetched <= sizes + 4400 * 70 and after.misses == 70
    told = report(far)
    assert told.traffic.fetched_bytes == after.fetched_bytes and told.seconds > 0
    assert report(Reading((str(beton),), False, 1 << 26)) is None


def test_a_block_of_a_trainers_own_samples_is_fetched_too(web, beton):
    far = Reading((f"{web.url}/train.beton",), False, 1 << 26)
    ids = np.array([5, 5, 69, 0, 33] * 10, "<i8").tobytes()
    of = key(beton, ids=ids)
    assert (images(far, of, rows=50) == images(Reading((str(beton),), False, 1 << 26), of, rows=50)).all()


def test_a_list_of_shards_gives_the_blocks_of_one_file(web, folder, beton, tmp_path):
    source, settings = image_folder(folder), Settings()
    for number in (1, 2, 3):
        convert(part_of(source, number, 3, settings=settings), shard_path(tmp_path / "train.beton", number, 3))
    place, joined = gather(tmp_path / "train.beton", 3)
    for path in tmp_path.glob("train.*"):
        web.files[path.name] = path.read_bytes()
        web.etags[path.name] = f'"{path.name}"'
    expected = images(Reading((str(beton),), False, 1 << 26), key(beton))
    local = Key(Spec(joined.fingerprint, 24, "antialias", "resized", 3, "raise"), 0, 0)
    assert (images(Reading((place,), False, 1 << 26), local) == expected).all()
    far = Reading((list_path(f"{web.url}/train.beton"),), False, 1 << 26, str(tmp_path / "cache"), 30e6)
    assert (images(far, local) == expected).all()
    assert opened(far).traffic.misses == 70
    assert (images(far, local) == expected).all()
    assert opened(far).traffic.misses == 70, "the second time from the cache"


def test_a_store_that_fails_fails_the_block_and_not_the_next(web, beton):
    far = Reading((f"{web.url}/train.beton",), False, 1 << 26)
    whole, expected = web.files["train.beton"], images(Reading((str(beton),), False, 1 << 26), key(beton))
    opened(far)
    del web.files["train.beton"]
    with pytest.raises(StorageError, match="cannot be read"):
        images(far, key(beton))
    web.files["train.beton"] = whole
    assert (images(far, key(beton)) == expected).all()
    assert not opened(far)._source.lent.any(), "nothing is kept in memory"


def test_a_file_that_cannot_be_opened_is_one_error_and_is_asked_for_once(web, beton):
    fetching._opened_once.cache_clear()
    far, before = Reading((f"{web.url}/none.beton",), False, 1 << 26), web.requests
    with pytest.raises(StorageError, match="not found"):
        images(far, key(beton))
    assert web.requests == before + 1 and report(far) is None
    assert web.requests == before + 1, "what is reported behind an error asks for nothing"


def test_a_damaged_sample_is_its_rows_and_no_others(web, beton):
    damaged = bytearray(web.files["train.beton"])
    local = Dataset(beton)
    damaged[int(local.starts[4]) : int(local.starts[4]) + 20] = bytes(20)
    web.files["train.beton"], web.etags["train.beton"] = bytes(damaged), '"damaged"'
    content = decode_block(Reading((f"{web.url}/train.beton",), False, 1 << 26), key(beton), 0, 70)
    assert [sample for _, sample in content.corrupt.values()] == [4]
