"""A stage behind any engine: the transform of `BudgetLoader(…, transform=…)`, and normalisation after it.

The engine is asked for uint8 images, and is driven by a thread of this stage, so that decoding goes on while batches
are transformed and the trainer works. On the host the transform runs in as many threads as the engine has, each of
which takes some rows of a batch; on a device it runs in the driving thread, on the uploader's stream. For the loader
the two together are one engine: batches come in order, epochs' ends are no ends, and nothing is made beyond what was
submitted.
"""

from __future__ import annotations

import queue
import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from budgetloader.batch import Batch
from budgetloader.engines.base import BaseEngine, Engine, Job
from budgetloader.engines.stage_driver import Driver, Staged
from budgetloader.engines.stage_places import OnDevice, OnHost
from budgetloader.engines.threads import join_soon
from budgetloader.errors import EngineError
from budgetloader.plans import BatchPlan
from budgetloader.transforms.chain import Transform, place_of

_PATIENCE_SECONDS = 1.0  # for the batch that an engine is at when it is closed


@dataclass(frozen=True)
class Stage:
    """What happens to batches between an engine and the trainer.

    Args:
        transform: see `budgetloader.transforms.Transform`.
        seed: of the keys.
        targets: what the transform is given as targets of a batch.
        views: images of each sample, which are that many parts of a batch.
    """

    transform: Transform
    seed: int
    targets: Callable[[Batch], Any] = lambda batch: batch.labels
    views: int = 1

    def asked(self, job: Job) -> Job:
        """What the engine is asked to make."""
        output = job.output
        device = output.device if self._on_device(job) else "cpu"
        layout = output.layout if output.dtype == "uint8" and device == output.device else "channels_last"
        return replace(job, output=replace(output, dtype="uint8", layout=layout, device=device))

    def behind(self, engine: Engine, job: Job) -> Engine:
        """The engine with the stage behind it; they are closed together.

        Args:
            engine: made from `asked`.
            job: what the two make together.
        """
        try:
            return StagedEngine(engine, self, job, on_device=self._on_device(job))
        except BaseException:
            engine.close()
            raise

    def _on_device(self, job: Job) -> bool:
        return job.output.device != "cpu" and place_of(self.transform) == "device"


class StagedEngine(BaseEngine[Staged]):
    """See `budgetloader.engines.base.Engine`."""

    def __init__(self, engine: Engine, stage: Stage, job: Job, *, on_device: bool) -> None:
        super().__init__(capacity=min(job.capacity, engine.capacity), work=engine.work)
        self.reads_samples = getattr(engine, "reads_samples", True)
        self.crops_bytes = getattr(engine, "crops_bytes", False)
        place = OnDevice(job, stage, engine.work) if on_device else OnHost(job, stage, engine)
        self._plans: queue.SimpleQueue[Staged | None] = queue.SimpleQueue()
        # The thread does not know this object, so that it can be freed where it is forgotten.
        driver = Driver(engine, place, self._plans)
        self._thread = threading.Thread(target=driver.run, name="transform-driver", daemon=True)
        self._thread.start()
        self._finalizer = weakref.finalize(self, _stop, engine, place, self._plans, self._thread)

    def _prepare(self, plan: BatchPlan) -> Staged:
        return Staged(plan)

    def _start(self, pending: Staged) -> None:
        self._plans.put(pending)

    def _wait(self, pending: Staged) -> None:
        while not pending.done.wait(1.0):
            if not self._thread.is_alive():
                raise EngineError("the thread that drives the engine has ended; make a new loader")

    def _take(self, pending: Staged) -> Batch:
        if pending.error is not None:
            raise pending.error
        assert pending.batch is not None, "it is there before it is done"
        return pending.batch

    def _cancel(self, pending: Staged) -> None:
        pending.cancelled = True

    def _stop(self) -> None:
        self._finalizer()


def _stop(engine: Engine, place: OnHost | OnDevice, plans: queue.SimpleQueue, thread: threading.Thread) -> None:
    plans.put(None)
    thread.join(_PATIENCE_SECONDS)
    if thread.is_alive():  # it waits for an engine that hangs
        engine.close()
    join_soon([thread])
    place.close()
