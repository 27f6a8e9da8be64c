"""What is installed, which engines work, how fast storage and decoding are, and what would limit a trainer."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from budgetloader import engines, noise
from budgetloader.dataset import Dataset
from budgetloader.errors import LoaderError
from budgetloader.parallel import cores
from budgetloader.throughput import Rates, Work, measure_apart

_IMAGES = 512  # of the file that is made where none is given
_STORAGE_SECONDS = 3.0
_READ = 20_000  # images, at most
_REQUESTS = 8  # a disk or a network needs requests at the same time
_ENGINES = ("native", "dali", "ffcv", "resident", "synthetic")
_READERS = ("native", "dali", "ffcv")  # those that read images of any size
_VERSIONS = ("torch", "torchvision", "numpy", "numba", "simplejpeg", "nvidia-dali-cuda130", "ffcv", "ray", "lightning")


def examine(file: str | None, *, work: Work, trainer_rate: float | None) -> Iterator[str]:
    """The report, line by line; measuring takes about half a minute.

    Args:
        file: a .beton to measure on; None: images are made for it.
        work: what is measured.
        trainer_rate: images per second that a trainer takes, to say what would limit it.
    """
    if trainer_rate is not None and not trainer_rate > 0:
        raise LoaderError(f"trainer rate {trainer_rate:g} is not above 0; give images per second")
    yield from _machine(work.device)
    yield _line("noise", f"{noise.measure()}; single figures vary as much, ratios of interleaved runs do not")
    with tempfile.TemporaryDirectory(prefix="loader-doctor-") as folder:
        path = Path(file) if file else make_file(Path(folder) / "doctor.beton")
        dataset = Dataset(path)
        yield _line("measured on", f"{path if file else 'images made for it'}: {len(dataset):,} JPEGs")
        storage = storage_rate(dataset)
        kilobytes = dataset.sizes.mean() / 1000
        yield _line("storage", f"{storage:,.0f} images/s of {kilobytes:.0f} kB each, page cache dropped first")
        rates = {}
        for engine in _ENGINES:
            outcome = _try(engine, path, work)
            if isinstance(outcome, Rates):
                rates[engine] = outcome.median
            yield _line(engine, str(outcome))
    yield from _others()
    if not rates:
        raise LoaderError("no engine that reads images works here; what is wrong stands beside their names")
    best = max(rates, key=lambda name: rates[name])
    yield from _verdict(best, decoding=rates[best], storage=storage, trainer_rate=trainer_rate)


def make_file(path: Path) -> Path:
    """A .beton of generated 500 × 375 images with about as many bytes per pixel as photographs."""
    from PIL import Image

    from budgetloader.convert.converting import convert
    from budgetloader.convert.sources import Source

    def load(i: int) -> Image.Image:
        random = np.random.default_rng(i)
        coarse = random.integers(0, 256, (12, 16, 3), dtype=np.uint8)
        smooth = np.asarray(Image.fromarray(coarse).resize((500, 375), Image.Resampling.BICUBIC), dtype=np.int16)
        grain = random.normal(0, 6, smooth.shape[:2]).astype(np.int16)
        return Image.fromarray(np.clip(smooth + grain[..., None], 0, 255).astype(np.uint8))

    names = [f"generated {i}" for i in range(_IMAGES)]
    convert(Source(names, [i % 10 for i in range(_IMAGES)], (), load), path)
    return path


def storage_rate(dataset: Dataset) -> float:
    """Images per second that come from storage in random order, the page cache dropped where that is possible."""
    order = np.random.default_rng(0).permutation(len(dataset))[:_READ]
    file = os.open(dataset.path, os.O_RDONLY)
    try:
        os.fsync(file)
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
        began = time.perf_counter()

        def read(sample: int) -> int:
            if time.perf_counter() - began > _STORAGE_SECONDS:
                return 0
            return len(os.pread(file, int(dataset.sizes[sample]), int(dataset.starts[sample]))) > 0

        with ThreadPoolExecutor(_REQUESTS) as pool:
            count = sum(pool.map(read, order))
        return count / (time.perf_counter() - began)
    finally:
        os.close(file)


def _machine(device: str) -> Iterator[str]:
    yield _line(
        "machine", f"{platform.system()} {platform.machine()}, {cores()} cores, Python {platform.python_version()}"
    )
    versions = [f"{name} {found}" for name in _VERSIONS if (found := version(name))]
    yield _line("packages", ", ".join(versions))
    import torch

    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        yield _line(
            "GPU", ", ".join(names) + ("" if device != "cpu" else "; measured on the CPU, --device cuda for it")
        )
    else:
        yield _line("GPU", "none that torch can use")


def _try(engine: str, path: Path, work: Work) -> Rates | str:
    """What an engine manages, or why it does not."""
    if not engines.installed(engine):
        return f"not installed; pip install {engines.package(engine)}"
    try:
        if engine == "resident":
            _try_resident(work.device)
            return "works, for images that are all of one small size"
        rates = measure_apart(path, engine=engine, work=work)
    except LoaderError as error:
        return f"does not work: {error}"
    return rates if engine in _READERS else "works"


def _try_resident(device: str) -> None:
    """Put small images through the engine for them."""
    from PIL import Image

    from budgetloader.convert.converting import convert
    from budgetloader.convert.sources import Source

    grey = Image.new("RGB", (32, 32), (128, 128, 128))
    with tempfile.TemporaryDirectory(prefix="loader-doctor-") as folder:
        path = Path(folder) / "small.beton"
        convert(Source(["grey"] * 8, [0] * 8, (), lambda _: grey, lossy=False), path)
        measure_apart(path, engine="resident", work=Work(batch_size=4, image_size=32, device=device, epochs=1))


def _others() -> Iterator[str]:
    ray = importlib.util.find_spec("ray") is not None
    yield _line(
        "service",
        "Ray is installed" if ray else "not installed; pip install 'budgetloader[service]' for serve and connect",
    )
    from budgetloader.engines import turbojpeg

    library = turbojpeg.library()
    found = "not found; native decodes under Python's lock (Debian: apt install libturbojpeg0)"
    if library is not None:
        found = f"{library.name}: native decodes without Python's lock"
    yield _line("turbojpeg", found)
    jpegtran = shutil.which("jpegtran") is not None
    package = "not installed; it comes with libjpeg-turbo's programs, for convert --lossless"
    yield _line("jpegtran", "installed" if jpegtran else package)


def _verdict(best: str, *, decoding: float, storage: float, trainer_rate: float | None) -> Iterator[str]:
    limit, what = min((decoding, f"decoding ({best})"), (storage, "storage"))
    yield _line("verdict", f"at most {limit:,.0f} images/s before a trainer waits; the limit is {what}")
    if storage < decoding:
        yield _line("", "that is of the first epoch; what fits into memory is read from there afterwards")
    if trainer_rate is None:
        yield _line("", "give --trainer-rate, the images/s that your trainer takes with engine='synthetic'")
    elif trainer_rate < limit:
        yield _line(
            "", f"a trainer of {trainer_rate:,.0f} images/s is trainer-bound: headroom {limit / trainer_rate:.2f}"
        )
    else:
        yield _line(
            "",
            f"a trainer of {trainer_rate:,.0f} images/s is loader-bound: it runs at {limit / trainer_rate:.2f} of its "
            f"speed; {_remedy(what, decoding)}",
        )


def _remedy(what: str, decoding: float) -> str:
    if what == "storage":
        return "a faster disk, or fewer bytes: convert --max-side, --quality"
    per_core = decoding / cores()
    return f"a core decodes about {per_core:,.0f} images/s: more cores, a smaller image_size, or a GPU"


def version(name: str) -> str | None:
    """The version of an installed package, or None."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _line(name: str, value: str) -> str:
    return f"{name:>12}{':' if name else ' '} {value}"
