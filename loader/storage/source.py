"""Samples of an object, brought to a mirror before they are read: asked for by tickets, fetched by threads."""

from __future__ import annotations

import errno
import threading
import time
import zlib
from typing import Any

import numpy as np

from budgetloader.errors import StorageError
from budgetloader.storage.client import Remote
from budgetloader.storage.cost import Cost
from budgetloader.storage.index import Spans
from budgetloader.storage.ledger import Ledger
from budgetloader.storage.mirror import Mirror
from budgetloader.storage.pool import Pool
from budgetloader.storage.ranges import MOST_BYTES, Request, requests_for
from budgetloader.storage.windows import Rows, joined

_CHECKED_AT_ONCE = 32
_NONE = np.empty(0, np.int64)
_LOOK_SECONDS = 0.02  # between looks at what another process fetches
_TRIES, _PAUSE_SECONDS = 4, 0.02  # to write on a disk that is full and has nothing to drop


class Ticket:
    """Some samples that were asked for. They stay in the mirror until it is released."""

    def __init__(
        self, source: Source, samples: np.ndarray, others: np.ndarray, *, lent: bool, windowed: bool = False
    ) -> None:
        self.samples = samples
        self._source, self._others, self.lent, self._windowed = source, others, lent, windowed
        self._tasks = 0
        self._error: BaseException | None = None
        self._since = time.monotonic()
        self.released = False

    def done(self) -> bool:
        """Whether `wait` would return, or raise, at once."""
        with self._source.changed:
            self._look()
            return self._settled()

    def wait(self) -> None:
        """Wait for all of them.

        Raises:
            StorageError: one cannot be fetched; it says which, and why.
        """
        changed = self._source.changed
        with changed:
            while True:
                self._look()
                if self._settled():
                    break
                changed.wait(_LOOK_SECONDS if len(self._others) else 0.5)
            if self._error is not None:
                raise self._error

    @property
    def failed(self) -> bool:
        """Whether `wait` raises."""
        return self._error is not None

    def extend(self, samples: np.ndarray, others: np.ndarray) -> None:
        """Hold more samples, which were claimed, some of them by others; with the source's lock held."""
        self.samples = np.concatenate((self.samples, samples))
        self._others = np.concatenate((self._others, others))

    def drop(self, samples: np.ndarray) -> None:
        """Let some of them go; for a ticket that lends nothing."""
        if not self.released and not self._source.ledger.closed:
            self.samples = np.setdiff1d(self.samples, samples, assume_unique=True)
            self._source.ledger.release(samples)

    def release(self) -> None:
        """They may be dropped. May be called twice."""
        if not self.released and not self._source.ledger.closed:
            self.released = True
            if self.lent:
                with self._source.changed:
                    self._source.lent[self.samples] -= 1
                    self._source.windowed[self.samples] -= self._windowed
            self._source.ledger.release(self.samples)

    def __del__(self) -> None:
        if not self.released:
            self.release()

    # For the source, with its lock held

    def _settled(self) -> bool:
        return self._error is not None or not (self._tasks or len(self._others))

    def _look(self) -> None:
        """See what has become of the samples that others fetch, and take on what they gave up."""
        if not len(self._others) or self._error is not None:
            return
        ledger = self._source.ledger
        here = ledger.arrived(self._others)
        arrived, self._others = self._others[here], self._others[~here]
        self._source.check(self, arrived[[not ledger.usable(int(sample)) for sample in arrived]])
        if not len(self._others):
            return
        left = ledger.claim_left(self._others)
        if time.monotonic() - self._since > self._source.patience_seconds:
            left = self._others
            ledger.steal(left)
        if len(left):
            self._others = np.setdiff1d(self._others, left)
            self._source.fetch(self, left)

    def begun(self) -> None:
        self._tasks += 1

    def ended(self, error: BaseException | None = None) -> None:
        with self._source.changed:
            self._tasks -= 1
            self._error = self._error or error
            self._source.changed.notify_all()


class Source:
    """Brings samples of an object to its mirror.

    Args:
        remote: the object.
        mirror, ledger: where its bytes go, and the records of them.
        starts, sizes: int64 [D], of the samples, bytes.
        checksums: uint32 [D], of each sample's bytes, or None where the file has none.
        heights: int64 [D], of the images, pixels.
        cost: of requests.
    """

    def __init__(
        self,
        remote: Remote,
        mirror: Mirror,
        ledger: Ledger,
        *,
        starts: np.ndarray,
        sizes: np.ndarray,
        checksums: np.ndarray | None,
        heights: np.ndarray,
        cost: Cost,
    ) -> None:
        self.remote, self.mirror, self.ledger, self.cost = remote, mirror, ledger, cost
        self.starts, self.sizes, self._checksums = starts, sizes, checksums
        self.lent = np.zeros(len(starts), np.int32)  # tickets that lend a sample's bytes in the mirror
        self.windowed = np.zeros(len(starts), np.int32)  # those of them that lend what a window needs, and no more
        self._rows = Rows(heights, sizes)
        self.changed = threading.Condition(threading.RLock())
        self.patience_seconds = remote.patience.limit_seconds
        self._pool = Pool(cost.connections, name="budgetloader-fetch")

    def begin(self, samples: np.ndarray, *, lend: bool = False, counted: bool = True) -> Ticket:
        """Ask for samples: those that are not in the mirror are fetched.

        Args:
            samples: int64 [n], in any order, also several times.
            lend: whether `read` may give views of the mirror until the ticket is released.
            counted: whether they count as hits and misses; those that are held already were counted.
        """
        samples = np.unique(samples)
        ticket = Ticket(self, _NONE, _NONE, lent=lend)
        self._ask(ticket, samples, counted=counted)
        return ticket

    def hold(self, samples: np.ndarray, ticket: Ticket | None = None) -> Ticket:
        """Ask for samples ahead of the plans that want them.

        Args:
            samples: int64 [n], each once.
            ticket: what holds others, to hold these, too.
        """
        ticket = ticket or Ticket(self, _NONE, _NONE, lent=False)
        self._ask(ticket, samples, counted=True)
        return ticket

    def _ask(self, ticket: Ticket, samples: np.ndarray, *, counted: bool) -> None:
        claim = self.ledger.claim(samples)
        if counted:
            self.remote.counter.add(hits=len(samples) - len(claim.mine), misses=len(claim.mine))
        with self.changed:
            ticket.extend(samples, claim.others)
            if ticket.lent:
                self.lent[samples] += 1
            self.fetch(ticket, claim.mine)
            self.check(ticket, claim.unchecked)

    def begin_windows(self, samples: np.ndarray, windows: np.ndarray) -> Ticket:
        """Ask for what windows need of samples: `read` lends the samples with nothing but that in them.

        Args:
            samples: int64 [n], in any order, also several times.
            windows: int64 [n, 4]: top, left, height and width, pixels.
        """
        wanted: dict[int, list[tuple[int, int]]] = {}
        for sample, (top, _, height, _) in zip(samples.tolist(), windows.tolist(), strict=True):
            wanted.setdefault(sample, []).append((top, height))
        unique = np.array(list(wanted))
        self.ledger.pin(unique)
        self.remote.counter.add(misses=len(unique))
        ticket = Ticket(self, unique, unique[:0], lent=True, windowed=True)
        with self.changed:
            self.lent[unique] += 1
            self.windowed[unique] += 1
            for part in wanted.items():
                ticket.begun()
                self._pool.submit(lambda part=part: self._run(ticket, self._fetch_windows, part))  # type: ignore[misc]
        return ticket

    def lends(self, sample: int) -> bool:
        """Whether a ticket lends a sample's bytes, which are there."""
        return bool(self.lent[sample] and (self.windowed[sample] or self.ledger.usable(sample)))

    def read(self, sample: int) -> np.ndarray:
        """One sample's bytes: uint8 [n], a view of the mirror where a ticket lends it, else a copy.

        Raises:
            StorageError: it cannot be fetched.
        """
        start, size = int(self.starts[sample]), int(self.sizes[sample])
        if self.lends(sample):
            return self.mirror.bytes[start : start + size]
        ticket = self.begin(np.array([sample]))
        try:
            ticket.wait()
            return self.mirror.bytes[start : start + size].copy()
        finally:
            ticket.release()

    def close(self) -> bool:
        """End the threads; whether they have all ended."""
        return self._pool.close()

    # Tasks

    def fetch(self, ticket: Ticket, samples: np.ndarray) -> None:
        """Fetch samples that were claimed for a ticket; with the lock held."""
        wanted = requests_for(samples, self.starts, self.sizes, gap_bytes=self.cost.gap_bytes, most_bytes=MOST_BYTES)
        for request in wanted:
            ticket.begun()
            self._pool.submit(lambda request=request: self._run(ticket, self._fetch, request))  # type: ignore[misc]

    def check(self, ticket: Ticket, samples: np.ndarray) -> None:
        """Compare samples that others fetched with their checksums; with the lock held."""
        for first in range(0, len(samples), _CHECKED_AT_ONCE):
            some = samples[first : first + _CHECKED_AT_ONCE]
            ticket.begun()
            self._pool.submit(lambda some=some: self._run(ticket, self._check, some))  # type: ignore[misc]

    def _run(self, ticket: Ticket, task: Any, argument: Any) -> None:
        error: BaseException | None = None
        try:
            task(argument, ticket)
        except BaseException as raised:
            error = raised
        ticket.ended(error)

    def _check(self, samples: np.ndarray, ticket: Ticket) -> None:
        for sample in samples.tolist():
            if ticket.released:
                return
            start, size = int(self.starts[sample]), int(self.sizes[sample])
            if self.ledger.checked(sample, zlib.crc32(self.mirror.bytes[start : start + size].data)):
                continue
            self.remote.counter.add(damaged=1)
            alone = np.array([sample])
            self.ledger.steal(alone)
            self._fetch(Request(start, start + size, alone), ticket)

    def _fetch(self, request: Request, ticket: Ticket) -> None:
        try:
            if not self.ledger.pinned(request.samples):  # nobody waits for it any more
                return self.ledger.failed(request.samples)
            data = self.remote.read(request.start, request.stop, what=_named(request.samples))
            for sample in request.samples.tolist():
                start, size = int(self.starts[sample]) - request.start, int(self.sizes[sample])
                self._fill(sample, data[start : start + size])
        except BaseException:
            self.ledger.failed(request.samples)
            raise

    def _fill(self, sample: int, data: memoryview) -> None:
        start, checksum = int(self.starts[sample]), zlib.crc32(data)
        if self._checksums is not None and checksum != self._checksums[sample]:
            data = self._fetch_again(sample, checksum)
            checksum = zlib.crc32(data)
        claim = self.ledger.fetching(sample)
        if claim is not None:
            self._write(sample, start, data)
            self.ledger.filled(sample, checksum, claim)

    def _fetch_again(self, sample: int, found: int) -> memoryview:
        """Bytes that had another checksum than the index says: damaged on their way, or where they are stored.

        What comes twice is stored so, and is given as it is, as a local file's bytes would be.
        """
        assert self._checksums is not None
        start, seen, what = int(self.starts[sample]), {found, int(self._checksums[sample])}, f"sample {sample}"
        for _ in range(self.remote.patience.attempts):
            self.remote.counter.add(retries=1)
            data = self.remote.read(start, start + int(self.sizes[sample]), what=what)
            if zlib.crc32(data) in seen:
                return data
            seen.add(zlib.crc32(data))
        raise StorageError(f"{self.remote.address.url}: {what} cannot be read: its bytes are others each time")

    def _fetch_windows(self, part: tuple[int, list[tuple[int, int]]], ticket: Ticket) -> None:
        """Fetch a sample's headers, and the rows that windows of it touch."""
        (sample, windows), there = part, Spans()
        start, what = int(self.starts[sample]), f"sample {part[0]}"
        if ticket.released:
            return
        head = b""
        while not self._rows.known(sample):
            size = max(self._rows.head_bytes(sample), min(2 * len(head), int(self.sizes[sample])))
            head += self.remote.read(start + len(head), start + size, what=what)
            self._rows.learn(sample, np.frombuffer(head, np.uint8))
        if head:
            self._write(sample, start, memoryview(head))
            there.add(0, len(head))
        spans = [span for top, height in windows for span in self._rows.spans(sample, top=top, height=height)]
        missing = [gap for span in spans for gap in there.missing(*span)]
        for first, stop in joined(missing, gap_bytes=self.cost.gap_bytes):
            self._write(sample, start + first, self.remote.read(start + first, start + stop, what=what))
        self.ledger.tidy(sample)

    def _write(self, sample: int, start: int, data: memoryview) -> None:
        tries = _TRIES
        while True:
            try:
                return self.mirror.write(start, data)
            except OSError as error:
                full = error.errno in (errno.ENOSPC, errno.EDQUOT)
                if full and self.ledger.make_room_on_disk():
                    continue
                tries -= 1
                if not full or not tries:
                    why = "the cache's disk is full" if full else f"the cache cannot be written: {error.strerror}"
                    raise StorageError(f"{self.remote.address.url}: sample {sample}: {why}; free some room") from None
                time.sleep(_PAUSE_SECONDS)  # another thread or process may just have dropped all that could go


def _named(samples: np.ndarray) -> str:
    if len(samples) == 1:
        return f"sample {samples[0]}"
    return f"samples {samples[0]} … {samples[-1]} ({len(samples)} of them)"
