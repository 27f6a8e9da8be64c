"""Some rows of a batch at a time: cropped, decoded and resized in one compiled call, without Python's lock.

Where the system has no libjpeg-turbo of its own, rows are decoded by simplejpeg between two compiled calls, each under
the lock for a few microseconds. What is not plain (a damaged image, a file that is not mapped) is left to the caller,
row by row.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import simplejpeg

from budgetloader.dataset import Dataset
from budgetloader.engines import turbojpeg
from budgetloader.engines.base import Job, Output
from budgetloader.engines.buffers import BufferPool, tone
from budgetloader.engines.row_kernels import COLUMNS, IN_FILE, IN_SCRATCH, crop_rows, make_rows, resample_rows
from budgetloader.joined import JoinedDataset
from budgetloader.plans import BatchPlan
from budgetloader.windows import PAD

_AT_ONCE_BYTES = 1 << 20  # of decoded pixels between the decoder and the resize: they should still be in the cache


class RowRenderer:
    """Renders what is plain of some rows of a batch; one per thread, for its scratch memory.

    Args:
        job: what to make.
        output: the format to write.
    """

    def __init__(self, job: Job, output: Output) -> None:
        self._parts = _plain(job.dataset)
        self._tone = tone(output)
        self._antialias = job.output.interpolation == "antialias"
        self._border = PAD if job.output.crop == "pad" else 0
        self._scaling, self._options = job.output.decode_scaling, decoder_options(fast=job.output.fast_decode)
        library, self._how = turbojpeg.library(), turbojpeg.flags(fast=job.output.fast_decode)
        self._tools = None if library is None else library.tools(self)
        self._scratch, self._pixels = np.empty(0, np.uint8), np.empty(0, np.uint8)

    def render(self, plan: BatchPlan, rows: slice, out: np.ndarray) -> np.ndarray:
        """Render rows of a plan.

        Args:
            plan, rows: what to make.
            out: those rows' images, [n, h, w, 3] with any strides.

        Returns:
            bool [n]: which of them are made. The others were left, and are perhaps half written.

        Raises:
            DatasetError: the file was cut short or written to.
        """
        samples, windows, flips = plan.samples[rows], np.ascontiguousarray(plan.windows[rows]), plan.flips[rows]
        done = np.zeros(len(samples), np.bool_)
        for first, part in self._parts:
            inside = samples - first
            which = np.flatnonzero((inside >= 0) & (inside < len(part)))
            if len(which):
                self._render(part, which, inside, windows, flips, out, done)
        return done

    def compile(self, output: Output) -> None:
        """Compile, or load from numba's cache, what a batch of this output needs."""
        pool = BufferPool(output, 1)
        nothing = np.empty(0, np.int64), np.empty((0, 4), np.int64), np.empty(0, np.bool_)
        samples, windows, flips = nothing
        for _, part in self._parts[:1]:
            out = pool.images(pool.take(1))
            self._render(part, samples, samples, windows, flips, out[:0], flips)

    def _render(
        self,
        part: Dataset,
        which: np.ndarray,
        samples: np.ndarray,
        windows: np.ndarray,
        flips: np.ndarray,
        out: np.ndarray,
        done: np.ndarray,
    ) -> None:
        """Render the rows of one file."""
        part.check_unchanged()  # the compiled code reads the map without a check
        mapped, sizes = part.file_bytes, part.sizes
        rows = np.empty((len(samples), COLUMNS), np.int64)
        scale_to = min(out.shape[1:3]) if self._scaling and not self._border else 0
        where = mapped, part.starts, sizes, part.heights, part.widths, part.raw
        task = which, samples, windows, self._border, scale_to
        shape = flips, self._antialias, self._tone, out, done
        mine = samples[which]
        if self._tools is None:
            self._scratch = _at_least(self._scratch, int(sizes[mine].sum()) + 2 * len(which))
            crop_rows(*where, *task, self._scratch, rows)
            self._one_by_one(which, mapped, rows, windows, flips, self._border, *shape[1:])
            return
        self._scratch = _at_least(self._scratch, int(sizes[mine].max(initial=0)) + 2)
        most = int((part.heights[mine] * part.widths[mine]).max(initial=0))
        self._pixels = _at_least(self._pixels, 3 * most)
        make_rows(*where, *task, self._scratch, rows, self._tools, self._how, self._pixels, *shape)

    def _one_by_one(self, which: np.ndarray, mapped: np.ndarray, rows: np.ndarray, *shape: Any) -> None:
        """Decode rows that are cropped by simplejpeg, and resize what was decoded now and then."""
        at, begin, filled = np.full(len(rows), -1, np.int64), 0, 0
        for end, (source, first, last, _, _, height, width, divisor) in enumerate(rows[which].tolist()):
            if source in (IN_SCRATCH, IN_FILE):
                height, width = -(-height // divisor), -(-width // divisor)
                need = 3 * height * width
                if filled and filled + need > max(_AT_ONCE_BYTES, len(self._pixels)):
                    resample_rows(which[begin:end], self._pixels, at, mapped, rows, *shape)
                    begin, filled = end, 0
                if need > len(self._pixels):
                    self._pixels = np.empty(max(need, _AT_ONCE_BYTES), np.uint8)
                data = (self._scratch if source == IN_SCRATCH else mapped)[first:last]
                if self._decode(data, self._pixels[filled : filled + need], height, width, divisor):
                    at[which[end]] = filled
                    filled += need
        resample_rows(which[begin:], self._pixels, at, mapped, rows, *shape)

    def _decode(self, data: np.ndarray, pixels: np.ndarray, height: int, width: int, divisor: int) -> bool:
        """Whether a JPEG decodes to so many pixels."""
        try:
            if divisor == 1:
                decoded = simplejpeg.decode_jpeg(data, buffer=pixels, **self._options)
            else:
                least = {"min_height": height, "min_width": width}
                decoded = simplejpeg.decode_jpeg(data, buffer=pixels, **least, **self._options)
        except ValueError:
            return False
        return decoded.shape == (height, width, 3)


def decoder_options(*, fast: bool) -> dict[str, bool]:
    """What simplejpeg is asked for; see `Output.fast_decode`."""
    return {"fastdct": True, "fastupsample": True} if fast else {}


def _plain(dataset: Any) -> list[tuple[int, Dataset]]:
    """The files whose map may be read without a check of each sample, and the number of each one's first sample."""
    parts = dataset.parts if isinstance(dataset, JoinedDataset) else (dataset,)
    found, first = [], 0
    for part in parts:
        if isinstance(part, Dataset) and part.plans_mapped and not part.verifies:
            found.append((first, part))
        first += len(part)
    return found


def _at_least(memory: np.ndarray, size: int) -> np.ndarray:
    return memory if len(memory) >= size else np.empty(size + size // 4, np.uint8)
