"""Some rows of a batch at a time: cropped, decoded and resized in one compiled call, without Python's lock.

Where the system has no libjpeg-turbo of its own, rows are decoded by simplejpeg between two compiled calls, each under
the lock for a few microseconds. What is not plain (a damaged image, a file that is not mapped) is left to the caller,
row by row.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import simplejpeg

from budgetloader.dataset import Dataset
from budgetloader.engines import turbojpeg
from budgetloader.engines.base import Job, Output
from budgetloader.engines.buffers import BufferPool, tone
from budgetloader.engines.channels import Part
from budgetloader.engines.row_kernels import COLUMNS, IN_FILE, IN_SCRATCH, crop_rows, make_rows, resample_rows, unite
from budgetloader.joined import JoinedDataset
from budgetloader.plans import BatchPlan
from budgetloader.windows import PAD

_AT_ONCE_BYTES = 1 << 20  # of decoded pixels between the decoder and the resize: they should still be in the cache


class RowRenderer:
    """Renders what is plain of some rows of a batch; one per thread, for its scratch memory.

    Args:
        job: what to make.
        output: the format to write.
        part: the channels to make; default: all, of the job's images.

    Attributes:
        shared: rows of the last call that were cut from what was decoded for another.
    """

    def __init__(self, job: Job, output: Output, part: Part | None = None) -> None:
        self._part = part or Part(job.dataset, 0, output.channels)
        self._parts = _plain(self._part.dataset)
        self._tone = self._part.tone(tone(output))
        self._antialias = job.output.interpolation == "antialias"
        self._border = PAD if job.output.crop == "pad" else 0
        self._scaling = job.output.decode_scaling
        self._options = decoder_options(fast=job.output.fast_decode, grey=self._part.count == 1)
        library, self._how = turbojpeg.library(), turbojpeg.flags(fast=job.output.fast_decode)
        self._tools = None if library is None else library.tools(self)
        self._scratch, self._pixels = np.empty(0, np.uint8), np.empty(0, np.uint8)
        self.shared = 0

    def render(self, plan: BatchPlan, which: np.ndarray, images: np.ndarray) -> np.ndarray:
        """Render rows of a plan.

        Args:
            plan: of the batch.
            which: int64 [n], its rows to make.
            images: all of the batch, [batch, h, w, channels] with any strides.

        Returns:
            bool [n]: which of them are made. The others were left, and are perhaps half written.

        Raises:
            DatasetError: the file was cut short or written to.
        """
        rows = _Rows(which, plan.samples[which], plan.windows[which], plan.flips[which])
        out, done = self._part.of(images), np.zeros(len(which), np.bool_)
        self.shared = 0
        for first, file in self._parts:
            inside = rows.samples - first
            mine = np.flatnonzero((inside >= 0) & (inside < len(file)))
            if len(mine):
                self._render(file, mine, inside, rows, out, done)
        return done

    def compile(self, output: Output) -> None:
        """Compile, or load from numba's cache, what a batch of this output needs."""
        pool = BufferPool(output, 1)
        none = np.empty(0, np.int64)
        rows = _Rows(none, none, np.empty((0, 4), np.int64), np.empty(0, np.bool_))
        for _, file in self._parts[:1]:
            images = self._part.of(pool.images(pool.take(1)))
            self._render(file, none, none, rows, images[:0], np.zeros(0, np.bool_))

    def _render(
        self, file: Dataset, mine: np.ndarray, samples: np.ndarray, rows: _Rows, out: np.ndarray, done: np.ndarray
    ) -> None:
        """Render the rows of one file."""
        file.check_unchanged()  # the compiled code reads the map without a check
        mapped, sizes = file.file_bytes, file.sizes
        shown, leaders = rows.windows.copy(), np.arange(len(samples))
        if not self._scaling:  # which may make each window smaller in another way
            unite(mine, samples, shown, leaders)
        leading = mine[leaders[mine] == mine]
        # Rows behind their leaders, and where those of each leader begin.
        behind = mine[np.argsort(leaders[mine], kind="stable")]
        begins = np.searchsorted(leaders[behind], leading)
        found = np.empty((len(samples), COLUMNS), np.int64)
        where = mapped, file.starts, sizes, file.heights, file.widths, file.raw
        task = leading, samples, shown, self._border, min(out.shape[1:3]) if self._scaling and not self._border else 0
        shape = rows.windows, rows.flips, self._border, self._antialias, self._tone, out, rows.which, done
        bytes_of, pixels_of = sizes[samples[leading]], file.heights[samples[leading]] * file.widths[samples[leading]]
        if self._tools is None:
            self._scratch = _at_least(self._scratch, int(bytes_of.sum()) + 2 * len(leading))
            crop_rows(*where, *task, self._scratch, found)
            self._one_by_one(leading, leaders, behind, begins, mapped, found, *shape)
        else:
            self._scratch = _at_least(self._scratch, int(bytes_of.max(initial=0)) + 2)
            self._pixels = _at_least(self._pixels, self._part.count * int(pixels_of.max(initial=0)))
            made = self._scratch, found, self._tools, self._how, self._pixels, behind, begins, *shape[:2], *shape[3:]
            make_rows(*where, *task, *made)
        self.shared += int(np.count_nonzero(done[mine] & (leaders[mine] != mine)))

    def _one_by_one(
        self,
        leading: np.ndarray,
        leaders: np.ndarray,
        behind: np.ndarray,
        begins: np.ndarray,
        mapped: np.ndarray,
        found: np.ndarray,
        *shape: Any,
    ) -> None:
        """Decode rows that are cropped by simplejpeg, and resize what was decoded now and then."""
        at = np.full(len(leaders), -1, np.int64)
        begin, filled = 0, 0
        for number, (source, first, last, _, _, height, width, divisor) in enumerate(found[leading].tolist()):
            if source in (IN_SCRATCH, IN_FILE):
                height, width = -(-height // divisor), -(-width // divisor)
                need = self._part.count * height * width
                if filled and filled + need > max(_AT_ONCE_BYTES, len(self._pixels)):
                    some = behind[begin : begins[number]]
                    resample_rows(some, leaders, self._pixels, at, mapped, found, *shape)
                    begin, filled = begins[number], 0
                if need > len(self._pixels):
                    self._pixels = np.empty(max(need, _AT_ONCE_BYTES), np.uint8)
                data = (self._scratch if source == IN_SCRATCH else mapped)[first:last]
                if self._decode(data, self._pixels[filled : filled + need], height, width, divisor):
                    at[leading[number]] = filled
                    filled += need
        resample_rows(behind[begin:], leaders, self._pixels, at, mapped, found, *shape)

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
        return decoded.shape == (height, width, self._part.count)


@dataclass(frozen=True)
class _Rows:
    """Some rows of a plan: which they are, their samples, windows and flips."""

    which: np.ndarray
    samples: np.ndarray
    windows: np.ndarray
    flips: np.ndarray


def decoder_options(*, fast: bool, grey: bool = False) -> dict[str, Any]:
    """What simplejpeg is asked for; see `Output.fast_decode`. Grey is the luma that a JPEG stores."""
    options: dict[str, Any] = {"fastdct": True, "fastupsample": True} if fast else {}
    return {**options, "colorspace": "Gray"} if grey else options


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
