"""Convert images to a `.beton` file of indexed baseline JPEGs (see `budgetloader.jpeg`)."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from budgetloader import jpeg_tables
from budgetloader.beton import MODE_JPEG, MODE_RAW, Writer
from budgetloader.convert.colour import rgb_of, to_rgb
from budgetloader.convert.encoding import JPEGTRAN, Encoded, Encoder
from budgetloader.convert.encoding_processes import encoders
from budgetloader.convert.raw_share import RawChoice
from budgetloader.convert.resuming import resumable
from budgetloader.convert.scaled_targets import values_of
from budgetloader.convert.sources import Source
from budgetloader.errors import DatasetError
from budgetloader.fields import Field, Picture
from budgetloader.limits import LARGEST_SIDE, MAX_LABEL, MAX_PIXELS, check_max_pixels
from budgetloader.parallel import in_order
from budgetloader.paths import local

__all__ = ["Report", "Settings", "convert", "to_rgb"]
_ALPHA = Field("alpha", "image", notes={"channels": 1})


@dataclass(frozen=True)
class Settings:
    """How images are stored.

    Args:
        quality: JPEG quality, 1 … 100; None: 90, or 100 for pixels that were never compressed.
        subsampling: "4:2:0", "4:2:2" or "4:4:4"; None: "4:2:0", or "4:4:4" for such pixels.
        interval: the most MCUs between restart markers, 1 … 64. Small ones crop tighter, and cost
            bytes: 2 decodes 3.5 % faster than 4, and is 0.6 % larger.
        lossless: True keeps the DCT coefficients of colour JPEGs as they are (with the program
            jpegtran); other images are encoded. Quality and subsampling are then those of each JPEG.
        max_side: images with a longer side are made smaller to have it; None: never.
        on_bad: what to do with an image that cannot be read: "raise", or "skip" (and report).
        optimize: make Huffman tables for each image; False: the standard ones, which take less time and 3 % more bytes.
        threads: how many convert at a time; None: one per core. Of many images, each in a process of its own.
        max_pixels: of an image; larger ones cannot be read, and are not decoded.
        raw: which images are stored as pixels, see `convert.raw_share.RawChoice`: a share from 0 to 1, "smart" or
            "smart:RATIO".
        alpha: "flatten": transparent images are put on the background. "keep": each image gets a second image field
            "alpha", its fourth channel as a grey JPEG of quality 100, and keeps the colours beneath it as they are.
        background: the colour that shows through where an image is transparent: a name, or #rrggbb.
    """

    quality: int | None = None
    subsampling: jpeg_tables.Subsampling | None = None
    interval: int = 2
    lossless: bool = False
    max_side: int | None = None
    on_bad: Literal["raise", "skip"] = "raise"
    threads: int | None = None
    max_pixels: int = MAX_PIXELS
    background: str = "white"
    optimize: bool = True
    raw: float | str = 0
    alpha: Literal["flatten", "keep"] = "flatten"

    def __post_init__(self) -> None:
        for name, least, most in (
            ("quality", 1, 100),
            ("interval", 1, 64),
            ("max_side", 1, LARGEST_SIDE),
            ("threads", 1, 1024),
        ):
            value = getattr(self, name)
            if value is not None and not (isinstance(value, int) and least <= value <= most):
                raise DatasetError(f"{name} {value!r} is outside {least} … {most}")
        check_max_pixels(self.max_pixels)
        rgb_of(self.background)
        RawChoice.parse(self.raw)
        if self.subsampling not in (None, *jpeg_tables.SUBSAMPLINGS):
            raise DatasetError(f"subsampling {self.subsampling!r} is none of {', '.join(jpeg_tables.SUBSAMPLINGS)}")
        if self.on_bad not in ("raise", "skip"):
            raise DatasetError(f"on_bad {self.on_bad!r} is none of raise, skip")
        if self.alpha not in ("flatten", "keep"):
            raise DatasetError(f"alpha {self.alpha!r} is none of flatten, keep")
        if self.alpha == "keep" and self.lossless:
            raise DatasetError("lossless keeps JPEGs, which have no alpha; leave it out, or alpha='keep'")


@dataclass
class Report:
    """Counts of a conversion.

    Attributes:
        samples, jpeg_bytes: that are in the file.
        labels: label → how many of the samples have it.
        converted: colour mode → images brought to RGB from it.
        transparent: images that were put on the background.
        resized, lossless: images that were made smaller, and that kept their DCT coefficients.
        raw: images that are stored as pixels.
        copied: images that an earlier, interrupted conversion had encoded.
        skipped: "name: why" of each image that was left out.
    """

    samples: int = 0
    jpeg_bytes: int = 0
    labels: Counter[int] = field(default_factory=Counter)
    converted: Counter[str] = field(default_factory=Counter)
    transparent: int = 0
    resized: int = 0
    lossless: int = 0
    raw: int = 0
    copied: int = 0
    skipped: list[str] = field(default_factory=list)

    def add(self, encoded: Encoded, *, label: int | None) -> None:
        """Count an image that was written."""
        self.samples += 1
        self.jpeg_bytes += len(encoded.data)
        if label is not None:
            self.labels[label] += 1
        self.transparent += encoded.transparent
        self.resized += encoded.resized
        self.lossless += encoded.lossless
        self.raw += encoded.raw
        if encoded.mode != "RGB":
            self.converted[encoded.mode] += 1

    def skip(self, name: str, problem: str, *, on_bad: str) -> None:
        """Leave out an image that cannot be converted, or raise, as `Settings.on_bad` has it."""
        if on_bad == "raise":
            raise DatasetError(
                f"{name} cannot be converted: {problem}; "
                "mend or remove it, or have `budgetloader convert --on-bad skip` leave it out"
            )
        self.skipped.append(f"{name}: {problem}")


def convert(
    source: Source,
    path: str | Path,
    *,
    settings: Settings | None = None,
    exists: Literal["raise", "replace"] = "raise",
    resume: bool = False,
    progress: Callable[[int], None] = lambda done: None,
) -> Report:
    """Write `source` to a `.beton` file, atomically: it appears when it is whole, or not at all.

    Grey, 16-bit, palette, CMYK and transparent images are brought to 8-bit RGB.

    Args:
        source: the images.
        path: the file to make.
        settings: how; default: `Settings()`.
        exists: what to do where `path` exists: "raise" or "replace".
        resume: keep what is done where this is interrupted, and go on from what an earlier call kept that had the same
            names of images and settings; see `budgetloader.convert.resuming`.
        progress: called with the number of images done.

    Raises:
        DatasetError: an image cannot be read or is too large for the file (and on_bad is "raise"; the message
            names it), `path` exists, the disk is full.
    """
    settings = settings or Settings()
    _check(source, settings, resume=resume)
    encode = Encoder(source, settings)
    notes, report = _notes(source, encode, settings), Report()
    fields = [*([_ALPHA] if settings.alpha == "keep" else []), *(one.field for one in source.columns)]
    what: Any = {"capacity": len(source), "notes": notes, "fields": fields, "labelled": bool(len(source.labels))}
    with (
        resumable(local(path), source, settings, resume=resume) as journal,
        Writer(local(path), exists=exists, keep=resume, **what) as writer,
        encoders(encode, source, settings) as (work, threads),
    ):
        work = journal.encoder(work, len(source)) if journal is not None else work
        for i, encoded in enumerate(in_order(work, len(source), threads=threads)):
            if encoded.problem:
                report.skip(source.names[i], encoded.problem, on_bad=settings.on_bad)
            else:
                _write(writer, source, i, encoded)
                report.add(encoded, label=source.labels[i] if len(source.labels) else None)
                if journal:
                    journal.note(i, encoded, start=writer.last_start)
            progress(i + 1)
        report.copied = journal.copied if journal is not None else 0
        if not writer.count:
            raise DatasetError(f"none of the {len(source)} images can be read; the first: {report.skipped[0]}")
    return report


def _notes(source: Source, encode: Encoder, settings: Settings) -> dict[str, Any]:
    return {
        **source.notes,
        "writer": "budgetloader",
        "classes": source.classes,
        "quality": encode.quality,
        "subsampling": encode.subsampling,
        "interval": settings.interval,
    }


def _write(writer: Writer, source: Source, i: int, encoded: Encoded) -> None:
    size = {"width": encoded.width, "height": encoded.height}
    label = int(source.labels[i]) if len(source.labels) else None
    values = values_of(source, i, **size, scale=encoded.scale)
    if encoded.alpha:
        values[_ALPHA.name] = Picture(encoded.alpha, encoded.width, encoded.height)
    writer.add(encoded.data, **size, label=label, values=values, mode=MODE_RAW if encoded.raw else MODE_JPEG)


def _check(source: Source, settings: Settings, *, resume: bool) -> None:
    """Refuse what cannot be converted so, and labels that no class has."""
    if resume and settings.alpha == "keep":
        raise DatasetError("alpha='keep' cannot be resumed, which knows one image of each sample; leave resume out")
    if settings.lossless and not shutil.which(JPEGTRAN):
        raise DatasetError(f"lossless conversion needs {JPEGTRAN}; install libjpeg-turbo-progs")
    if source.columns and not len(source.labels):
        return
    most = len(source.classes) - 1 if source.classes else MAX_LABEL
    for name, label in zip(source.names, source.labels, strict=True):
        if isinstance(label, bool) or not isinstance(label, (int, np.integer)) or not 0 <= label <= most:
            known = f"there are classes 0 … {most:,}" if source.classes else f"give 0 … {most:,}"
            raise DatasetError(f"{name} has label {label!r}, and {known}; mend the labels")
