"""The native engine: a pool of threads over libjpeg-turbo, without a process or a copy in between.

Decoding, resizing and normalising all release the GIL. Batches are written to buffers that are
taken again as soon as the trainer has dropped the last tensor that shows them: a batch that is kept
stays valid for as long as it is kept. For a GPU they hold bytes, and are taken again once it has copied them.
"""

from __future__ import annotations

from budgetloader.batch import Batch
from budgetloader.engines.base import BaseEngine, Job, crops_bytes
from budgetloader.engines.channels import parts_of
from budgetloader.engines.render_threads import Rendered, RenderThreads
from budgetloader.engines.rendering import compile_kernels
from budgetloader.engines.rows import RowRenderer
from budgetloader.engines.upload import uploader
from budgetloader.plans import BatchPlan


class NativeEngine(BaseEngine[Rendered]):
    """See `budgetloader.engines.base.Engine`."""

    def __init__(self, job: Job) -> None:
        super().__init__(capacity=job.capacity)
        self.crops_bytes = crops_bytes(job)
        self._uploader = uploader(job)
        compile_kernels(self._uploader.host)
        for part in parts_of(job.dataset, job.output.channels):
            RowRenderer(job, self._uploader.host, part).compile(self._uploader.host)
        self._pool = RenderThreads(job, self._uploader, self.work)
        self._threads = self._pool.threads

    def _prepare(self, plan: BatchPlan) -> Rendered:
        return Rendered(plan, self._uploader.take(len(plan), plan.image_size), plan.samples.copy())

    def _start(self, pending: Rendered) -> None:
        self._pool.start(pending)

    def _wait(self, pending: Rendered) -> None:
        self._pool.wait(pending)

    def _take(self, pending: Rendered) -> Batch:
        if pending.error is not None:
            raise pending.error
        assert pending.sent is not None, "it was sent before it was done"
        sent = pending.sent
        return Batch(sent.images, sent.labels, pending.plan, pending.samples, sent.arrival)

    def _cancel(self, pending: Rendered) -> None:
        pending.cancelled = True

    def _stop(self) -> None:
        self._pool.close()
        self._uploader.close()
