"""Peers that decode in threads of one process: SPDL with its own decoder and over simplejpeg, and plain threads."""

from __future__ import annotations

import itertools
import math
import random
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from budgetloader.bench.work import MEAN, STD, Epochs, Work, cut


def _window(width: int, height: int) -> tuple[int, int, int, int]:
    """A random resized crop's window: left, top, width, height."""
    area = width * height * random.uniform(0.08, 1.0)
    ratio = math.exp(random.uniform(math.log(3 / 4), math.log(4 / 3)))
    w, h = min(round(math.sqrt(area * ratio)), width), min(round(math.sqrt(area / ratio)), height)
    return random.randint(0, width - w), random.randint(0, height - h), w, h


def _files(work: Work) -> list[str]:
    return [str(path) for path in Path(work.folder).rglob("*.jpg")]


def spdl_pipeline(work: Work, ratios: Sequence[Fraction]) -> Epochs:
    """SPDL's pipeline of threads with its own decoder (FFmpeg's, and FFmpeg's bilinear scaling)."""
    import spdl.io
    import torch
    from PIL import Image

    sizes = {}
    for path in _files(work):
        with Image.open(path) as image:
            sizes[path] = image.size
    mean, std = (torch.tensor(v).view(1, 1, 1, 3) * 255 for v in (MEAN, STD))
    size = work.image_size

    def decode(path: str) -> Any:
        x, y, w, h = _window(*sizes[path])
        flip = ",hflip" if random.random() < 0.5 else ""
        filters = f"crop={w}:{h}:{x}:{y},scale={size}:{size}:flags=bilinear{flip},format=pix_fmts=rgb24"
        return spdl.io.decode_packets(spdl.io.demux_image(path), filter_desc=filters)

    def collate(frames: list[Any]) -> Any:
        images = spdl.io.to_torch(spdl.io.convert_frames(frames))
        return (images.float() - mean) / std if work.dtype == "float32" else images

    yield from _spdl(work, ratios, decode, collate)


def spdl_simplejpeg(work: Work, ratios: Sequence[Fraction]) -> Epochs:
    """SPDL's pipeline of threads over simplejpeg and OpenCV, the fastest that we know for it."""
    import torch

    render = renderer(work)
    shape, dtype = (work.image_size, work.image_size, 3), np.dtype(work.dtype)

    def decode(path: str) -> np.ndarray:
        render(path, out := np.empty(shape, dtype))
        return out

    yield from _spdl(work, ratios, decode, lambda images: torch.from_numpy(np.stack(images)))


def _spdl(work: Work, ratios: Sequence[Fraction], decode: Callable, collate: Callable) -> Epochs:
    from spdl.pipeline import PipelineBuilder

    files = _files(work)
    full = -(-len(files) // work.batch_size)
    for ratio in ratios:
        builder: Any = PipelineBuilder()
        built = (
            builder.add_source(random.sample(files, len(files)))
            .pipe(decode, concurrency=work.threads)
            .aggregate(work.batch_size)
            .pipe(collate)
            .add_sink(3)
            .build(num_threads=work.threads)
        )

        def batches(built: Any = built) -> Iterator[int]:
            with built.auto_stop():
                for images in built:
                    yield len(images)

        yield cut(batches(), full, ratio)


def renderer(work: Work) -> Callable[[str | bytes, np.ndarray], None]:
    """simplejpeg, and OpenCV's resize: a window of a file, or of a JPEG's bytes, to [size, size, 3] of the dtype."""
    import cv2
    import simplejpeg

    cv2.setNumThreads(1)  # the images are what is spread over threads
    size = (work.image_size, work.image_size)
    how = {"linear": cv2.INTER_LINEAR, "area": cv2.INTER_AREA}[work.interpolation]
    slope = (1 / (255 * np.array(STD))).astype(np.float32)
    offset = (np.array(MEAN) / np.array(STD)).astype(np.float32)

    def render(source: str | bytes, out: np.ndarray) -> None:
        data = source if isinstance(source, bytes) else Path(source).read_bytes()
        pixels = simplejpeg.decode_jpeg(data, fastdct=False, fastupsample=False)
        x, y, w, h = _window(pixels.shape[1], pixels.shape[0])
        image = cv2.resize(pixels[y : y + h, x : x + w], size, interpolation=how)
        if random.random() < 0.5:
            image = image[:, ::-1]
        if out.dtype == np.uint8:
            out[...] = image
        else:
            np.multiply(image, slope, out=out)
            out -= offset

    return render


def plain_threads(work: Work, ratios: Sequence[Fraction]) -> Epochs:
    """A pool of threads over simplejpeg and OpenCV into a ring of buffers: an expert's afternoon.

    A batch is valid until as many others were taken as the ring is long. The pool and the ring stay from epoch to
    epoch, and an epoch's first batches are begun while the last ones of the epoch before are taken.
    """
    import torch

    render, files = renderer(work), _files(work)
    full = -(-len(files) // work.batch_size)
    shape = (work.batch_size, work.image_size, work.image_size, 3)
    ring = [np.empty(shape, np.dtype(work.dtype)) for _ in range(6)]

    def part(paths: Sequence[str], out: np.ndarray) -> None:
        for path, image in zip(paths, out, strict=True):
            render(path, image)

    def begun(pool: Any) -> Iterator[tuple[int, list[Any], np.ndarray]]:
        buffers = itertools.cycle(ring)
        for epoch, ratio in enumerate(ratios):
            order = random.sample(files, len(files))
            for start in range(0, int(ratio * full) * work.batch_size, work.batch_size):
                paths = order[start : start + work.batch_size]
                out = next(buffers)[: len(paths)]
                rows = range(0, len(paths), 8)
                yield epoch, [pool.submit(part, paths[i : i + 8], out[i : i + 8]) for i in rows], out

    with ThreadPoolExecutor(work.threads) as pool:
        source = begun(pool)
        ahead = deque(itertools.islice(source, 4))

        def batches(epoch: int) -> Iterator[int]:
            while ahead and ahead[0][0] == epoch:
                _, parts, out = ahead.popleft()
                for one in parts:
                    one.result()
                ahead.extend(itertools.islice(source, 1))
                yield len(torch.from_numpy(out))

        for epoch in range(len(ratios)):
            yield batches(epoch)
