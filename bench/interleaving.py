"""Threads that run one at a time, in an order that a seed decides.

    run = Interleaving(seed)
    with run.patched(engines.render_threads, engines.base_threaded):
        ...  # the threads, locks, events and queues that these modules make belong to `run`

A thread gives way where it uses one of them, or calls `give_way`; who goes on is drawn from those that can.
A wait with a timeout ends by it only when nobody else can go on, so that no clock is involved. The same seed
gives the same run.
"""

from __future__ import annotations

import dataclasses
import queue
import random
import threading
import types
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

from budgetloader.engines.threads import Latch


class Deadlock(Exception):
    """No thread can go on."""


class Interleaving:
    """See the module. The thread that makes it is one of its threads.

    Args:
        seed: of the order.
        stay: the probability that a thread which could give way goes on instead.
    """

    def __init__(self, seed: int, *, stay: float = 0.5) -> None:
        self._random, self._stay = random.Random(seed), stay
        self._running = _Thread(self, lambda: None)
        self._threads = [self._running]

    @contextmanager
    def patched(self, *modules: Any) -> Iterator[None]:
        """Have modules that say `threading.Thread`, `queue.SimpleQueue` and so on use this run's."""
        ours = {
            "threading": types.SimpleNamespace(
                Thread=lambda **options: _Thread(self, **options),
                Event=lambda: _Event(self),
                Lock=lambda: _Lock(self),
            ),
            "queue": types.SimpleNamespace(SimpleQueue=lambda: _Queue(self), Empty=queue.Empty),
        }
        with ExitStack() as stack:
            for module in modules:
                for name, value in ours.items():
                    if hasattr(module, name):
                        stack.enter_context(mock.patch.object(module, name, value))
                for kind in [value for value in vars(module).values() if dataclasses.is_dataclass(value)]:
                    stack.enter_context(mock.patch.object(kind, "__init__", self._with_ours(kind)))
            yield

    def _with_ours(self, kind: Any) -> Callable[..., None]:
        """A dataclass's constructor, with this run's events and locks in the fields that get new ones."""
        make = {threading.Event: _Event, Latch: _Event, threading.Lock: _Lock}
        fields = [(f.name, make[f.default_factory]) for f in dataclasses.fields(kind) if f.default_factory in make]
        constructor = kind.__init__

        def construct(instance: Any, *args: Any, **options: Any) -> None:
            constructor(instance, *args, **options)
            for name, ours in fields:
                object.__setattr__(instance, name, ours(self))

        return construct

    def give_way(self) -> None:
        """Perhaps let another thread go on."""
        if self._random.random() >= self._stay:
            self._switch()

    def wait(self, ready: Callable[[], bool], *, timeout: bool = False) -> bool:
        """Let others go on until something is so; False: nobody else could go on, and the wait has a timeout."""
        me = self._running
        self.give_way()
        while not ready():
            me.ready, me.has_timeout, me.timed_out = ready, timeout, False
            try:
                self._switch()
            finally:
                me.ready = None
            if me.timed_out:
                return ready()
        return True

    def _switch(self) -> None:
        me = self._running
        following = self._next()
        if following is not me:
            self._running = following
            following.turn.release()
            if not me.finished:
                me.turn.acquire()
        if me.failure is not None:
            raise me.failure

    def _next(self) -> _Thread:
        alive = [thread for thread in self._threads if not thread.finished]
        able = [thread for thread in alive if thread.ready is None or thread.ready()]
        if able:
            return self._random.choice(able)
        patient = [thread for thread in alive if thread.has_timeout]
        if patient:
            chosen = self._random.choice(patient)
            chosen.timed_out = True
            return chosen
        first = self._threads[0]
        first.failure = Deadlock(f"{', '.join(thread.name for thread in alive)} wait for each other")
        return first


class _Thread:
    """threading.Thread."""

    def __init__(
        self, run: Interleaving, target: Callable[..., None], args: tuple = (), name: str = "main", daemon: bool = True
    ) -> None:
        self._run, self._target, self._args, self.name = run, target, args, name
        self.turn = threading.Semaphore(0)
        self.ready: Callable[[], bool] | None = None
        self.has_timeout = self.timed_out = self.finished = False
        self.failure: Exception | None = None

    def start(self) -> None:
        self._run._threads.append(self)
        self._real = threading.Thread(target=self._main, name=self.name, daemon=True)
        self._real.start()
        self._run.give_way()

    def join(self, timeout: float | None = None) -> None:
        self._run.wait(lambda: self.finished, timeout=timeout is not None)

    def is_alive(self) -> bool:
        return not self.finished

    def _main(self) -> None:
        self.turn.acquire()
        try:
            self._target(*self._args)
        finally:
            self.finished = True
            self._run._switch()


class _Event:
    """threading.Event, and `budgetloader.engines.threads.Latch`."""

    def __init__(self, run: Interleaving) -> None:
        self._run, self._set = run, False

    def set(self) -> None:
        self._set = True
        self._run.give_way()

    def is_set(self) -> bool:
        return self._set

    def wait(self, timeout: float | None = None) -> bool:
        return self._run.wait(self.is_set, timeout=timeout is not None)


class _Lock:
    """threading.Lock."""

    def __init__(self, run: Interleaving) -> None:
        self._run, self._taken = run, False

    def acquire(self, timeout: float = -1) -> bool:
        if not self._run.wait(lambda: not self._taken, timeout=timeout >= 0):
            return False
        self._taken = True
        return True

    def release(self) -> None:
        self._taken = False
        self._run.give_way()

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *details: object) -> None:
        self.release()


class _Queue:
    """queue.SimpleQueue."""

    def __init__(self, run: Interleaving) -> None:
        self._run = run
        self._items: deque[Any] = deque()

    def put(self, item: Any) -> None:
        self._items.append(item)
        self._run.give_way()

    def get(self, timeout: float | None = None) -> Any:
        if not self._run.wait(lambda: bool(self._items), timeout=timeout is not None):
            raise queue.Empty
        return self._items.popleft()

    def get_nowait(self) -> Any:
        if not self._items:
            raise queue.Empty
        return self._items.popleft()

    def empty(self) -> bool:
        return not self._items
