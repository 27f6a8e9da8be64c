"""The command line: budgetloader COMMAND; `--help` lists them."""

from __future__ import annotations

import argparse
import itertools
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from budgetloader import theory
from budgetloader.errors import DatasetError, LoaderError
from budgetloader.limits import MAX_PIXELS
from budgetloader.schedule import PAPER_SETTINGS, Schedule

if TYPE_CHECKING:
    from budgetloader.budget import Budget
    from budgetloader.throughput import Work

_EXAMINED = 256  # images whose headers `inspect` reads


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit status is 0, 1 for what went wrong, 2 for a wrong call, 130 for Ctrl-C."""
    options = _parser().parse_args(arguments)
    try:
        return options.run(options)
    except LoaderError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; nothing half-written is left", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="budgetloader", description="Datasets and plans of the budget loader.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(run: Callable[[argparse.Namespace], int], text: str) -> Callable[..., argparse.Action]:
        sub = commands.add_parser(
            run.__name__.strip("_"), help=text, description=text, formatter_class=argparse.ArgumentDefaultsHelpFormatter
        )
        sub.set_defaults(run=run)
        return sub.add_argument

    add = command(_generate, "make an ImageNet-like folder of JPEGs from photographs that packages ship")
    add("folder", help="to make; must not exist, or be empty")
    add("--images", type=int, default=2048, help="how many")
    add("--seed", type=int, default=0, help="of what is drawn; another seed gives other images of the same classes")

    add = command(_convert, "convert a folder of images, CIFAR's pickles or a torchvision dataset to a .beton file")
    add("source", help="folder of CLASS/IMAGE, or of CIFAR's pickles; with --torchvision the dataset's root")
    add("file", help="the .beton to make")
    add("--quality", type=int, help="JPEG quality; none: 90, or 100 for pixels that were never compressed")
    add("--subsampling", choices=("4:2:0", "4:2:2", "4:4:4"), help="none: 4:2:0, or 4:4:4 for such pixels")
    add(
        "--interval",
        type=int,
        default=2,
        help="most MCUs between restart markers; fewer crop tighter, and cost bytes",
    )
    add("--lossless", action="store_true", help="keep the DCT coefficients of colour JPEGs (needs jpegtran)")
    add("--max-side", type=int, help="make images with a longer side smaller")
    add("--max-pixels", type=int, default=MAX_PIXELS, help="of an image; larger ones cannot be read")
    add("--on-bad", choices=("raise", "skip"), default="raise", help="what to do with an image that cannot be read")
    add("--threads", type=int, help="none: one per core")
    add("--split", help="train or test (CIFAR), or as the torchvision dataset calls it; none: its default")
    add("--torchvision", metavar="NAME", help="the source is torchvision.datasets.NAME, on disk already")
    add("--overwrite", action="store_true", help="replace the file if it exists")

    add = command(_inspect, "say what is in a .beton file")
    add("file")

    add = command(_verify, "decode every image of a .beton file, and compare its bytes with their checksum")
    add("file")
    add("--max-pixels", type=int, default=MAX_PIXELS, help="of an image; a file with larger ones is refused")
    add("--threads", type=int, help="none: one per core")

    add = command(_throughput, "measure the installed engines on a .beton file, each in a process of its own")
    add("file")
    add("--batches", type=int, help="at most, of an epoch; none: all")
    add("--engines", nargs="+", default=["native", "dali", "ffcv"], help="those that are not installed are left out")
    _add_work(add)

    add = command(_doctor, "say what is installed and works, how fast it is, and what would limit a trainer")
    add("file", nargs="?", help="a .beton to measure on; none: images are made for it")
    add("--batches", type=int, default=32, help="at most, of an epoch")
    add("--trainer-rate", type=float, help="images/s that your trainer takes when nothing makes it wait")
    _add_work(add)

    add = command(_plan, "show a schedule's budget: batches per epoch, predicted time, probability to miss a sample")
    add("schedule", help=f"{', '.join(PAPER_SETTINGS)}, a ratio, or any string that Schedule.parse takes")
    add("--epochs", type=int, help="where the schedule's string has no @EPOCHS")
    add("--samples", type=int, help="of the dataset")
    add("--data", help="a .beton to take the number of samples from")
    add("--batch-size", type=int, default=256)
    add("--picture", metavar="PNG", help="draw batches per epoch to this file (needs matplotlib)")

    add = command(_serve, "decode once for many trainers, which connect by name (needs Ray)")
    add("file", help="the .beton")
    add("--name", required=True, help="what trainers connect to")
    add("--memory", type=_bytes, default="2GB", help="shared memory for decoded images, such as 500MB or 4GB")
    add("--workers", type=int, help="decoding processes; none: one per core")
    add("--host", default="127.0.0.1", help="to listen at; beyond this machine, trainers need the entry's token")
    add("--verify", action="store_true", help="compare each sample with its checksum when it is read")
    add("--max-pixels", type=int, default=MAX_PIXELS, help="of an image; a file with larger ones is refused")
    add("--metrics-port", type=int, help="of Prometheus metrics, at the loopback; none: no metrics")

    add = command(_join, "make this machine a part of a service's cluster, so that trainers here can connect")
    add("address", help="of the service's cluster, host:port; `serve` prints it")
    add("--name", required=True, help="of the service")
    add("--token-file", required=True, help="a file that holds the service's token; `serve` says where it is")
    add("--host", required=True, help="this machine's address, as the service's machine sees it")
    add("--workers", type=int, default=0, help="decoding processes to add; they need the dataset at the same path")
    add("--memory", type=_bytes, default="1GB", help="shared memory here, for images on their way")

    add = command(_top, "show what a service's trainers are doing")
    add("name", help="of the service")
    add("--seconds", type=float, default=1.0, help="between two readings")
    add("--readings", type=int, default=0, help="how many; 0: until Ctrl-C")
    return parser


def _add_work(add: Callable[..., argparse.Action]) -> None:
    """What engines are measured with."""
    add("--batch-size", type=int, default=64)
    add("--image-size", type=int, default=224, help="pixels")
    add("--dtype", default="uint8", help="uint8, float32, float16 or bfloat16")
    add("--interpolation", choices=("antialias", "linear"), default="antialias")
    add("--device", default="cpu")
    add("--epochs", type=int, default=3, help="counted, after one of warm-up")


def _bytes(text: str) -> int:
    """A size such as 4GB, 500MB or 1.5GiB in bytes."""
    units = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
    units |= {unit[0] + "iB": 2 ** (10 * power) for power, unit in enumerate(("", "K", "M", "G", "T")) if unit}
    for unit in sorted(units, key=len, reverse=True):
        if (text.lower().endswith(unit.lower()) and unit) or not unit:
            try:
                return int(float(text[: len(text) - len(unit)]) * units[unit])
            except (ValueError, OverflowError):
                break
    raise argparse.ArgumentTypeError(f"{text!r} is no size; give one such as 500MB or 4GB")


def _serve(options: argparse.Namespace) -> int:
    from budgetloader.service import commands

    return commands.serve(options)


def _join(options: argparse.Namespace) -> int:
    from budgetloader.service import commands

    return commands.join(options)


def _top(options: argparse.Namespace) -> int:
    from budgetloader.service import commands

    return commands.top(options)


def _generate(options: argparse.Namespace) -> int:
    from budgetloader.generate import generate

    with _progress() as progress:
        task = progress.add_task("generate", total=options.images)
        size = generate(
            options.folder,
            images=options.images,
            seed=options.seed,
            progress=lambda n: progress.update(task, completed=n),
        )
    print(f"{options.folder}: {options.images:,} images, {size / options.images / 1000:.1f} kB each")
    return 0


def _convert(options: argparse.Namespace) -> int:
    from budgetloader import sources
    from budgetloader.convert import Settings, convert

    settings = Settings(
        quality=options.quality,
        subsampling=options.subsampling,
        interval=options.interval,
        lossless=options.lossless,
        max_side=options.max_side,
        on_bad=options.on_bad,
        threads=options.threads,
        max_pixels=options.max_pixels,
    )
    if options.torchvision:
        source = sources.torchvision_dataset(options.torchvision, options.source, split=options.split)
    else:
        source = sources.open_source(options.source, split=options.split or "train", max_pixels=options.max_pixels)
    with _progress() as progress:
        task = progress.add_task("convert", total=len(source))
        report = convert(
            source,
            options.file,
            settings=settings,
            exists="replace" if options.overwrite else "raise",
            progress=lambda n: progress.update(task, completed=n),
        )
    print(f"{options.file}: {report.samples:,} images, {report.jpeg_bytes / report.samples / 1000:.1f} kB each")
    for mode, count in sorted(report.converted.items()):
        print(f"  {count:,} brought to RGB from {mode}")
    if options.lossless:
        print(f"  {report.lossless:,} kept their DCT coefficients")
    if report.resized:
        print(f"  {report.resized:,} made smaller to {options.max_side} pixels")
    for line in report.skipped:
        print(f"  skipped {line}", file=sys.stderr)
    return 0


def _inspect(options: argparse.Namespace) -> int:
    import numpy as np

    from budgetloader.dataset import Dataset
    from budgetloader.jpeg import JpegError, read_frame

    dataset = Dataset(options.file)
    chosen = np.unique(np.linspace(0, len(dataset) - 1, _EXAMINED).astype(int))
    kinds: Counter[str] = Counter()
    for sample in chosen:
        try:
            frame = read_frame(dataset.jpeg(sample))
        except JpegError as error:
            kinds[f"damaged: {error}"] += 1
            continue
        if len(frame.segments):
            kinds["with a segment table: cropped on compressed bytes"] += 1
        else:
            kinds["without a segment table: decoded whole, slower; convert the images again to have one"] += 1
    labels = np.unique(dataset.labels)
    lines = {
        "samples": f"{len(dataset):,}",
        "classes": f"{len(labels):,} (labels {labels[0]} … {labels[-1]}){_names(dataset.classes)}",
        "images": " × ".join(f"{a.min()}–{a.max()}" for a in (dataset.widths, dataset.heights)) + " pixels",
        "JPEG bytes": f"{dataset.sizes.sum():,}, {dataset.sizes.mean() / 1000:.1f} kB each",
        "written by": _writer(dataset.notes),
        "fingerprint": dataset.fingerprint,
    }
    for name, value in lines.items():
        print(f"{name:>12}: {value}")
    for kind, count in kinds.most_common():
        print(f"{'JPEGs':>12}: {count} of {len(chosen)} examined {kind}")
    return 0


def _names(classes: Sequence[str]) -> str:
    # As a terminal can show them: a file of a stranger's may hold codes that it would obey.
    shown = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in ", ".join(classes[:6]))
    return f": {shown}{', …' if len(classes) > 6 else ''}" if classes else ""


def _writer(notes: dict[str, Any]) -> str:
    if not notes:
        return "FFCV, or somebody else"
    return ", ".join(
        f"{k} {str(notes[k])[:40]!a}".replace("'", "")
        for k in ("writer", "quality", "subsampling", "interval")
        if k in notes
    )


def _verify(options: argparse.Namespace) -> int:
    from budgetloader.dataset import Dataset
    from budgetloader.verify import problems

    dataset = Dataset(options.file, max_pixels=options.max_pixels)
    bad = 0
    with _progress() as progress:
        task = progress.add_task("verify", total=len(dataset))
        for sample, why in enumerate(problems(dataset, threads=options.threads)):
            progress.update(task, completed=sample + 1)
            if why:
                bad += 1
                print(f"sample {sample}: {why}", file=sys.stderr)
    if bad:
        raise DatasetError(f"{options.file}: {bad:,} of {len(dataset):,} images are damaged; convert it again")
    sums = ", and have their checksums"
    if dataset.checksums is None:
        sums = "; it has no checksums of them (FFCV wrote it, or version 0.1)"
    print(f"{options.file}: all {len(dataset):,} images decode{sums}")
    return 0


def _throughput(options: argparse.Namespace) -> int:
    from budgetloader import engines
    from budgetloader.dataset import Dataset
    from budgetloader.throughput import measure_apart

    Dataset(options.file)  # so that what is wrong with it is said once
    unknown = [name for name in options.engines if name not in engines.NAMES or name == "auto"]
    if unknown:
        raise LoaderError(f"engine {unknown[0]!r} is not known; give some of {', '.join(engines.NAMES[1:])}")
    failed = 0
    for name in options.engines:
        if not engines.installed(name):
            print(f"{name:>10}: not installed", flush=True)
            continue
        try:
            print(f"{name:>10}: {measure_apart(options.file, engine=name, work=_work(options))}", flush=True)
        except LoaderError as error:
            print(f"error: {name}: {error}", file=sys.stderr)
            failed = 1
    return failed


def _doctor(options: argparse.Namespace) -> int:
    from budgetloader.doctor import examine

    for line in examine(options.file, work=_work(options), trainer_rate=options.trainer_rate):
        print(line, flush=True)
    return 0


def _work(options: argparse.Namespace) -> Work:
    from budgetloader.throughput import Work

    return Work(
        batch_size=options.batch_size,
        image_size=options.image_size,
        dtype=options.dtype,
        interpolation=options.interpolation,
        device=options.device,
        epochs=options.epochs,
        batches=options.batches,
    )


def _plan(options: argparse.Namespace) -> int:
    from rich.console import Console
    from rich.table import Table

    if (options.samples is None) == (options.data is None):
        raise DatasetError("give one of --samples and --data")
    samples = options.samples
    if options.data is not None:
        from budgetloader.dataset import Dataset

        samples = len(Dataset(options.data))
    schedule = Schedule.parse(options.schedule, epochs=options.epochs)
    budget = schedule.budget(samples, batch_size=options.batch_size)
    view = Table(title=f"{schedule}: {samples:,} samples in batches of {options.batch_size}, M = {budget.full}")
    for name in ("epochs", "ratio", "batches", "samples", ""):
        view.add_column(name, justify="left" if not name else "right")
    epoch = 0
    for (ratio, batches), group in itertools.groupby(zip(schedule.ratios, budget.batches, strict=True)):
        last = epoch + len(list(group)) - 1
        bar = "█" * max(1, round(24 * batches / budget.full))
        numbers = f"{epoch}–{last}" if last > epoch else str(epoch)
        view.add_row(numbers, f"{float(ratio):.4g}", str(batches), f"{budget.epoch_samples(epoch):,}", bar)
        epoch = last + 1
    Console(highlight=False).print(view)
    share = budget.total / (budget.full * schedule.epochs)
    print(f"batches in all: {budget.total:,} of {budget.full * schedule.epochs:,} ({share:.6f})")
    print(f"predicted time, Corollaries 1–2: {theory.corollary(schedule):.6f} of full training's")
    low, high = theory.time_ratio_bounds(schedule, samples=samples, batch_size=options.batch_size)
    print(f"  by eq. (9), with equal batch times: at least {low:.6f}, below {high:.6f}")
    print(f"probability that a sample is never seen, Theorems 1 and 3: {_probability(schedule)}")
    print(f"  of what is really drawn, ⌊αM⌋·B of D samples: {_probability(budget)}")
    if options.picture:
        _picture(schedule, budget, options.picture)
    return 0


def _probability(drawn: Schedule | Budget) -> str:
    exponent = theory.log10_miss_probability(drawn)
    return "0" if exponent == float("-inf") else f"10^{exponent:.2f}"


def _picture(schedule: Schedule, budget: Budget, path: str) -> None:
    try:
        import matplotlib
    except ImportError:
        raise LoaderError("--picture needs matplotlib; pip install matplotlib") from None
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6.4, 2.8), layout="constrained")
    axes.bar(range(schedule.epochs), budget.batches, width=1.0, edgecolor="white", linewidth=0.3)
    axes.axhline(budget.full, color="#bbbbbb", linewidth=1)
    axes.set_title(f"{schedule}: {budget.total:,} batches, {theory.corollary(schedule):.4f} of full training's time")
    axes.set_xlabel("epoch")
    axes.set_ylabel("batches")
    try:
        figure.savefig(path, dpi=130)
    except (OSError, ValueError) as error:
        raise LoaderError(f"cannot write {path}: {error}") from None
    print(f"picture: {path}")


def _progress() -> Any:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )
