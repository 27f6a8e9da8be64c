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
from budgetloader.storage.ledger import Ledger
from budgetloader.storage.mirror import Mirror
from budgetloader.storage.pool import Pool
from budgetloader.storage.ranges import Request, requests_for

_MOST_BYTES = 8 << 20  # of a request of several samples
_CHECKED_AT_ONCE = 32
_LOOK_SECONDS = 0.02  # between looks at what another process fetches


class Ticket:
    """Some samples that were asked for. They stay in the mirror until it is released."""

    def __init__(self, source: Source, samples: np.ndarray, others: np.ndarray, *, lent: bool) -> None:
        self.samples = samples
        self._source, self._others, self._lent = source, others, lent
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

    def release(self) -> None:
        """They may be dropped. May be called twice."""
        if not self.released and not self._source.ledger.closed:
            self.released = True
            if self._lent:
                with self._source.changed:
                    self._source.lent[self.samples] -= 1
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
        cost: Cost,
    ) -> None:
        self.remote, self.mirror, self.ledger, self.cost = remote, mirror, ledger, cost
        self.starts, self.sizes, self._checksums = starts, sizes, checksums
        self.lent = np.zeros(len(starts), np.int32)  # tickets that lend a sample's bytes in the mirror
        self.changed = threading.Condition(threading.RLock())
        self.patience_seconds = remote.patience.limit_seconds
        self._pool = Pool(cost.connections, name="budgetloader-fetch")

    def begin(self, samples: np.ndarray, *, lend: bool = False) -> Ticket:
        """Ask for samples: those that are not in the mirror are fetched.

        Args:
            samples: int64 [n], in any order, also several times.
            lend: whether `read` may give views of the mirror until the ticket is released.
        """
        samples = np.unique(samples)
        claim = self.ledger.claim(samples)
        self.remote.counter.add(hits=len(samples) - len(claim.mine), misses=len(claim.mine))
        ticket = Ticket(self, samples, claim.others, lent=lend)
        with self.changed:
            if lend:
                self.lent[samples] += 1
            self.fetch(ticket, claim.mine)
            self.check(ticket, claim.unchecked)
        return ticket

    def read(self, sample: int) -> np.ndarray:
        """One sample's bytes: uint8 [n], a view of the mirror where a ticket lends it, else a copy.

        Raises:
            StorageError: it cannot be fetched.
        """
        start, size = int(self.starts[sample]), int(self.sizes[sample])
        if self.lent[sample] and self.ledger.usable(sample):
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
        wanted = requests_for(samples, self.starts, self.sizes, gap_bytes=self.cost.gap_bytes, most_bytes=_MOST_BYTES)
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
            if ticket.released:  # nobody waits for it any more
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
            # Damaged on its way, or where it is stored; then it is given as it is, as a local file's would be.
            data = self.remote.read(start, start + len(data), what=_named(np.array([sample])))
            checksum = zlib.crc32(data)
        while True:
            try:
                self.mirror.write(start, data)
                break
            except OSError as error:
                if error.errno not in (errno.ENOSPC, errno.EDQUOT) or not self.ledger.make_room_on_disk():
                    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
                    why = "the cache's disk is full" if full else f"the cache cannot be written: {error.strerror}"
                    raise StorageError(f"{self.remote.address.url}: sample {sample}: {why}; free some room") from None
        self.ledger.filled(sample, checksum)


def _named(samples: np.ndarray) -> str:
    if len(samples) == 1:
        return f"sample {samples[0]}"
    return f"samples {samples[0]} … {samples[-1]} ({len(samples)} of them)"
