"""Converting to object storage, on a real S3 server."""

import os

import pytest

from budgetloader import Dataset, DatasetError, StorageError, cli
from budgetloader.storage import open_file
from budgetloader.storage.upload import stored

pytestmark = pytest.mark.usefixtures("configured")


def test_a_set_is_converted_to_an_address_and_inspected_and_verified_there(s3, folder, beton, capsys):
    url = f"s3://{s3.bucket}/converted/train.beton"
    assert cli.main(["convert", str(folder), url]) == 0
    assert cli.main(["verify", url]) == 0 and cli.main(["inspect", url]) == 0
    assert "all 70 images decode" in capsys.readouterr().out
    assert open_file(url).fingerprint == Dataset(beton).fingerprint
    assert cli.main(["convert", str(folder), url]) == 1
    assert "exists" in capsys.readouterr().err
    assert cli.main(["convert", str(folder), url, "--overwrite"]) == 0
    assert cli.main(["convert", str(folder), url, "--append"]) == 1
    assert "--append" in capsys.readouterr().err


def test_a_file_of_several_parts_arrives_whole(s3):
    data = os.urandom(40 << 20)
    url = f"s3://{s3.bucket}/parts/large"
    with stored(url, replace=False) as path:
        path.write_bytes(data)
    assert open_raw(s3, "parts/large") == data


def test_what_ends_early_leaves_nothing_and_what_was_there_as_it_was(s3, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    url = s3.put("early/object", b"before")
    with pytest.raises(ZeroDivisionError), stored(url, replace=True) as path:
        path.write_bytes(b"after")
        _ = 1 / 0
    assert open_raw(s3, "early/object") == b"before" and os.listdir(tmp_path) == []
    with pytest.raises(DatasetError, match="exists"), stored(url, replace=False):
        pass
    with pytest.raises(StorageError, match="cannot be written"), stored("s3://no-such-bucket/x", replace=True) as path:
        path.write_bytes(b"x")


def open_raw(s3, key):
    import obstore
    from obstore.store import from_url

    return bytes(obstore.get(from_url(f"s3://{s3.bucket}", client_options={"allow_http": True}), key).buffer())
