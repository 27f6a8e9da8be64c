"""Loaders to compare, each as its users run it: random resized crop to a square, and flip.

Each is a function `epochs(work, ratios)` that yields one iterator of batch sizes per epoch. What is
not ours does not know a budget: its user leaves the epoch with `break`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from functools import lru_cache
from typing import Any

import numpy as np

from budgetloader.bench.threaded_peers import plain_threads, spdl_pipeline, spdl_simplejpeg
from budgetloader.bench.work import MEAN, STD, Epochs, Work, cut


def ours(engine: Any) -> Callable[[Work, Sequence[Fraction]], Epochs]:
    """One of our engines, or a function that makes one: the ratios are its schedule."""

    def epochs(work: Work, ratios: Sequence[Fraction]) -> Epochs:
        from budgetloader import BudgetLoader, Schedule

        options: Any = {"interpolation": work.interpolation, "dtype": work.dtype, "engine": engine}
        with BudgetLoader(
            work.beton,
            schedule=Schedule.of(ratios),
            batch_size=work.batch_size,
            image_size=work.image_size,
            workers=work.threads,
            device=work.device,
            **options,
        ) as batches:
            for _ in ratios:
                yield (len(labels) for _, labels in batches)
            decoded = sum(e.samples_decoded for e in batches.stats)
            emitted = sum(e.samples_emitted for e in batches.stats)
            if decoded != emitted:
                raise RuntimeError(f"{engine} decoded {decoded} samples and emitted {emitted}")

    return epochs


def cropped_decoding(work: Work, ratios: Sequence[Fraction]) -> Epochs:
    """The ceiling: only cutting out and decoding the windows' bytes."""
    from budgetloader import Dataset, Schedule
    from budgetloader.engines.rendering import Decoder
    from budgetloader.plans import Planner

    dataset = Dataset(work.beton)
    planner = Planner(dataset, schedule=Schedule.of(ratios), batch_size=work.batch_size, seed=0)
    if work.device != "cpu":
        yield from _nvimagecodec(dataset, planner, work.device)
        return
    decoders = [Decoder(dataset) for _ in range(work.threads)]

    def decode(decoder: Decoder, rows: np.ndarray) -> None:
        for sample, top, left, height, width in rows.tolist():
            decoder.decode(sample, top=top, left=left, height=height, width=width)

    with ThreadPoolExecutor(work.threads) as pool:
        for epoch, steps in enumerate(planner.steps):

            def batches(epoch: int = epoch, steps: int = steps) -> Iterator[int]:
                for step in range(steps):
                    plan = planner.plan(epoch, step)
                    rows = np.column_stack((plan.samples, plan.windows))
                    list(pool.map(decode, decoders, np.array_split(rows, work.threads)))
                    yield len(rows)

            yield batches()


def _nvimagecodec(dataset: Any, planner: Any, device: str) -> Epochs:
    """nvImageCodec's own rate on the cropped bytes, which are cut out before its clock starts."""
    import importlib

    from budgetloader.jpeg import Cropper

    nvimgcodec: Any = importlib.import_module("nvidia.nvimgcodec")
    cropper, decoder = Cropper(), nvimgcodec.Decoder(device_id=int(device.partition(":")[2] or 0))
    for epoch, steps in enumerate(planner.steps):
        cut = []
        for step in range(steps):
            plan = planner.plan(epoch, step)
            parts = (
                cropper.crop(dataset.jpeg(sample), top=top, left=left, height=height, width=width)[0]
                for sample, (top, left, height, width) in zip(plan.samples, plan.windows.tolist(), strict=True)
            )
            cut.append([part.tobytes() for part in parts])

        yield (len(decoder.decode(parts)) for parts in cut)


@lru_cache
def _torch_dataloader(work: Work) -> Any:
    import torch
    from torchvision.datasets import ImageFolder
    from torchvision.transforms import v2

    transforms: list[Any] = [
        v2.RandomResizedCrop(work.image_size, antialias=work.interpolation == "antialias"),
        v2.RandomHorizontalFlip(),
        v2.PILToTensor(),
    ]
    if work.dtype != "uint8":
        transforms += [v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)]
    return torch.utils.data.DataLoader(
        ImageFolder(work.folder, v2.Compose(transforms)),
        batch_size=work.batch_size,
        shuffle=True,
        num_workers=work.threads,
        persistent_workers=True,
        pin_memory=work.device != "cpu",
    )


def torch_dataloader(work: Work, ratios: Sequence[Fraction]) -> Epochs:
    """torch's DataLoader and torchvision's transforms over files, with workers that persist."""
    import torch

    loader, dtype = _torch_dataloader(work), getattr(torch, work.dtype)

    def taken(images: Any) -> int:
        return len(images.to(work.device, dtype, non_blocking=True))

    for ratio in ratios:
        yield cut((taken(images) for images, _ in loader), len(loader), ratio)


@lru_cache
def _ffcv_loader(work: Work) -> Any:
    from ffcv.fields.basics import IntDecoder
    from ffcv.fields.decoders import RandomResizedCropRGBImageDecoder
    from ffcv.loader import Loader, OrderOption
    from ffcv.transforms import NormalizeImage, RandomHorizontalFlip, ToTensor, ToTorchImage

    size = (work.image_size, work.image_size)
    images: list[Any] = [RandomResizedCropRGBImageDecoder(size), RandomHorizontalFlip()]
    if work.dtype == "float32":
        scaled = [255 * np.array(v) for v in (MEAN, STD)]
        images.append(NormalizeImage(scaled[0], scaled[1], np.dtype(np.float32)))
    return Loader(
        work.beton,
        batch_size=work.batch_size,
        num_workers=work.threads,
        order=OrderOption.RANDOM,
        os_cache=True,
        drop_last=False,
        pipelines={"image": [*images, ToTensor(), ToTorchImage()], "label": [IntDecoder(), ToTensor()]},
    )


def plain_ffcv(work: Work, ratios: Sequence[Fraction]) -> Epochs:
    """FFCV's own random-resized-crop loader (its filter is cv2's INTER_AREA)."""
    loader = _ffcv_loader(work)
    for ratio in ratios:
        yield cut((len(labels) for _, labels in loader), len(loader), ratio)


@lru_cache
def _dali_iterator(work: Work) -> tuple[Any, int]:
    import logging

    import nvidia.dali.fn
    import nvidia.dali.types
    from nvidia.dali.plugin.pytorch import DALIClassificationIterator, LastBatchPolicy

    dali: Any = nvidia.dali
    logging.getLogger().setLevel(logging.ERROR)  # it warns of each reset that it ignores

    cuda = work.device.startswith("cuda")
    number = int(work.device.partition(":")[2] or 0) if cuda else None
    resized: Any = {
        "size": [work.image_size, work.image_size],
        "interp_type": dali.types.INTERP_LINEAR,
        "antialias": work.interpolation == "antialias",
    }

    @dali.pipeline_def(batch_size=work.batch_size, num_threads=work.threads, device_id=number, seed=1)
    def pipeline() -> Any:
        jpegs, labels = dali.fn.readers.file(file_root=work.folder, random_shuffle=True, name="reader")
        if cuda:  # whole images: the hardware knows no region, and nvImageCodec 0.9 crashes on one (its issue 55)
            images = dali.fn.decoders.image(jpegs, device="mixed")
            images = dali.fn.random_resized_crop(images, random_area=(0.08, 1.0), **resized)
        else:
            images = dali.fn.decoders.image_random_crop(jpegs, device="cpu", random_area=(0.08, 1.0))
            images = dali.fn.resize(images, **resized)
        uint8 = work.dtype == "uint8"
        images = dali.fn.crop_mirror_normalize(
            images,
            mirror=dali.fn.random.coin_flip(),
            dtype={"uint8": dali.types.UINT8, "float16": dali.types.FLOAT16, "float32": dali.types.FLOAT}[work.dtype],
            output_layout="HWC",
            mean=[0.0] * 3 if uint8 else [255 * v for v in MEAN],
            std=[1.0] * 3 if uint8 else [255 * v for v in STD],
        )
        return images, labels

    built = pipeline()
    built.build()
    iterator = DALIClassificationIterator(
        built, reader_name="reader", auto_reset=False, last_batch_policy=LastBatchPolicy.PARTIAL
    )
    return iterator, -(-built.epoch_size("reader") // work.batch_size)


def plain_dali(work: Work, ratios: Sequence[Fraction]) -> Epochs:
    """DALI's file reader, image_random_crop (on a GPU a whole image, and random_resized_crop), resize,
    crop_mirror_normalize, through its iterator.

    `reset` does nothing in mid-epoch: who cuts an epoch goes on in the same shuffle. The iterator
    prefetches two batches when it is made or reset, before its epoch is asked for: those come free.
    """
    iterator, full = _dali_iterator(work)
    for ratio in ratios:
        yield cut((len(batch[0]["label"]) for batch in iterator), full, ratio)
        iterator.reset()


CONTENDERS: dict[str, Callable[[Work, Sequence[Fraction]], Epochs]] = {
    "native": ours("native"),
    "dali": ours("dali"),
    "ffcv": ours("ffcv"),
    "plain DALI": plain_dali,
    "plain FFCV": plain_ffcv,
    "torch DataLoader": torch_dataloader,
    "SPDL": spdl_pipeline,
    "SPDL over simplejpeg": spdl_simplejpeg,
    "threads over simplejpeg": plain_threads,
    "cropped decoding alone": cropped_decoding,
}
OURS = ("native", "dali", "ffcv")
NEEDS = {
    "dali": "nvidia.dali",
    "ffcv": "ffcv",
    "plain DALI": "nvidia.dali",
    "plain FFCV": "ffcv",
    "torch DataLoader": "torchvision",
    "SPDL": "spdl.io",
    "SPDL over simplejpeg": "spdl.pipeline",
}
# The filters that each can be asked for; "none" where nothing is resized.
FILTERS: dict[str, tuple[str, ...]] = {
    "native": ("linear", "antialias"),
    "dali": ("linear", "antialias"),
    "ffcv": ("linear", "antialias"),
    "plain DALI": ("linear", "antialias"),
    "plain FFCV": ("area",),
    "torch DataLoader": ("antialias",),
    "SPDL": ("linear",),
    "SPDL over simplejpeg": ("linear", "area"),
    "threads over simplejpeg": ("linear", "area"),
    "cropped decoding alone": ("none",),
}


def quiet_threads(threads: int) -> None:
    """Set the threads of torch and numba, before they are imported, as for a machine of so many cores."""
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    os.environ.setdefault("NUMBA_NUM_THREADS", str(threads))
