"""A trainer's connection to a service: it starts the bridge, sends it requests and takes its answers."""

from __future__ import annotations

import contextlib
import mmap
import os
import select
import subprocess
import tempfile
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from budgetloader import apart
from budgetloader.errors import ArgumentError, EngineError
from budgetloader.joined import Mixture
from budgetloader.service import protocol, registry, wire
from budgetloader.service.failures import check_alive, gone
from budgetloader.service.status import ServiceStatus
from budgetloader.storage.traffic import Traffic

POLL_SECONDS = 0.5
_KILLED_SECONDS = 5.0  # that a killed process may take to be gone
_A = TypeVar("_A", protocol.Welcome, protocol.BatchAnswer, ServiceStatus)


@dataclass
class Index:
    """A served dataset, as far as planning needs it; the images stay with the service.

    Attributes:
        files: the path of each file, on the service's machine, and its samples.
        mixture: (samples, share) of each file, or None; see `budgetloader.Mixture`.
        store_wait_seconds: in which this trainer's blocks waited for object storage, so far.
    """

    path: str
    fingerprint: str
    classes: tuple[str, ...]
    heights: np.ndarray
    widths: np.ndarray
    labels: np.ndarray
    capacity_bytes: int
    files: tuple[tuple[str, int], ...] = ()
    verifies: bool = False
    mixture: tuple[tuple[int, ...], tuple[Any, ...]] | None = None
    store_wait_seconds: float = 0.0

    def __len__(self) -> int:
        return len(self.labels)

    def mix(self, mixture: Mixture) -> None:
        """Have batches hold fixed proportions of the files; a mixture names each by its path or its file name.

        Raises:
            ArgumentError: it does not name each file once.
        """
        shares: dict[str, Any] = {}
        for name, share in mixture.shares.items():
            named = [path for path, _ in self.files if str(name) in (path, os.path.basename(path))]
            if len(named) == 1 and named[0] not in shares:
                shares[named[0]] = share
        if not len(shares) == len(mixture.shares) == len(self.files):
            listed = ", ".join(path for path, _ in self.files)
            raise ArgumentError(f"mixture={mixture}: give a share for each of the service's files: {listed}")
        self.mixture = tuple(size for _, size in self.files), tuple(shares[path] for path, _ in self.files)

    @property
    def traffic(self) -> Traffic:
        """Of object storage, no more than the waiting is known here; `budgetloader top` shows the rest."""
        return Traffic(wait_seconds=self.store_wait_seconds)


class BridgeEnded(Exception):
    """The bridge's process has ended; another one can be started."""


class Bridge:
    """The bridge to a service, as its trainer sees it.

    Args:
        entry: the service.
        label: of the trainer.

    Raises:
        ServiceGoneError: the service has ended.
        EngineError: it refuses this trainer.
    """

    def __init__(self, entry: registry.Entry, *, label: str) -> None:
        self.entry, self.label = entry, label
        self.given_up = False  # whether nobody waits for an answer any more
        check_alive(entry)
        self._process: subprocess.Popen | None = None
        try:
            self.index = _index(*self.start())
        except BaseException:
            self.close()
            raise

    def start(self) -> tuple[protocol.Welcome, list[int]]:
        """Start the bridge's process, and have it connect."""
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - of the process, to say why it ended
        self._wire, other = wire.pair()
        with other:
            self._process = subprocess.Popen(
                apart.command("budgetloader.service.bridge", str(other.fileno())),
                pass_fds=[other.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=self._errors,
                start_new_session=True,
                cwd="/",
            )
        return self.ask(protocol.Hello(self.entry, self.label), protocol.Welcome)

    def ask(self, request: protocol.Request, expected: type[_A]) -> tuple[_A, list[int]]:
        """The answer to a request, and the descriptors that came with it.

        Args:
            request: while no other request waits for its answer.
            expected: what answers it.

        Raises:
            ServiceGoneError: the service has ended, or the bridge did.
            EngineError, CorruptSampleError: the answer is an error.
        """
        try:
            self.send(request, [])
            return self.answer(expected)
        except BridgeEnded:
            raise gone(self.entry, f"the connection to it broke: {self.last_words()}") from None

    def send(self, request: protocol.Request, descriptors: list[int]) -> None:
        """Send a request; `answer` gives what is said to it.

        Raises:
            BridgeEnded: the bridge has ended.
            EngineError: it is too large.
        """
        try:
            wire.send(self._wire, protocol.encode(request), descriptors)
        except OSError:
            raise BridgeEnded from None
        except wire.WireError as error:
            raise EngineError(str(error)) from None

    def answer(self, expected: type[_A]) -> tuple[_A, list[int]]:
        """The answer to the oldest request that waits for one, and the descriptors that came with it.

        Raises:
            BridgeEnded: the bridge ended.
            ServiceGoneError: the service did.
            EngineError, CorruptSampleError: the answer is an error, or none that is expected.
        """
        while not self.given_up and not select.select([self._wire], [], [], POLL_SECONDS)[0]:
            check_alive(self.entry)
        if self.given_up:
            raise EngineError("the loader was closed while it waited for the service")
        try:
            came = wire.receive(self._wire)
        except wire.WireError as error:
            raise self._nonsense(error) from None
        if came is None:
            raise BridgeEnded
        data, descriptors = came
        try:
            answer = protocol.decode_answer(data)
            if isinstance(answer, protocol.Failure):
                raise answer.error
            if not isinstance(answer, expected):
                raise protocol.ProtocolError(f"{type(answer).__name__} in place of {expected.__name__}")
        except BaseException as error:
            wire.close_all(descriptors)
            if isinstance(error, protocol.ProtocolError):
                raise self._nonsense(error) from None
            raise
        return answer, descriptors

    def last_words(self) -> str:
        """What the bridge wrote last, or how it ended."""
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        if lines:
            return lines[-1]
        assert self._process is not None
        try:
            return f"its bridge ended with status {self._process.wait(timeout=1)}"
        except subprocess.TimeoutExpired:
            return "its bridge closed the connection"

    def close(self) -> None:
        """End the bridge. May be called twice."""
        if self._process is None:
            return
        self._wire.close()  # which ends the process
        if not self.entry.alive:
            self._process.kill()  # it may wait for an answer that never comes
        if _ended(self._process, 2):
            return
        self._process.kill()
        _ended(self._process, _KILLED_SECONDS)  # one that a broken disk holds is not waited for longer

    def _nonsense(self, error: Exception) -> EngineError:
        return EngineError(
            f"the bridge to service {self.entry.name!r} answers what makes no sense ({error}); is another version of "
            "budgetloader in the search path?"
        )


def _index(welcome: protocol.Welcome, descriptors: list[int]) -> Index:
    """The dataset that a bridge describes; the descriptors are closed.

    Raises:
        EngineError: it does not describe one.
    """
    try:
        (descriptor,) = descriptors
        with mmap.mmap(descriptor, 0) as memory:
            arrays = np.frombuffer(memory, np.int64).reshape(3, welcome.samples).copy()
    except (ValueError, OSError) as error:
        raise EngineError(f"the bridge does not describe the dataset ({error})") from None
    finally:
        wire.close_all(descriptors)
    return Index(
        welcome.path,
        welcome.fingerprint,
        welcome.classes,
        heights=arrays[0],
        widths=arrays[1],
        labels=arrays[2],
        capacity_bytes=welcome.capacity_bytes,
        files=welcome.files,
        verifies=welcome.verifies,
    )


def _ended(process: subprocess.Popen, seconds: float) -> bool:
    """Whether a process ends within some time."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(timeout=seconds)
        return True
    return False
