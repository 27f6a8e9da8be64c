import sys

import pytest

from budgetloader import ArgumentError, BudgetLoader, Dataset, EngineError, Schedule, StorageError
from budgetloader.storage import is_address, open_file
from budgetloader.storage.address import Address, make_store


def test_addresses_are_told_from_paths(tmp_path):
    assert is_address("s3://bucket/a.beton") and is_address("HTTPS://host/a.beton")
    assert not any(map(is_address, ("a.beton", "/s3:/a", tmp_path, "C:/a.beton", 7)))


def test_an_address_is_taken_apart():
    found = Address.parse("s3://bucket/folder/a%20b.beton")
    assert (found.scheme, found.root, found.key, found.local) == ("s3", "s3://bucket", "folder/a b.beton", None)
    assert str(Address.parse("file:///data/train.beton").local) == "/data/train.beton"


@pytest.mark.parametrize("url", ["ftp://host/a.beton", "s3://bucket", "s3:///a.beton", "hdfs://a/b"])
def test_addresses_that_cannot_be_read_are_refused(url):
    with pytest.raises(ArgumentError, match=url.replace("?", ".")):
        open_file(url)


@pytest.mark.parametrize("url", ["https://me:secret@host/a.beton", "https://host/a.beton?X-Amz-Signature=secret"])
def test_credentials_in_an_address_are_refused_and_not_repeated(url):
    with pytest.raises(ArgumentError, match="credentials") as raised:
        open_file(url)
    assert "secret" not in str(raised.value)


def test_a_file_address_is_the_local_file(beton):
    assert type(open_file(f"file://{beton}")) is Dataset
    assert open_file(f"file://{beton}").path == beton


def test_a_cache_of_local_files_is_refused(beton, tmp_path):
    loader = {"schedule": Schedule.full(epochs=1), "batch_size": 4, "image_size": 16}
    with pytest.raises(EngineError, match="cache=.* is for files in object storage"):
        BudgetLoader(beton, cache=tmp_path, **loader)
    with pytest.raises(EngineError, match="cache_bytes=.* is for files in object storage"):
        BudgetLoader([beton], cache_bytes=1e9, **loader)
    with pytest.raises(EngineError, match="is open already"):
        BudgetLoader(Dataset(beton), cache=tmp_path, **loader)


@pytest.mark.parametrize("cache_bytes", [0, -1, True, "1GB", float("nan")])
def test_sizes_that_are_none_are_refused(cache_bytes, tmp_path):
    with pytest.raises(ArgumentError, match="cache_bytes"):
        open_file("s3://bucket/a.beton", cache=tmp_path, cache_bytes=cache_bytes)
    with pytest.raises(ArgumentError, match="give its folder"):
        open_file("s3://bucket/a.beton", cache_bytes=1e9)


def test_without_the_client_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "obstore", None)
    with pytest.raises(StorageError, match=r"pip install 'budgetloader\[storage\]'"):
        make_store(Address.parse("s3://bucket/a.beton"), request_seconds=1.0)
