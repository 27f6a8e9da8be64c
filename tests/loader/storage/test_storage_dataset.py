"""Datasets on a real S3 server: the same stream as from the local file, on every engine, with and without a cache."""

import hashlib
import multiprocessing

import numpy as np
import pytest

from budgetloader import BudgetLoader, Dataset, Mixture, Schedule, StorageError, engines
from budgetloader.storage import open_file

pytestmark = pytest.mark.usefixtures("configured")
ENGINES = [name for name in engines.NAMES if name != "auto" and engines.installed(name)]
FLAT = Schedule.flat("0.618", epochs=3)


def stream(path, **options):
    """A hash of all ids, labels and pixels, and the traffic."""
    state = hashlib.sha256()
    options = {"schedule": FLAT, "batch_size": 8, "image_size": 16, "dtype": "uint8", "workers": 2, **options}
    with BudgetLoader(path, with_ids=True, **options) as batches:
        for _ in batches.epochs():
            for images, labels, ids in batches:
                for tensor in (images.contiguous(), labels, ids):
                    state.update(tensor.numpy().tobytes())
        return state.hexdigest(), getattr(batches.dataset, "traffic", None)


@pytest.fixture(params=ENGINES)
def engine(request):
    return request.param


def test_the_stream_is_that_of_the_local_file_on_every_engine(on_s3, beton, small_beton, engine, tmp_path):
    path = small_beton if engine == "resident" else beton
    expected, _ = stream(path, engine=engine)
    assert stream(on_s3[path], engine=engine)[0] == expected
    if engine == "native":
        for _ in range(2):  # the second time from the cache
            found, traffic = stream(on_s3[path], engine=engine, cache=tmp_path / "cache")
            assert found == expected
        assert traffic.misses == 0 and traffic.hits > 0
    # Less than the set: samples are dropped under the engine's eyes.
    small = 1 << 20
    found, traffic = stream(on_s3[path], engine=engine, cache=tmp_path / "small", cache_bytes=small, prefetch=1)
    assert found == expected
    assert (traffic.evicted > 0) == (engine not in ("resident", "synthetic"))


@pytest.mark.parametrize("world_size", [2, 4])
def test_ranks_get_their_local_streams_from_one_cache(on_s3, beton, small_beton, engine, world_size, tmp_path):
    path = small_beton if engine == "resident" else beton
    for rank in range(world_size):
        ranks = {"rank": rank, "world_size": world_size, "engine": engine}
        found, traffic = stream(on_s3[path], cache=tmp_path, **ranks)
        assert found == stream(path, **ranks)[0]
    assert traffic.hits > 0 or engine == "synthetic", "the last rank found what the others had fetched"


def test_several_files_are_one_set_wherever_they_are(on_s3, beton, small_beton, tmp_path):
    local = [beton, small_beton]
    expected, _ = stream(local)
    assert stream([on_s3[path] for path in local])[0] == expected
    assert stream([beton, on_s3[small_beton]], cache=tmp_path, cache_bytes=4 << 20)[0] == expected
    shares = {str(beton): 0.7, str(small_beton): 0.3}
    far = {on_s3[beton]: 0.7, on_s3[small_beton]: 0.3}
    assert stream(Mixture(far))[0] == stream(Mixture(shares))[0]


def test_a_state_resumes_in_mid_epoch_with_and_without_a_cache(on_s3, beton, tmp_path, open_loader):
    reference = open_loader(beton)
    expected = [ids.tolist() for _ in reference.epochs() for _, _, ids in reference]
    for options in ({}, {"cache": tmp_path}):
        first = open_loader(on_s3[beton], **options)
        taken = [ids.tolist() for _, _, ids in first]
        for _, _, ids in first:
            taken.append(ids.tolist())
            break
        state = first.state_dict()
        first.close()
        resumed = open_loader(on_s3[beton], **options)
        resumed.load_state_dict(state)
        assert taken + [ids.tolist() for _ in resumed.epochs() for _, _, ids in resumed] == expected


def test_nothing_but_the_samples_of_the_budget_is_fetched(on_s3, beton):
    schedule = Schedule.flat("0.3", epochs=1)
    with BudgetLoader(on_s3[beton], schedule=schedule, batch_size=7, image_size=16, with_ids=True) as batches:
        opened = batches.dataset.traffic
        assert batches.dataset.cost.gap_bytes < 5000
        ids = np.concatenate([ids.numpy() for _, _, ids in batches])
        needed = Dataset(beton).sizes[ids].sum()
        fetched = batches.dataset.traffic.fetched_bytes - opened.fetched_bytes
    assert needed <= fetched <= needed + 4400 * len(ids)


def test_a_cache_as_large_as_the_set_makes_later_epochs_local(on_s3, beton, tmp_path):
    schedule = Schedule.full(epochs=3)
    with BudgetLoader(on_s3[beton], schedule=schedule, batch_size=7, image_size=16, cache=tmp_path) as batches:
        list(batches)
        before = batches.dataset.traffic
        list(batches)
        list(batches)
        after = batches.dataset.traffic
    assert (after.requests, after.fetched_bytes) == (before.requests, before.fetched_bytes)
    assert before.misses == 70


def test_the_index_is_fetched_once_for_a_version_of_the_object(s3, on_s3, beton, small_beton, tmp_path):
    opened = [open_file(on_s3[beton]) for _ in range(2)]
    first, second = (dataset.traffic for dataset in opened)
    assert second.requests < first.requests and second.fetched_bytes < first.fetched_bytes
    local = Dataset(beton)
    for dataset in opened:
        assert dataset.fingerprint == local.fingerprint and dataset.classes == local.classes
        assert (dataset.labels == local.labels).all() and (dataset.checksums == local.checksums).all()
    address = s3.put("sets/changes.beton", beton.read_bytes())
    assert len(open_file(address)) == 70
    s3.put("sets/changes.beton", small_beton.read_bytes())
    assert open_file(address).fingerprint == Dataset(small_beton).fingerprint


def test_verify_and_evaluation_read_what_the_file_has(on_s3, beton):
    far, local = open_file(on_s3[beton], verify=True), Dataset(beton)
    assert all((far.jpeg(i) == local.jpeg(i)).all() for i in range(70))
    assert far.traffic.requests < 60, "samples that are read in a row are fetched together"
    with BudgetLoader(on_s3[beton], train=False, batch_size=16, image_size=16, with_ids=True) as batches:
        assert np.concatenate([ids.numpy() for _, _, ids in batches]).tolist() == list(range(70))


def test_a_file_that_ffcv_wrote_is_read_without_checksums(s3, on_s3, beton, tmp_path):
    local = Dataset(beton)
    plain = bytearray(beton.read_bytes())
    marker = plain.index(b"RRSNOTES")
    plain[marker : marker + 8] = bytes(8)  # without our notes it is what FFCV writes
    address = s3.put("sets/plain.beton", bytes(plain))
    far = open_file(address, cache=tmp_path)
    assert far.checksums is None and len(far) == 70
    assert all((far.jpeg(i) == local.jpeg(i)).all() for i in range(70))


def test_addresses_that_lead_nowhere_are_refused(s3, on_s3, beton):
    with pytest.raises(StorageError, match="not found.*check the address"):
        open_file(f"s3://{s3.bucket}/sets/none.beton")
    with pytest.raises(StorageError, match="cannot be read"):
        open_file("s3://no-such-bucket/none.beton")
    address = s3.put("sets/empty.beton", b"no dataset")
    with pytest.raises(Exception, match=r"s3://.*is no \.beton file|is truncated"):
        open_file(address)


def test_wrong_credentials_are_named(s3, on_s3, beton, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-the-secret")
    with pytest.raises(StorageError, match="AWS_ACCESS_KEY_ID") as raised:
        open_file(on_s3[beton])
    assert "not-the-secret" not in str(raised.value)


def _read_in_child(address, results):
    far = open_file(address)
    results.put(zlib_of(far))


def zlib_of(dataset):
    return hashlib.sha256(b"".join(dataset.jpeg(i).tobytes() for i in range(len(dataset)))).hexdigest()


@pytest.mark.slow
def test_a_process_that_was_forked_opens_it_for_itself(on_s3, beton):
    """In a process of its own: the client's threads do not survive a fork of this one."""
    context = multiprocessing.get_context("spawn")
    results = context.SimpleQueue()
    child = context.Process(target=_read_in_child, args=(on_s3[beton], results))
    child.start()
    found = results.get()
    child.join()
    assert found == zlib_of(Dataset(beton))
