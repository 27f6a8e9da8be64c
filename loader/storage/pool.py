"""Threads that fetch. They end with the process, and with whoever made them, and keep neither alive."""

from __future__ import annotations

import queue
import threading
import weakref
from collections.abc import Callable


class Pool:
    """Runs tasks in the order in which they were given.

    Args:
        threads: how many run at a time; they are started when they are first needed.
        name: of the threads.
    """

    def __init__(self, threads: int, *, name: str) -> None:
        self._tasks: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._most, self._name = threads, name
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()
        self._finalizer = weakref.finalize(self, _stop, self._tasks, self._threads)

    def submit(self, task: Callable[[], None]) -> None:
        """Run a task, which must not raise."""
        with self._lock:
            if len(self._threads) < self._most:
                thread = threading.Thread(target=_run, args=(self._tasks,), name=self._name, daemon=True)
                self._threads.append(thread)
                thread.start()
        self._tasks.put(task)

    def close(self, *, seconds: float = 10.0) -> bool:
        """Drop what has not begun, and wait for what has; whether all threads have ended."""
        with self._lock:
            while not self._tasks.empty():
                self._tasks.get()
            self._finalizer()
            for thread in self._threads:
                thread.join(seconds)
            return not any(thread.is_alive() for thread in self._threads)


def _stop(tasks: queue.SimpleQueue, threads: list[threading.Thread]) -> None:
    for _ in threads:
        tasks.put(None)


def _run(tasks: queue.SimpleQueue) -> None:
    while True:
        task = tasks.get()
        if task is None:
            return
        task()
        del task
