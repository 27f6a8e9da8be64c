"""Which samples of a mirror are there, which of them are in use, and which go when room is needed.

A record per sample: 64 bits, written at once. Bit 63: it is there, and the low 32 bits are the CRC-32 of its bytes.
Bit 62: somebody is fetching it, and the low bits say who. The bits between count how often it was claimed, so that
what was dropped and fetched again is not taken for what was checked before.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from budgetloader.errors import DatasetError
from budgetloader.storage.mirror import BLOCK, Mirror
from budgetloader.storage.traffic import Counter

PRESENT, FETCHING = np.uint64(1 << 63), np.uint64(1 << 62)
BUSY, COUNT, LOW = PRESENT | FETCHING, np.uint64(((1 << 30) - 1) << 32), np.uint64(0xFFFFFFFF)
_ONE = np.uint64(1 << 32)
SPARE_BYTES = 256 << 20  # freed at a time, at most: to look for what goes takes a pass over all records


@dataclass(frozen=True)
class Claim:
    """What becomes of the samples that a plan wants.

    Attributes:
        mine: int64, to be fetched by the caller.
        others: int64, being fetched by somebody else, or by an earlier claim of the caller.
        unchecked: int64, there, but nobody of this process has compared them with their checksum.
    """

    mine: np.ndarray
    others: np.ndarray
    unchecked: np.ndarray


class Ledger:
    """The records of a mirror that this process has to itself; nothing is kept that is not in use.

    Args:
        mirror: the file.
        starts, sizes: int64 [D], of the samples, in bytes; no two may overlap.
        counter: counts what is dropped.
    """

    slot = 0

    def __init__(self, mirror: Mirror, starts: np.ndarray, sizes: np.ndarray, *, counter: Counter) -> None:
        self._mirror, self._starts, self._sizes, self._counter = mirror, starts, sizes, counter
        self._records = np.zeros(len(starts), np.uint64)
        self._known = np.zeros(len(starts), np.uint64)  # the record at which a sample's bytes were last checked
        self._pins = np.zeros(len(starts), np.int32)
        self._order = np.argsort(starts, kind="stable")
        self._begins, self._ends = starts[self._order], (starts + sizes)[self._order]
        overlapping = np.flatnonzero(self._begins[1:] < self._ends[:-1])
        if len(overlapping):
            one, two = self._order[overlapping[0]], self._order[overlapping[0] + 1]
            raise DatasetError(f"samples {one} and {two} share bytes, as no writer leaves them; convert it again")
        self._rank = np.empty(len(starts), np.int64)
        self._rank[self._order] = np.arange(len(starts))
        self._threads = threading.RLock()

    # What plans want

    def claim(self, samples: np.ndarray) -> Claim:
        """Pin samples, so that none is dropped before it is released, and say which have to be fetched.

        Args:
            samples: int64 [n], each once.
        """
        with self._held():
            self._pins[samples] += 1
            self._show(samples)
            words = self._records[samples]
            present = words & PRESENT != 0
            fetching = ~present & (words & FETCHING != 0)
            if fetching.any():
                self._bury(words[fetching] & LOW)
                fetching &= self._records[samples] & FETCHING != 0
            missing = samples[~present & ~fetching]
            self._take(missing)
            self._make_room(missing)
            here = samples[present]
            unchecked = here[self._known[here] != self._records[here]]
            return Claim(missing, samples[fetching], unchecked)

    def pin(self, samples: np.ndarray) -> None:
        """Pin samples of which parts will be written, by a caller who knows which; they do not count as there."""
        with self._held():
            self._pins[samples] += 1
            self._show(samples)

    def tidy(self, sample: int) -> None:
        """Bytes of a sample were written; if nobody has it pinned any more, drop them."""
        if not self._pins[sample]:
            with self._held():
                if not self._pins[sample]:
                    self._let_go(np.array([sample]))

    def claim_left(self, samples: np.ndarray) -> np.ndarray:
        """Of pinned samples that somebody else was to fetch, those that he has given up: the caller's now."""
        with self._held():
            words = self._records[samples]
            waiting = words & BUSY == FETCHING
            if waiting.any():
                self._bury(words[waiting] & LOW)
            left = samples[self._records[samples] & BUSY == 0]
            self._take(left)
            return left

    def steal(self, samples: np.ndarray) -> None:
        """Fetch pinned samples oneself that somebody else has been fetching for too long, or whose bytes are wrong."""
        with self._held():
            self._take(samples)

    def release(self, samples: np.ndarray) -> None:
        """Take pins back, one of each sample."""
        with self._held():
            self._pins[samples] -= 1
            free = samples[self._pins[samples] == 0]
            self._hide(free)
            self._let_go(free)

    # What became of them

    def fetching(self, sample: int) -> np.uint64 | None:
        """The record of a sample that is being fetched; None of one that was dropped meanwhile, or is there."""
        word = self._records[sample]
        return word if word & BUSY == FETCHING else None

    def filled(self, sample: int, checksum: int, claim: np.uint64) -> None:
        """A claimed sample's bytes are in the mirror.

        Args:
            sample: its number.
            checksum: CRC-32 of its bytes.
            claim: what `fetching` gave before they were written. Where it is another by now, the sample was dropped
                since, and its bytes may be gone: it does not count as there.
        """
        with self._threads:
            if self._records[sample] == claim:
                word = claim & COUNT | PRESENT | np.uint64(checksum)
                self._records[sample] = word
                self._known[sample] = word
        self.tidy(sample)

    def failed(self, samples: np.ndarray) -> None:
        """Claimed samples could not be fetched."""
        with self._held():
            words = self._records[samples]
            mine = samples[(words & BUSY == FETCHING) & (words & LOW == self.slot)]
            self._records[mine] &= COUNT

    def checked(self, sample: int, checksum: int) -> bool:
        """Note a pinned sample's checksum as this process finds it; whether it is the right one."""
        word = self._records[sample]
        if word & PRESENT == 0 or int(word & LOW) != checksum:
            return False
        self._known[sample] = word
        return True

    def arrived(self, samples: np.ndarray) -> np.ndarray:
        """Whether samples are there, checked or not: bool [n]."""
        return self._records[samples] & PRESENT != 0

    def pinned(self, samples: np.ndarray) -> bool:
        """Whether this process has any of them pinned."""
        return bool(self._pins[samples].any())

    def usable(self, sample: int) -> bool:
        """Whether a sample is pinned, there, and checked: its bytes may be read from the mirror."""
        word = self._records[sample]
        return bool(self._pins[sample] and word & PRESENT and self._known[sample] == word)

    def make_room_on_disk(self) -> bool:
        """The disk is full, whatever `cache_bytes` says: drop something; whether there was anything to drop."""
        with self._held():
            return self._evict(SPARE_BYTES) > 0

    @property
    def closed(self) -> bool:
        """Whether nothing can be claimed or released any more."""
        return self._mirror.closed

    def close(self) -> None:
        """Let go of what is shared with others."""

    # What a shared ledger does in other ways

    @contextlib.contextmanager
    def _held(self) -> Iterator[None]:
        with self._threads:
            yield

    def _show(self, samples: np.ndarray) -> None:
        """Let others see that samples are pinned."""

    def _hide(self, samples: np.ndarray) -> None:
        """Let others see that samples are pinned no longer."""

    def _bury(self, slots: np.ndarray) -> None:
        """Forget what others were fetching who are gone."""

    def _make_room(self, samples: np.ndarray) -> None:
        """Samples are about to be fetched."""

    def _let_go(self, samples: np.ndarray) -> None:
        """Samples are in use no longer: here they are dropped."""
        self._drop(samples)

    def _evict(self, wanted_bytes: int) -> int:
        """Drop what is needed last; the bytes that were freed."""
        return 0

    # Parts of both

    def _take(self, samples: np.ndarray) -> None:
        counts = (self._records[samples] & COUNT) + _ONE & COUNT
        self._records[samples] = counts | FETCHING | np.uint64(self.slot)

    def _drop(self, samples: np.ndarray) -> None:
        """Give back the blocks of samples, those of their edges, too, where no neighbour in use has a part of them."""
        if not len(samples):
            return
        self._records[samples] &= COUNT
        ranks = np.sort(self._rank[samples])
        groups = np.split(ranks, np.flatnonzero(np.diff(ranks) != 1) + 1)
        for group in groups:
            first, last = int(group[0]), int(group[-1])
            start, stop = int(self._begins[first]), int(self._ends[last])
            low, high = start // BLOCK * BLOCK, -(-stop // BLOCK) * BLOCK
            before = int(np.searchsorted(self._ends, low, side="right"))
            behind = int(np.searchsorted(self._begins, high, side="left"))
            if low < start and low >= self._begins[0] and not self._busy(before, first):
                start = low
            if high > stop and high <= self._begins[-1] and not self._busy(last + 1, behind):
                stop = high
            self._mirror.drop(start, stop)

    def _busy(self, first: int, stop: int) -> bool:
        """Whether any of the samples of these places in the file is there, on its way, or pinned."""
        samples = self._order[first:stop]
        return bool((self._records[samples] & BUSY).any() or self._pins[samples].any())


NextUse = Callable[[], "np.ndarray | None"]
"""When each sample is needed next, in any unit: int64 [D]; None where that is not known."""
