"""Files that are made on this machine and stored at an address: whole, or not at all."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from budgetloader.errors import DatasetError, StorageError, first_line
from budgetloader.storage.address import Address, make_store

_REQUEST_SECONDS = 300.0  # of a part, which may have a slow line before it
_PART_BYTES = 16 << 20


@contextlib.contextmanager
def stored(url: str, *, replace: bool, store: Any = None) -> Iterator[Path]:
    """A path to write a file to, which is stored at an address when the block ends without an error.

    The file is made in the folder for temporary files, and sent in parts of 16 MiB, of which the store makes an object
    when the last one has come: there never is a half one under the name.

    Args:
        url: where to, such as s3://bucket/train.beton.
        replace: whether an object may be there already.
        store: a client of obstore's; default: one that takes its configuration from the environment.

    Raises:
        DatasetError: there is one, and it is not to be replaced.
        StorageError: the store does not take it.
    """
    address = Address.parse(url)
    store = store or make_store(address, request_seconds=_REQUEST_SECONDS)
    import obstore

    try:
        obstore.head(store, address.key)
        there = True
    except FileNotFoundError:
        there = False
    except Exception as error:
        raise StorageError(f"{url} cannot be written: {first_line(error)}") from None
    if there and not replace:
        raise DatasetError(f"{url} exists; choose another name, or pass --overwrite to replace it")
    with tempfile.TemporaryDirectory(prefix="budgetloader-") as folder:
        path = Path(folder) / (Path(address.key).name or "file")
        yield path
        try:
            obstore.put(store, address.key, path, use_multipart=True, chunk_size=_PART_BYTES)
        except Exception as error:
            raise StorageError(f"{url} cannot be written: {first_line(error)}; nothing is kept of it") from None
