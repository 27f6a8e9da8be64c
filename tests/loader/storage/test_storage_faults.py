"""A store that fails: the stream is the local one, or there is one clear error, within the stated limit."""

import itertools
import random
import time

import numpy as np
import pytest

from budgetloader import BudgetLoader, Dataset, Schedule, StorageError
from budgetloader.bench.stores import HANG_SECONDS, Trouble
from budgetloader.storage import mirror
from budgetloader.storage.client import Patience
from budgetloader.storage.dataset import RemoteDataset

QUICK = Patience(attempts=8, seconds=20.0, request_seconds=1.0, first_pause=0.005, longest_pause=0.02)
SHORT = Patience(attempts=3, seconds=20.0, request_seconds=1.0, first_pause=0.005, longest_pause=0.02)


def opened(proxy, patience=QUICK, **options):
    return RemoteDataset(f"{proxy.url}/train.beton", patience=patience, **options)


def ids_of(dataset):
    loader = {"schedule": Schedule.flat("0.618", epochs=2), "batch_size": 8, "image_size": 16}
    with BudgetLoader(dataset, **loader, with_ids=True, workers=2) as batches:
        return [ids.tolist() for _ in batches.epochs() for _, _, ids in batches]


@pytest.mark.parametrize("fault", ["500", "503", "cut"])
def test_requests_that_fail_now_and_then_are_sent_again(proxy, beton, fault):
    far, chance = opened(proxy), random.Random(7)
    proxy.trouble = Trouble(lambda number: fault if chance.random() < 0.3 else None)
    local = Dataset(beton)
    for i in range(70):
        assert (far.jpeg(i) == local.jpeg(i)).all()
    assert far.traffic.retries == len(proxy.trouble.injected) > 0
    assert ids_of(far) == ids_of(beton)


def test_a_request_that_hangs_is_given_up_and_sent_again(proxy, beton):
    far = opened(proxy, Patience(attempts=3, seconds=60.0, request_seconds=0.5 * HANG_SECONDS, first_pause=0.005))
    first = proxy.requests
    proxy.trouble = Trouble(lambda number: "hang" if number == first else None)
    assert (far.jpeg(3) == Dataset(beton).jpeg(3)).all()
    assert far.traffic.retries == 1


@pytest.mark.parametrize("fault", ["500", "503", "cut"])
def test_a_store_that_stays_away_is_one_error_that_names_sample_and_cause(proxy, fault):
    far = opened(proxy, SHORT)
    proxy.trouble = Trouble(lambda number: fault)
    with pytest.raises(StorageError, match=r"train\.beton: sample 5 cannot be read: .*\(tried 3 times in") as raised:
        far.jpeg(5)
    assert fault in ("cut",) or fault in str(raised.value)
    proxy.trouble = Trouble()
    assert len(far.jpeg(5)), "and it is read once the store is back"


def test_an_error_comes_at_its_batch_and_training_goes_on_from_there(proxy, beton):
    expected = ids_of(beton)
    far = opened(proxy, SHORT)
    loader = {"schedule": Schedule.flat("0.618", epochs=2), "batch_size": 8, "image_size": 16}
    with BudgetLoader(far, **loader, with_ids=True, workers=2) as batches:
        found = []
        proxy.trouble = Trouble(lambda number: "500" if number > first + 10 else None)
        first = proxy.requests
        with pytest.raises(StorageError, match="sample"):
            for _ in batches.epochs():
                for _, _, ids in batches:
                    found.append(ids.tolist())
        assert found == expected[: len(found)]
        proxy.trouble = Trouble()
        found += [ids.tolist() for _ in batches.epochs() for _, _, ids in batches]
    assert found == expected


def test_an_object_that_is_replaced_under_the_training_is_one_error(web, proxy, beton):
    far = opened(proxy)
    far.jpeg(0)
    web.etags["train.beton"] = '"another"'
    with pytest.raises(StorageError, match="sample 9 cannot be read: the object was replaced while it was in use"):
        far.jpeg(9)


def test_so_is_one_that_is_replaced_by_a_shorter_one(web, proxy, small_beton):
    """A server says of bytes beyond its end that there are none, and not which object it has now."""
    far = opened(proxy)
    far.jpeg(0)
    web.files["train.beton"] = small_beton.read_bytes()
    with pytest.raises(StorageError, match="sample 69 cannot be read: the object was replaced while it was in use"):
        far.jpeg(69)
    assert far.traffic.retries == 0, "it is not waited for"


def test_bytes_that_are_damaged_on_their_way_are_fetched_again(web, beton):
    far, whole = RemoteDataset(f"{web.url}/train.beton"), web.files["train.beton"]
    local = Dataset(beton)
    start = int(local.starts[4])
    damaged = bytearray(whole)
    damaged[start + 50] ^= 255
    turns = itertools.count()
    answer = type(web).answer

    def answer_once_damaged(request):
        web.files["train.beton"] = bytes(damaged) if next(turns) == 0 else whole
        answer(web, request)

    web.answer = answer_once_damaged
    assert (far.jpeg(4) == local.jpeg(4)).all()
    web.files["train.beton"] = whole


def test_a_sample_that_is_damaged_where_it_is_stored_is_what_a_local_file_would_give(web, beton, tmp_path):
    local = Dataset(beton)
    damaged = bytearray(web.files["train.beton"])
    damaged[int(local.starts[4]) + 50] ^= 255
    web.files["train.beton"] = bytes(damaged)
    far = RemoteDataset(f"{web.url}/train.beton", cache=tmp_path)
    assert bytes(far.jpeg(4)) == bytes(damaged[int(local.starts[4]) :][: int(local.sizes[4])])
    with pytest.raises(Exception, match="sample 4 does not decode.*checksum differs"):
        RemoteDataset(f"{web.url}/train.beton", cache=tmp_path, verify=True).jpeg(4)


def test_a_full_disk_drops_what_is_not_in_use_and_else_is_one_error(web, beton, tmp_path, monkeypatch):
    far, local = RemoteDataset(f"{web.url}/train.beton", cache=tmp_path), Dataset(beton)
    room, write = [6 * int(local.sizes.max())], mirror.Mirror.write
    taken = lambda: sum(int(local.sizes[i]) for i in np.flatnonzero(far._ledger._records >> np.uint64(63)))  # noqa: E731

    def write_while_there_is_room(self, start, data):
        if taken() + len(data) > room[0]:
            raise OSError(28, "No space left on device")
        write(self, start, data)

    monkeypatch.setattr(mirror.Mirror, "write", write_while_there_is_room)
    assert all((far.jpeg(i) == local.jpeg(i)).all() for i in range(0, 70, 3))
    assert far.traffic.evicted > 0
    room[0] = 0
    with pytest.raises(StorageError, match="sample 1: the cache's disk is full; free some room"):
        far.jpeg(1)


def test_a_full_disk_on_which_another_thread_has_just_made_room_is_no_error(web, beton, tmp_path, monkeypatch):
    far, local = RemoteDataset(f"{web.url}/train.beton", cache=tmp_path), Dataset(beton)
    write, failures = mirror.Mirror.write, iter([True, True])

    def fails_twice(self, start, data):
        if next(failures, False):
            raise OSError(28, "No space left on device")
        write(self, start, data)

    monkeypatch.setattr(mirror.Mirror, "write", fails_twice)
    assert (far.jpeg(1) == local.jpeg(1)).all()  # and nothing was there that it could have dropped itself


def test_no_fault_takes_longer_than_the_stated_limit(proxy):
    patience = Patience(attempts=50, seconds=1.0, request_seconds=0.3, first_pause=0.01, longest_pause=0.1)
    far = opened(proxy, patience)
    proxy.trouble = Trouble(lambda number: "hang")
    began = time.monotonic()
    with pytest.raises(StorageError, match="sample 5"):
        far.jpeg(5)
    assert time.monotonic() - began < patience.limit_seconds + 10  # what a busy machine adds


def test_a_server_without_byte_ranges_is_named(web, proxy):
    plain = proxy._ask

    def without_range(request, body):
        del request.headers["Range"]
        return plain(request, body)

    proxy._ask = without_range
    with pytest.raises(StorageError, match="must answer byte ranges"):
        opened(proxy)
