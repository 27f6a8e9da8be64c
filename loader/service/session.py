"""A service's folder on this machine, its guard, and the watch over Ray's processes."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from budgetloader.errors import EngineError
from budgetloader.service import guard, registry

_MOST_FOLDER_LETTERS = 43  # a socket's path may have 107, and Ray adds as many as 64 to its folder's
_VITAL = {"raylet": "raylet", "gcs_server": "GCS"}  # a cluster cannot run without them


class Session:
    """A folder that only its user can enter, for as long as its server lives.

    Attributes:
        folder: the user's alone.
        ray_folder: in it, for Ray, which lets everybody write to what it makes.
    """

    def __init__(self, *, entry: Path) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="rrs-")).resolve()  # 0700
        self.ray_folder = self.folder / "r"
        self._entry = entry
        if len(os.fsencode(self.ray_folder)) > _MOST_FOLDER_LETTERS:
            self.folder.rmdir()
            raise EngineError(
                f"the name {self.folder} is too long for the folder of Ray's sockets; set TMPDIR to a shorter one"
            )
        self._vital: dict[int, tuple[str, int | None]] = {}
        self._start_guard()

    @property
    def environment(self) -> dict[str, str]:
        """What the service's processes have in their environment, for the guard to know them by."""
        return {guard.MARK: str(self.folder)}

    def watch(self) -> None:
        """Take note of the processes of Ray's that the service cannot run without."""
        for pid in guard.processes_of(str(self.folder), spared=set()):
            with contextlib.suppress(OSError):
                name = _VITAL.get(Path(f"/proc/{pid}/comm").read_text().strip())
                if name is not None:
                    self._vital[pid] = (name, registry.start_time(pid))

    def check(self) -> None:
        """Replace a guard that has ended.

        Raises:
            EngineError: one of the vital processes has ended.
        """
        if self._guard.poll() is not None:
            os.close(self._writing)
            self._start_guard()
        for pid, (name, started) in self._vital.items():
            if registry.start_time(pid) != started:
                raise EngineError(
                    f"Ray's {name} (process {pid}) has ended, and the service with it; start it again (was the memory "
                    "full? `dmesg` may say)"
                )

    def close(self) -> None:
        """End the service's processes, and remove the folder."""
        os.close(self._writing)
        with contextlib.suppress(subprocess.TimeoutExpired):
            if self._guard.wait(timeout=30) == 0:
                return
        guard.clear(str(self.folder), str(self._entry), spared={os.getpid()})  # in place of a guard that was killed

    def _start_guard(self) -> None:
        reading, self._writing = os.pipe()
        script = str(Path(guard.__file__))
        command = [sys.executable, "-I", "-S", script, str(reading), str(self.folder), str(self._entry)]
        self._guard = subprocess.Popen(
            command,
            pass_fds=[reading],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            cwd="/",
        )
        os.close(reading)


@contextlib.contextmanager
def session(*, entry: Path) -> Iterator[Session]:
    """A session for as long as the block lasts.

    Args:
        entry: the file that makes the service known; the guard removes it.

    Raises:
        EngineError: TMPDIR's name is too long, or it cannot be written to.
    """
    try:
        made = Session(entry=entry)
    except OSError as error:
        raise EngineError(
            f"no folder can be made in {tempfile.gettempdir()} ({error.strerror}); set TMPDIR to another"
        ) from None
    try:
        yield made
    finally:
        made.close()
