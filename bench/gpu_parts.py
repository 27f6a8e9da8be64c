"""The measurements of bench/gpu.py, each run in a process of its own by `budgetloader.bench.child`.

Each function named `…_part` is called once in a process and gives the function that answers requests. An
exception is an answer, {"error": …}; a request that takes too long ends the process.
"""

from __future__ import annotations

import importlib
import io
import signal
import statistics
import time
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np

Answer = Callable[..., dict[str, Any]]
TOLERANCE = {"native": 0.0, "dali": 1.5, "ffcv": 1.5, "resident": 0.05}  # mean difference, of 255
_OTHERS = 1.5  # an engine of somebody's own
SIZE = {"resident": 32}  # of the images; others have 128
LOAD_SIZE, LOAD_SECONDS = 4096, 0.025  # of the matrices that are multiplied before each batch; for how long
_LOAD_TIMED, _LOAD_MOST = 8, 1000  # products: timed to find how many take so long, and at most so many
JPEGS = ("as stored", "cropped", "without restart markers", "optimised tables")
_RATE_IMAGES = 64


def answering(work: Answer) -> Answer:
    """Work whose errors are answers, and that may take `limit_seconds`."""

    def answer(*, limit_seconds: int, **request: Any) -> dict[str, Any]:
        signal.alarm(limit_seconds)  # whose default is the process's end, also within a library that hangs
        try:
            return work(**request)
        except Exception as error:
            lines = str(error).strip().splitlines() or [""]
            return {"error": f"{type(error).__name__}: {lines[0]}"}
        finally:
            signal.alarm(0)

    return answer


def contract_part(engine: str, beton: str, device: str) -> Answer:
    return answering(lambda: contract(engine, beton=beton, device=device))


def hardware_part(jpeg: str, beton: str, device: str) -> Answer:
    return answering(lambda: hardware(jpeg, beton=beton, device=device))


def trainer_part(**shape: Any) -> Answer:
    return answering(lambda **more: trainer(**shape, **more))


def loader_part(contender: str, work: dict[str, Any], tuning: dict[str, Any] | None = None) -> Answer:
    from budgetloader.bench.contenders import Work

    return answering(lambda: rate(contender, Work(**work), tuning=tuning))


def engine_of(name: str) -> Any:
    """An engine's name, or the function that MODULE:FUNCTION says."""
    module, _, function = name.partition(":")
    return getattr(importlib.import_module(module), function) if function else name


class _Load:
    """A trainer's kernels, queued so that the device is behind the host when a batch is handed over.

    Args:
        device: any; nothing is queued on a CPU.
        size: of a square matrix that is multiplied by itself.
        count: how many times; None: for `LOAD_SECONDS`, as measured first.
    """

    def __init__(self, device: str, *, size: int, count: int | None) -> None:
        import torch

        cuda = torch.device(device).type == "cuda"
        self._count = (_LOAD_TIMED if count is None else count) if cuda else 0
        self._matrix = torch.ones((size, size) if cuda else (0, 0), dtype=torch.float16, device=device)
        if cuda and count is None:
            self.queue()
            torch.cuda.synchronize(device)
            began = time.perf_counter()
            self.queue()
            torch.cuda.synchronize(device)
            seconds = (time.perf_counter() - began) / self._count
            self._count = min(max(round(LOAD_SECONDS / seconds), 1), _LOAD_MOST)

    def queue(self) -> None:
        for _ in range(self._count):
            self._matrix.mm(self._matrix)


def contract(
    engine: str, *, beton: str, device: str, load: tuple[int, int | None] = (LOAD_SIZE, None)
) -> dict[str, Any]:
    """Every batch of one engine on the device, under load, against native's on the CPU.

    Through epochs of changing budgets, and the first again, in bytes and in float16. Each batch is copied by a
    kernel behind the queued ones, and dropped when the next one is taken: were it read too early, or its memory given
    away too early, the copy would show it.
    """
    import torch

    kernels = _Load(device, size=load[0], count=load[1])
    worst, decoded, emitted = 0.0, 0, 0
    for dtype in ("uint8", "float16"):
        options = _contract_options(engine, dtype, beton)
        with _loader(beton, engine=engine_of(engine), device=device, **options) as batches:
            copies = []
            for epoch in (0, 1, 2, 0):
                batches.set_epoch(epoch)
                kernels.queue()
                for images, labels, ids in batches:
                    if images.device.type != torch.device(device).type:
                        raise RuntimeError(f"{engine}: images are on {images.device}, and {device} was asked for")
                    copies.append((images.clone(), labels.clone(), ids))
                    del images, labels
                    kernels.queue()
            decoded += sum(e.samples_decoded for e in batches.stats)
            emitted += sum(e.samples_emitted for e in batches.stats)
        worst = max(worst, _difference(engine, copies, beton=beton, options=options))
    if worst > TOLERANCE.get(engine, _OTHERS):
        raise RuntimeError(f"{engine} on {device}: pixels differ by {worst:.2f}/255 from native's on average")
    return {"engine": engine, "pixel_difference": worst, "decoded": decoded, "emitted": emitted}


def _contract_options(engine: str, dtype: str, beton: str) -> dict[str, Any]:
    from budgetloader import Dataset

    batch_size = min(16, len(Dataset(beton)) // 4)  # a quarter of the batches is one at least
    size = SIZE.get(engine, 128)
    return {"batch_size": batch_size, "image_size": size, "seed": 3, "dtype": dtype, "with_ids": True}


def _loader(beton: str, **options: Any) -> Any:
    from budgetloader import BudgetLoader, Schedule

    return BudgetLoader(beton, schedule=Schedule.of([1, 0.5, 0.25, 1]), **options)


def _difference(engine: str, copies: list[Any], *, beton: str, options: dict[str, Any]) -> float:
    """The largest mean difference of a batch to native's on the CPU, of 255; and that they are the same samples'."""
    import torch

    worst, taken = 0.0, iter(copies)
    scale = 1.0 if options["dtype"] == "uint8" else 255 * torch.tensor((0.229, 0.224, 0.225)).view(3, 1, 1)
    with _loader(beton, engine="native", device="cpu", **options) as reference:
        for epoch in (0, 1, 2, 0):
            reference.set_epoch(epoch)
            for step, (expected, wanted, numbers) in enumerate(reference):
                where = f"{engine}: epoch {epoch}, step {step}"
                copy = next(taken, None)
                if copy is None or len(copy[0]) != len(expected):
                    raise RuntimeError(f"{where}: fewer batches or samples than the budget's")
                images, labels, ids = copy
                if ids.tolist() != numbers.tolist() or labels.tolist() != wanted.tolist():
                    raise RuntimeError(f"{where}: other samples than native's")
                difference = (images.cpu().float() - expected.float()).abs() * scale
                if not torch.isfinite(difference).all():
                    raise RuntimeError(f"{where}: pixels that are no numbers")
                worst = max(worst, float(difference.mean()))
    if next(taken, None) is not None:
        raise RuntimeError(f"{engine}: more batches than the budget's")
    return worst


def hardware(jpeg: str, *, beton: str, device: str) -> dict[str, Any]:
    """Whether nvImageCodec's JPEG hardware decodes a kind of JPEG, how fast, and how far from libjpeg-turbo.

    On a CPU its CPU backend stands in, so that the command can be tried.
    """
    import simplejpeg
    import torch

    nvimgcodec: Any = importlib.import_module("nvidia.nvimgcodec")
    target = torch.device(device)
    cuda = target.type == "cuda"
    kinds = nvimgcodec.BackendKind
    decoder = nvimgcodec.Decoder(
        device_id=(target.index or 0) if cuda else nvimgcodec.NVIMGCODEC_DEVICE_CPU_ONLY,
        backends=[nvimgcodec.Backend(kinds.HW_GPU_ONLY if cuda else kinds.CPU_ONLY)],
        options=":fancy_upsampling=1",
    )
    data = jpeg_of(jpeg, beton=beton)
    backend = "hardware" if cuda else "cpu"
    decoded = decoder.decode(data)
    if decoded is None:
        return {"jpeg": jpeg, "backend": backend, "decodes": False}
    pixels = np.asarray(decoded.cpu() if cuda else decoded).astype(int)
    difference = float(np.abs(pixels - simplejpeg.decode_jpeg(data)).mean())
    seconds = []
    for _ in range(4):
        began = time.perf_counter()
        images = decoder.decode([data] * _RATE_IMAGES)
        np.asarray(images[-1].cpu() if cuda else images[-1])
        seconds.append(time.perf_counter() - began)
    rate = _RATE_IMAGES / statistics.median(seconds[1:])
    return {
        "jpeg": jpeg,
        "backend": backend,
        "decodes": True,
        "pixel_difference": difference,
        "images_per_second": rate,
    }


def jpeg_of(kind: str, *, beton: str) -> bytes:
    """One of `JPEGS`, of a file's first image."""
    from PIL import Image

    from budgetloader import Dataset
    from budgetloader.jpeg import Cropper

    dataset = Dataset(beton)
    stored = dataset.jpeg(0)
    if kind == "as stored":
        return stored.tobytes()
    height, width = int(dataset.heights[0]), int(dataset.widths[0])
    if kind == "cropped":
        half = {"height": height // 2, "width": width // 2}
        return Cropper().crop(stored, top=height // 4, left=width // 4, **half)[0].tobytes()  # type: ignore[arg-type]
    buffer = io.BytesIO()
    markers = {} if kind == "without restart markers" else {"optimize": True, "restart_marker_blocks": 4}
    Image.open(io.BytesIO(stored.tobytes())).save(buffer, "JPEG", quality=90, **markers)
    return buffer.getvalue()


def rate(name: str, work: Any, *, tuning: dict[str, Any] | None = None) -> dict[str, Any]:
    """Images per second of a contender's second epoch; in the first one it fills its prefetch queue.

    Args:
        name: of `budgetloader.bench.contenders.CONTENDERS`, or MODULE:FUNCTION that makes an engine.
        work: a `budgetloader.bench.contenders.Work`.
        tuning: engine dali with this `budgetloader.engines.dali.Tuning`, whatever the name.
    """
    import functools

    from budgetloader.bench.contenders import CONTENDERS, ours, quiet_threads

    quiet_threads(work.threads)
    epochs = CONTENDERS.get(name)
    if tuning is not None:
        from budgetloader.engines.dali import DALIEngine, Tuning

        epochs = ours(functools.partial(DALIEngine, tuning=Tuning(**tuning)))
    elif epochs is None:
        epochs = ours(engine_of(name))
    seconds, samples = 0.0, 0
    for batches in epochs(work, [Fraction(1), Fraction(1)]):
        began, samples = time.perf_counter(), sum(batches)
        if work.device != "cpu":
            import torch

            torch.cuda.synchronize(work.device)
        seconds = time.perf_counter() - began
    if not samples:
        raise RuntimeError(f"{name} gave no sample; see its messages")
    return {"images_per_second": samples / seconds}


def trainer(*, beton: str, device: str, batch_size: int, image_size: int, width: float, compile: str) -> dict[str, Any]:
    """MobileNetV2's images/s with the loader and on the synthetic engine, epochs in turn, the first not counted."""
    import dataclasses

    import torch

    from budgetloader import BudgetLoader, Schedule
    from budgetloader.models import IMAGENET, Trainer, mobilenet_v2

    rounds = 4
    rates: dict[str, list[float]] = {"auto": [], "synthetic": []}
    loaders = {
        name: BudgetLoader(
            beton,
            schedule=Schedule.full(epochs=rounds),
            batch_size=batch_size,
            image_size=image_size,
            engine=name,
            device=device,
            dtype="float16" if device != "cpu" else "float32",
        )
        for name in rates
    }
    torch.manual_seed(0)
    classes = int(loaders["auto"].dataset.labels.max()) + 1
    recipe = dataclasses.replace(IMAGENET, learning_rate=0.01)
    network = Trainer(
        mobilenet_v2(classes=classes, width=width), recipe=recipe, epochs=rounds, device=device, compile=compile
    )
    for epoch in range(rounds):
        for name, batches in loaders.items():
            record = network.train_epoch(batches, epoch=epoch)
            if epoch:
                rates[name].append(record.images / record.train_seconds)
    verdict, engine = str(loaders["auto"].verdict()), loaders["auto"].engine
    for batches in loaders.values():
        batches.close()
    shares = [rate / ceiling for rate, ceiling in zip(rates["auto"], rates["synthetic"], strict=True)]
    return {
        "engine": engine,
        "compile": compile,
        "images_per_second": statistics.median(rates["auto"]),
        "ceiling": statistics.median(rates["synthetic"]),
        "share": statistics.median(shares),
        "verdict": verdict,
    }


def bytes_per_image(beton: str, *, image_size: int, images: int = 2048) -> dict[str, float]:
    """Bytes over the bus for an image: its whole JPEG, the one cut out for the window, or the window's pixels."""
    from budgetloader import Dataset, Schedule
    from budgetloader.jpeg import Cropper
    from budgetloader.plans import Planner

    dataset, cropper = Dataset(beton), Cropper()
    count = min(images, len(dataset))
    plan = Planner(dataset, schedule=Schedule.full(epochs=1), batch_size=count, seed=0).plan(0, 0)
    whole = cut = 0
    for sample, (top, left, height, width) in zip(plan.samples, plan.windows.tolist(), strict=True):
        data = dataset.jpeg(sample)
        whole += len(data)
        cut += len(cropper.crop(data, top=top, left=left, height=height, width=width)[0])
    return {"whole": whole / count, "cropped": cut / count, "pixels": 3.0 * image_size**2}
