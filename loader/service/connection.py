"""A trainer's connection to a service: the process between, and the questions to it."""

from __future__ import annotations

import contextlib
import dataclasses
import mmap
import os
import select
import subprocess
import tempfile
from dataclasses import dataclass
from typing import Any

import numpy as np

from budgetloader import apart
from budgetloader.errors import CorruptSampleError, EngineError
from budgetloader.service import registry, wire
from budgetloader.service.link import gone

POLL_SECONDS = 0.5
_KILLED_SECONDS = 5.0  # that a killed process may take to be gone


@dataclass
class Index:
    """A served dataset, as far as planning needs it; the images stay with the service."""

    path: str
    fingerprint: str
    classes: tuple[str, ...]
    heights: np.ndarray
    widths: np.ndarray
    labels: np.ndarray
    capacity_bytes: int
    verifies: bool = False

    def __len__(self) -> int:
        return len(self.labels)


class BridgeEnded(Exception):
    """The process between here and the service is not there any more."""


class Bridge:
    """The process between here and a service, and the questions to it.

    Args:
        entry: the service.
        label: of the trainer.
    """

    def __init__(self, entry: registry.Entry, *, label: str) -> None:
        self.entry, self.label = entry, label
        self.given_up = False  # whether nobody waits for an answer any more
        if not entry.alive:
            raise gone(entry, f"process {entry.pid} has ended")
        answer, (descriptor,) = self.start()
        try:
            with mmap.mmap(descriptor, 0) as memory:
                arrays = np.frombuffer(memory, np.int64).reshape(3, -1).copy()
        finally:
            os.close(descriptor)
        self.index = Index(
            answer["path"],
            answer["fingerprint"],
            tuple(answer["classes"]),
            heights=arrays[0],
            widths=arrays[1],
            labels=arrays[2],
            capacity_bytes=answer["capacity_bytes"],
            verifies=answer["verifies"],
        )

    def start(self) -> tuple[dict[str, Any], list[int]]:
        """Start the process, and have it connect."""
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
        return self.ask({"op": "hello", "entry": dataclasses.asdict(self.entry), "label": self.label})

    def ask(self, message: dict[str, Any]) -> tuple[dict[str, Any], list[int]]:
        """The answer to a message.

        Raises:
            EngineError: the service is gone, or says so.
        """
        try:
            self.send(message, [])
            return self.answer()
        except BridgeEnded:
            raise gone(self.entry, f"the connection to it broke: {self.last_words()}") from None

    def send(self, message: dict[str, Any], descriptors: list[int]) -> None:
        try:
            wire.send(self._wire, message, descriptors)
        except OSError:
            raise BridgeEnded from None
        except wire.WireError as error:
            raise EngineError(str(error)) from None

    def answer(self) -> tuple[dict[str, Any], list[int]]:
        """The answer to the message that was sent first and not answered yet.

        Raises:
            BridgeEnded: the process ended; `EngineError` if the service did, too.
            CorruptSampleError, EngineError: it says so.
        """
        while not self.given_up and not select.select([self._wire], [], [], POLL_SECONDS)[0]:
            if not self.entry.alive:
                raise gone(self.entry, f"process {self.entry.pid} has ended")
        if self.given_up:
            raise EngineError("the loader was closed while it waited for the service")
        try:
            came = wire.receive(self._wire)
        except wire.WireError as error:
            raise EngineError(f"the process between here and service {self.entry.name!r} answers: {error}") from None
        if came is None:
            raise BridgeEnded
        message, descriptors = came
        if "sample" in message or "error" in message:
            for descriptor in descriptors:
                os.close(descriptor)
        if "sample" in message:
            raise CorruptSampleError(str(message.get("error")), sample=message["sample"])
        if "error" in message:
            raise EngineError(str(message["error"]))
        return message, descriptors

    def last_words(self) -> str:
        """What the process said last, or how it ended."""
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        if lines:
            return lines[-1]
        try:
            return f"its process ended with status {self._process.wait(timeout=1)}"
        except subprocess.TimeoutExpired:
            return "its process says nothing"

    def close(self) -> None:
        self._wire.close()  # which ends the process
        if not self.entry.alive:
            self._process.kill()  # it may be waiting for what will never come
        if _ended(self._process, 2):
            return
        self._process.kill()
        _ended(self._process, _KILLED_SECONDS)  # one that a broken disk holds is not waited for longer


def _ended(process: subprocess.Popen, seconds: float) -> bool:
    """Whether a process ends within some time."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(timeout=seconds)
        return True
    return False
