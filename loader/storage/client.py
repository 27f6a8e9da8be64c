"""One object, read by byte ranges, with retries: what comes back is whole, and of the version that was opened."""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from budgetloader.errors import StorageError, first_line
from budgetloader.storage.address import Address, make_store
from budgetloader.storage.traffic import Counter

_FOR_GOOD = ("NotFoundError", "PermissionDeniedError", "UnauthenticatedError", "NotSupportedError", "InvalidPathError")


@dataclass(frozen=True)
class Patience:
    """How long a store that fails is asked again.

    Args:
        attempts: the most requests for the same bytes.
        seconds: after the first of them, beyond which none is begun.
        request_seconds: that one may take.
        first_pause, longest_pause: seconds between attempts: doubled each time, with jitter.
    """

    attempts: int = 8
    seconds: float = 60.0
    request_seconds: float = 20.0
    first_pause: float = 0.1
    longest_pause: float = 8.0

    @property
    def limit_seconds(self) -> float:
        """The longest that anybody waits for one request, failures included."""
        return self.seconds + self.request_seconds

    def pause(self, attempt: int) -> float:
        """Seconds before an attempt, counted from 1."""
        longest = min(self.first_pause * 2.0 ** (attempt - 1), self.longest_pause)
        return longest * random.uniform(0.5, 1.0)


class Remote:
    """An object in a store.

    Args:
        address: where it is.
        counter: counts what it costs.
        store: a client of obstore's; default: one that takes its configuration from the environment.
        patience: with a store that fails.

    Attributes:
        size: bytes.
        version: what tells its contents from others that have the same name: the ETag, or else when it was written.
    """

    def __init__(
        self, address: Address, *, counter: Counter, store: Any = None, patience: Patience | None = None
    ) -> None:
        self.address, self.counter = address, counter
        self.patience = patience or Patience()
        self._given, self._store, self._pid = store, store, os.getpid()
        self._lock = threading.Lock()
        self.size, self.version = 0, ""

    def open(self, first_bytes: int) -> memoryview:
        """Read the object's beginning, and note its size and version.

        Args:
            first_bytes: how much; a shorter object comes whole.

        Raises:
            StorageError: it is not there, or cannot be read.
        """
        data, meta = self._retried(lambda: self._get(0, first_bytes), what="its beginning")
        self.size, self.version = int(meta["size"]), _version(meta)
        if len(data) != min(first_bytes, self.size):
            raise StorageError(f"{self.address.url}: {len(data):,} bytes came of the first {first_bytes:,}")
        return data

    def read(self, start: int, stop: int, *, what: str) -> memoryview:
        """The bytes from `start` to before `stop`.

        Args:
            start, stop: inside the object.
            what: they are, for errors: "sample 7" and the like.

        Raises:
            StorageError: they cannot be read, or the object is another one than was opened.
        """

        def once() -> memoryview:
            try:
                data, meta = self._get(start, stop)
            except Exception as error:
                if _beyond_the_end(error) and self._changed(self._get(0, 1)[1]):
                    raise _ChangedError from None
                raise
            if self._changed(meta):
                raise _ChangedError
            if len(data) != stop - start:
                raise ConnectionError(f"{len(data):,} of {stop - start:,} bytes came")
            return data

        return self._retried(once, what=what)

    def _changed(self, meta: Any) -> bool:
        return bool(_version(meta) != self.version or int(meta["size"]) != self.size)

    def _get(self, start: int, stop: int) -> tuple[memoryview, Any]:
        client = self._client()  # which says so where obstore is not installed
        import obstore

        began = time.perf_counter()
        answer = obstore.get(client, self.address.key, options={"range": (start, stop)})
        meta, data = answer.meta, memoryview(answer.buffer())
        self.counter.answered(time.perf_counter() - began, len(data))
        return data, meta

    def _client(self) -> Any:
        """The client of this process: it does not survive a fork."""
        if self._store is None or self._pid != os.getpid():
            with self._lock:
                if self._given is not None and self._pid != os.getpid():
                    raise StorageError(
                        f"{self.address.url} was opened with store= before this process was forked; open it here"
                    )
                if self._store is None or self._pid != os.getpid():
                    self._store = make_store(self.address, request_seconds=self.patience.request_seconds)
                    self._pid = os.getpid()
        return self._store

    def _retried(self, once: Callable[[], Any], *, what: str) -> Any:
        began, attempt = time.monotonic(), 1
        while True:
            try:
                return once()
            except StorageError:
                raise
            except _ChangedError:
                raise StorageError(
                    f"{self.address.url}: {what} cannot be read: the object was replaced while it was in use (it was "
                    f"{self.version or 'another'} of {self.size:,} bytes); open it again, and resume"
                ) from None
            except Exception as error:
                pause = self.patience.pause(attempt)
                spent = time.monotonic() - began
                hopeless = isinstance(error, FileNotFoundError) or type(error).__name__ in _FOR_GOOD or _no_role(error)
                if hopeless or attempt >= self.patience.attempts or spent + pause > self.patience.seconds:
                    tried = "" if hopeless else f" (tried {attempt} times in {spent:.1f} s)"
                    raise StorageError(
                        f"{self.address.url}: {what} cannot be read: {first_line(error)}{tried}{_advice(error)}"
                    ) from None
            self.counter.add(retries=1)
            time.sleep(pause)
            attempt += 1


class _ChangedError(Exception):
    """The object has another version now."""


def _version(meta: Any) -> str:
    return str(meta.get("e_tag") or meta.get("last_modified") or "")


def _beyond_the_end(error: BaseException) -> bool:
    """Whether the server has no such bytes: the object may be a shorter one now."""
    return "416" in first_line(error) or "InvalidRange" in str(error)


def _advice(error: BaseException) -> str:
    name = type(error).__name__
    if isinstance(error, FileNotFoundError):
        return "; check the address, or make the file with: budgetloader convert"
    if name in ("PermissionDeniedError", "UnauthenticatedError") or _no_role(error):
        return "; give the client credentials, such as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
    if name == "NotSupportedError":
        return "; the server must answer byte ranges (HTTP 206)"
    return ""


def _no_role(error: BaseException) -> bool:
    """Whether the client, which was given no credentials, has asked the machine for a role in vain."""
    return "169.254.169.254" in str(error) or "metadata.google" in str(error)
