"""A dataset on nginx, as a real web server behind https:// would have it."""

import os

import pytest

from budgetloader import Dataset, StorageError
from budgetloader.bench.storage_faults import stream
from budgetloader.bench.stores import nginx, serve_nginx
from budgetloader.storage.dataset import RemoteDataset


@pytest.fixture
def server(beton, own_home, tmp_path):
    """nginx's address, and the folder of its files, with `beton` in it."""
    pytest.importorskip("obstore", reason="obstore is not installed")
    if nginx() is None:
        pytest.skip("nginx is not installed (Debian: nginx-light)")
    files = tmp_path / "files"
    files.mkdir()
    (files / "train.beton").write_bytes(beton.read_bytes())
    with serve_nginx(tmp_path) as url:
        yield url, files


def test_the_stream_is_that_of_the_local_file_with_and_without_a_cache(server, beton, tmp_path):
    url, _ = server
    expected = stream(beton, seed=3)
    assert stream(RemoteDataset(f"{url}/train.beton"), seed=3) == expected
    for _ in range(2):
        far = RemoteDataset(f"{url}/train.beton", cache=tmp_path / "cache", cache_bytes=2 << 20)
        assert stream(far, seed=3) == expected
        far.close()
    assert far.traffic.hits > 0


def test_a_file_that_is_replaced_is_told_by_nginxs_etag(server, small_beton):
    url, files = server
    far = RemoteDataset(f"{url}/train.beton")
    far.jpeg(0)
    (files / "new").write_bytes(small_beton.read_bytes())
    os.replace(files / "new", files / "train.beton")
    with pytest.raises(StorageError, match="sample 9 cannot be read: the object was replaced while it was in use"):
        far.jpeg(9)
    assert RemoteDataset(f"{url}/train.beton").fingerprint == Dataset(small_beton).fingerprint


def test_a_file_that_is_not_there_is_one_error(server):
    with pytest.raises(StorageError, match="not found.*check the address"):
        RemoteDataset(f"{server[0]}/none.beton")
