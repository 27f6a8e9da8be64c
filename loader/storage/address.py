"""Addresses of objects: s3://bucket/train.beton and the like, and the client that reads each kind.

The client is obstore, the Rust crate object_store. It takes credentials and endpoints as it always does, from the
environment; nothing here stores or prints any.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from budgetloader.errors import ArgumentError, StorageError, first_line
from budgetloader.paths import local

SCHEMES = ("s3", "gs", "az", "https", "http", "file")
_SCHEME = re.compile(r"([a-z][a-z0-9+.-]*)://", re.IGNORECASE)
ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT", "AZURE_ENDPOINT", "AZURE_STORAGE_ENDPOINT")
_PLAIN = ("AWS_ALLOW_HTTP", "AZURE_ALLOW_HTTP", "GOOGLE_ALLOW_HTTP")


def is_address(path: Any) -> bool:
    """Whether a dataset's path names something that is not a path of this machine."""
    return isinstance(path, str) and _SCHEME.match(path) is not None


@dataclass(frozen=True)
class Address:
    """Where an object is.

    Attributes:
        url: as it was given.
        scheme: one of `SCHEMES`.
        root: the bucket, container or server.
        key: the object's name in it.
    """

    url: str
    scheme: str
    root: str
    key: str

    @classmethod
    def parse(cls, url: str) -> Address:
        """Take an address apart.

        Raises:
            ArgumentError: of another kind, without a bucket or a name, or with credentials in it.
        """
        match = _SCHEME.match(url)
        scheme = match[1].lower() if match else ""
        if scheme not in SCHEMES:
            raise ArgumentError(f"{url}: give an address that begins with {', '.join(f'{s}://' for s in SCHEMES)}")
        parts = urlsplit(url)
        if parts.username or parts.password or parts.query or parts.fragment:
            shown = f"{scheme}://{parts.hostname or ''}{parts.path}"
            raise ArgumentError(
                f"{shown}: credentials, queries and fragments in an address would end up in logs; leave them out, and "
                "give credentials to the client, such as AWS_ACCESS_KEY_ID in the environment"
            )
        key = unquote(parts.path).lstrip("/")
        if not key or (not parts.netloc and scheme != "file"):
            raise ArgumentError(f"{url}: give the whole address of a file, such as s3://bucket/folder/train.beton")
        return cls(url, scheme, f"{scheme}://{parts.netloc}", key)

    @property
    def local(self) -> Path | None:
        """The path of a file:// address, on this machine; None of another."""
        return Path("/" + self.key) if self.scheme == "file" else None


def in_store(path: Any) -> Address | None:
    """The address of what is in a store; None of what is on this machine: a path, or a file:// address.

    Raises:
        ArgumentError: it is an address of another kind.
    """
    address = Address.parse(path) if is_address(path) else None
    return address if address is not None and address.local is None else None


def path_of(path: str | os.PathLike) -> Path:
    """The path of what is on this machine, of which a file:// address may be given.

    Raises:
        ArgumentError: it is in a store.
    """
    found = Address.parse(str(path)).local if is_address(path) else local(path)
    if found is None:
        raise ArgumentError(f"{path} is in a store; give a path of this machine")
    return found


def make_store(address: Address, *, request_seconds: float) -> Any:
    """A client for an address's bucket. Not to be used across a fork: make another one there.

    Args:
        address: of the object.
        request_seconds: after which a request that has not ended is given up.

    Raises:
        StorageError: obstore is not installed, or refuses the configuration.
    """
    try:
        from obstore import store
    except ImportError:
        raise StorageError(
            f"{address.url} is read with obstore, which is not installed; pip install 'budgetloader[storage]'"
        ) from None
    plain = address.scheme == "http" or _configured_as_plain()
    client: Any = {"timeout": f"{int(request_seconds * 1000)}ms", "connect_timeout": "5s", "allow_http": plain}
    retry: Any = {"max_retries": 0}  # it is done where it is counted, see `budgetloader.storage.client`
    options: Any = {"client_options": client, "retry_config": retry}
    try:
        if address.scheme in ("http", "https"):
            return store.HTTPStore.from_url(address.root, **options)
        if address.scheme == "file":
            return store.LocalStore("/")
        return store.from_url(address.root, **options)
    except Exception as error:
        raise StorageError(f"{address.url} cannot be read: {first_line(error)}") from None


def _configured_as_plain() -> bool:
    """Whether the user's own configuration names an endpoint without TLS."""
    if any(os.environ.get(name, "").lower().startswith("http://") for name in ENDPOINTS):
        return True
    return any(os.environ.get(name, "").lower() in ("1", "true", "yes") for name in _PLAIN)
