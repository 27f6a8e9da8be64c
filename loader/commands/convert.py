"""`budgetloader convert`."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from budgetloader.commands.arguments import Add, printable
from budgetloader.errors import DatasetError
from budgetloader.limits import MAX_PIXELS

if TYPE_CHECKING:
    from budgetloader.convert.converting import Report, Settings
    from budgetloader.convert.sources import Source

WRITES = True  # whole files, or none: what Ctrl-C is answered with
HELP = "convert images (a folder, a tar, CIFAR's pickles, IDX files, an .npz, a dataset of your own) to a .beton file"
_MOST_LISTED = 20  # classes; of more, the smallest and the largest are named


def add_arguments(add: Add) -> None:
    add(
        "source",
        nargs="?",
        help="folder of CLASS/IMAGE, of CIFAR's pickles or of IDX files; a .tar; an .npz; a .beton; with "
        "--torchvision the dataset's root; with --dataset what the function is called with, or left out",
    )
    add("file", help="the .beton to make, or the address to store it at: s3://bucket/train.beton")
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
    add("--background", default="white", help="what transparent images are put on: a colour's name, or #rrggbb")
    add("--alpha", choices=("flatten", "keep"), default="flatten", help="keep: as a second image, for channels=4")
    add("--on-bad", choices=("raise", "skip"), default="raise", help="what to do with an image that cannot be stored")
    add("--standard-tables", action="store_true", help="no Huffman tables for each image: faster, 3 %% more bytes")
    add(
        "--raw",
        default="0",
        metavar="SHARE|smart",
        help="store images as pixels: fast to read, several times the bytes",
    )
    add("--threads", type=int, help="none: one per core")
    add("--split", help="train or test (CIFAR, IDX, .npz), or as the torchvision dataset calls it; none: its default")
    add("--torchvision", metavar="NAME", help="the source is torchvision.datasets.NAME, on disk already")
    add("--dataset", metavar="MODULE:FUNCTION", help="the source is what a function of yours gives")
    add("--labels", metavar="FILE", help="a table with a row for each image (.csv, .json, .parquet), or COCO's JSON")
    add("--key", metavar="COLUMN", help="of the table: which column names the images; none: file_name and the like")
    add("--label", metavar="COLUMN", help="of the table: which column is the label, in place of the class folders")
    add("--columns", metavar="NAME", nargs="+", help="to take, as NAME, NAME=COLUMN or NAME=COLUMN+COLUMN; none: all")
    add("--missing", choices=("raise", "skip"), default="raise", help="what to do with images that have no row")
    add("--masks", metavar="FOLDER", help="of PNGs that are named as the images are")
    add("--shard", metavar="NUMBER/OF", help="make one of several files, each on a machine of its own; then `gather`")
    add("--append", action="store_true", help="put the images in a file behind FILE's set (see budgetloader.shards)")
    add(
        "--resume",
        action="store_true",
        help="keep what is done where this is interrupted, and go on from what was kept",
    )
    add("--overwrite", action="store_true", help="replace the file if it exists")


def run(options: argparse.Namespace) -> int:
    from rich.console import Console

    from budgetloader.console import bars
    from budgetloader.convert.appending import append
    from budgetloader.convert.converting import convert
    from budgetloader.storage import is_address
    from budgetloader.storage.upload import stored

    if options.append and options.overwrite:
        raise DatasetError("--append adds a file, and --overwrite replaces one; give one of them")
    if options.append and options.resume:
        raise DatasetError("--append adds a file of a new name, which --resume does not know; give one of them")
    if is_address(options.file) and (options.append or options.resume):
        which = "--append" if options.append else "--resume"
        raise DatasetError(f"{options.file}: {which} is for sets on this machine; leave it out, or convert to a path")
    settings, source = _settings(options), _source(options)
    if options.shard is not None:
        source = _shard(source, options, settings)
    for line in source.warnings:
        print(f"warning: {line}", file=sys.stderr)
    with bars(Console(stderr=True)) as progress:
        task = progress.add_task("convert", total=len(source))
        how: dict[str, Any] = {"settings": settings, "progress": lambda n: progress.update(task, completed=n)}
        if options.append:
            made, report = append(source, options.file, **how)
            options.file = str(made)
        elif is_address(options.file):
            with stored(options.file, replace=options.overwrite) as path:
                report = convert(source, path, **how)
        else:
            exists: Any = "replace" if options.overwrite else "raise"
            report = convert(source, options.file, exists=exists, resume=options.resume, **how)
    _say(report, source, options)
    return 0


def _shard(source: Source, options: argparse.Namespace, settings: Settings) -> Source:
    """The part of the source that was asked for; the file is its own."""
    from budgetloader.convert.sharding import part_of, shard_path

    if options.append:
        raise DatasetError("--append adds a file, and --shard makes one of several; give one of them")
    numbers = options.shard.split("/")
    if len(numbers) != 2 or not all(text.isascii() and text.isdecimal() and len(text) < 9 for text in numbers):
        raise DatasetError(f"--shard {options.shard}: give NUMBER/OF, such as 2/8")
    number, of = map(int, numbers)
    options.file = shard_path(options.file, number, of)
    return part_of(source, number, of, settings=settings)


def _settings(options: argparse.Namespace) -> Settings:
    from budgetloader.convert.converting import Settings

    return Settings(
        quality=options.quality,
        subsampling=options.subsampling,
        interval=options.interval,
        lossless=options.lossless,
        max_side=options.max_side,
        on_bad=options.on_bad,
        threads=options.threads,
        max_pixels=options.max_pixels,
        background=options.background,
        optimize=not options.standard_tables,
        raw=options.raw,
        alpha=options.alpha,
    )


def _source(options: argparse.Namespace) -> Source:
    from budgetloader.convert import other_sources as converted
    from budgetloader.convert import sources

    if options.dataset:
        return converted.callable_source(options.dataset, options.source, max_pixels=options.max_pixels)
    if options.source is None:
        raise DatasetError("give the source, and the file to make: budgetloader convert SOURCE FILE")
    if options.labels or options.masks:
        return _annotated(options)
    for name in ("key", "label", "columns"):
        if getattr(options, name) is not None:
            raise DatasetError(f"--{name} says what to take of a table; give it, as --labels FILE")
    if options.torchvision:
        return sources.torchvision_dataset(options.torchvision, options.source, split=options.split)
    return converted.any_source(options.source, split=options.split or "train", max_pixels=options.max_pixels)


def _annotated(options: argparse.Namespace) -> Source:
    """A source with what a table and a folder of masks say of its images."""
    from budgetloader.convert import labelling

    plain = argparse.Namespace(**{**vars(options), "labels": None, "masks": None})
    found = None if options.torchvision else labelling.images_in(options.source, max_pixels=options.max_pixels)
    source = _source(plain) if found is None else found
    if options.labels:
        named = None if options.columns is None else dict(_named(text) for text in options.columns)
        how = {"key": options.key, "label": options.label, "columns": named, "missing": options.missing}
        source = labelling.annotated(source, options.labels, **how)
    return labelling.masked(source, options.masks, max_pixels=options.max_pixels) if options.masks else source


def _named(text: str) -> tuple[str, str | list[str]]:
    """A field's name, and the column or the columns that it is made of."""
    name, _, columns = text.partition("=")
    return name, columns.split("+") if "+" in columns else columns or name


def _say(report: Report, source: Source, options: argparse.Namespace) -> None:
    """What became of the images, and how many each class has."""
    print(f"{options.file}: {report.samples:,} images, {report.jpeg_bytes / report.samples / 1000:.1f} kB each")
    for mode, count in sorted(report.converted.items()):
        print(f"  {count:,} brought to RGB from {mode}")
    if report.transparent:
        how = "whose alpha was kept" if options.alpha == "keep" else f"put on {options.background}"
        print(f"  {report.transparent:,} transparent, {how}")
    if report.copied:
        print(f"  {report.copied:,} taken over from the conversion that was interrupted")
    if report.raw:
        print(f"  {report.raw:,} stored as pixels")
    if options.lossless:
        print(f"  {report.lossless:,} kept their DCT coefficients")
    if report.resized:
        print(f"  {report.resized:,} made smaller to {options.max_side} pixels")
    for line in report.skipped:
        print(f"  skipped {printable(line)}", file=sys.stderr)
    for line in classes_of(report.labels, source.classes) if report.labels else ():
        print(line)
    for one in source.columns:
        kind = f"{one.field.kind} {one.field.dtype} {list(one.field.shape)}" if one.field.dtype else one.field.kind
        print(f"  field {one.field.name}: {one.field.role or kind}")


def classes_of(counts: Counter[int], names: Sequence[str]) -> list[str]:
    """Lines that say how many images each class has.

    Args:
        counts: label → images.
        names: the classes' names in the order of their labels, or none where they are not known.
    """
    labels = range(len(names)) if names else sorted(counts)
    sizes = [(printable(names[label]) if names else f"label {label}", counts[label]) for label in labels]
    if len(sizes) <= _MOST_LISTED:
        return [
            f"{len(sizes)} class{'es' if len(sizes) != 1 else ''}:",
            *(f"  {name}: {count:,}" for name, count in sizes),
        ]
    empty = [name for name, count in sizes if not count]
    ordered = sorted(sizes, key=lambda item: item[1])
    (least, fewest), (most, largest) = ordered[0], ordered[-1]
    lines = [f"{len(sizes):,} classes of {fewest:,} ({least}) to {largest:,} ({most}) images"]
    if empty:
        shown = ", ".join(empty[:_MOST_LISTED]) + (", …" if len(empty) > _MOST_LISTED else "")
        lines.append(f"  without an image: {shown}")
    return lines
