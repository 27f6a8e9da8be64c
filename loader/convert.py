"""Convert images to a `.beton` file of indexed baseline JPEGs (see `budgetloader.jpeg`)."""

from __future__ import annotations

import shutil
import subprocess
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from budgetloader import jpeg
from budgetloader.beton import MODE_JPEG, MODE_RAW, PAGE_BYTES, Writer
from budgetloader.colour import flattened, rgb_of, to_rgb
from budgetloader.errors import DatasetError
from budgetloader.limits import MAX_LABEL, MAX_PIXELS, check_max_pixels, check_pixels, check_scans
from budgetloader.parallel import in_order
from budgetloader.paths import local
from budgetloader.pixels import RawChoice
from budgetloader.scaled import values_of
from budgetloader.sources import Source

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["Report", "Settings", "convert", "to_rgb"]

_JPEGTRAN = "jpegtran"
_JPEGTRAN_SECONDS = 120.0
_LARGEST_SIDE = 65_500  # libjpeg's limit; the file format's is 65,535


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
        threads: how many convert at a time; None: one per core.
        max_pixels: of an image; larger ones cannot be read, and are not decoded.
        raw: which images are stored as pixels, see `budgetloader.pixels.RawChoice`: a share from 0 to 1, "smart" or
            "smart:RATIO".
        background: the colour that shows through where an image is transparent: a name, or #rrggbb.
    """

    quality: int | None = None
    subsampling: jpeg.Subsampling | None = None
    interval: int = 2
    lossless: bool = False
    max_side: int | None = None
    on_bad: Literal["raise", "skip"] = "raise"
    threads: int | None = None
    max_pixels: int = MAX_PIXELS
    background: str = "white"
    raw: float | str = 0

    def __post_init__(self) -> None:
        for name, least, most in (
            ("quality", 1, 100),
            ("interval", 1, 64),
            ("max_side", 1, _LARGEST_SIDE),
            ("threads", 1, 1024),
        ):
            value = getattr(self, name)
            if value is not None and not (isinstance(value, int) and least <= value <= most):
                raise DatasetError(f"{name} {value!r} is outside {least} … {most}")
        check_max_pixels(self.max_pixels)
        rgb_of(self.background)
        RawChoice.parse(self.raw)
        if self.subsampling not in (None, *jpeg.SUBSAMPLINGS):
            raise DatasetError(f"subsampling {self.subsampling!r} is none of {', '.join(jpeg.SUBSAMPLINGS)}")
        if self.on_bad not in ("raise", "skip"):
            raise DatasetError(f"on_bad {self.on_bad!r} is none of raise, skip")


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
    skipped: list[str] = field(default_factory=list)

    def add(self, encoded: _Encoded, *, label: int | None) -> None:
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


def convert(
    source: Source,
    path: str | Path,
    *,
    settings: Settings | None = None,
    exists: Literal["raise", "replace"] = "raise",
    progress: Callable[[int], None] = lambda done: None,
) -> Report:
    """Write `source` to a `.beton` file, atomically: it appears when it is whole, or not at all.

    Grey, 16-bit, palette, CMYK and transparent images are brought to 8-bit RGB.

    Args:
        source: the images.
        path: the file to make.
        settings: how; default: `Settings()`.
        exists: what to do where `path` exists: "raise" or "replace".
        progress: called with the number of images done.

    Raises:
        DatasetError: an image cannot be read or is too large for the file (and on_bad is "raise"; the message
            names it), `path` exists, the disk is full.
    """
    settings = settings or Settings()
    _check_labels(source)
    if settings.lossless and not shutil.which(_JPEGTRAN):
        raise DatasetError(f"lossless conversion needs {_JPEGTRAN}; install libjpeg-turbo-progs")
    encode = _Encoder(source, settings)
    notes = {
        "writer": "budgetloader",
        "classes": source.classes,
        "quality": encode.quality,
        "subsampling": encode.subsampling,
        "interval": settings.interval,
    }
    report = Report()
    fields, labelled = [one.field for one in source.columns], bool(len(source.labels))
    with Writer(
        local(path), capacity=len(source), notes=notes, fields=fields, labelled=labelled, exists=exists
    ) as writer:
        for i, encoded in enumerate(in_order(encode, len(source), threads=settings.threads)):
            if encoded.problem:
                if settings.on_bad == "raise":
                    raise DatasetError(
                        f"{source.names[i]} cannot be converted: {encoded.problem}; "
                        "mend or remove it, or have `budgetloader convert --on-bad skip` leave it out"
                    )
                report.skipped.append(f"{source.names[i]}: {encoded.problem}")
            else:
                mode = MODE_RAW if encoded.raw else MODE_JPEG
                size = {"width": encoded.width, "height": encoded.height}
                label = int(source.labels[i]) if labelled else None
                values = values_of(source, i, **size, scale=encoded.scale)
                writer.add(encoded.data, **size, label=label, values=values, mode=mode)
                report.add(encoded, label=label)
            progress(i + 1)
        if not writer.count:
            raise DatasetError(f"none of the {len(source)} images can be read; the first: {report.skipped[0]}")
    return report


def _check_labels(source: Source) -> None:
    """Refuse labels that no class has."""
    if source.columns and not len(source.labels):
        return
    most = len(source.classes) - 1 if source.classes else MAX_LABEL
    for name, label in zip(source.names, source.labels, strict=True):
        if isinstance(label, bool) or not isinstance(label, (int, np.integer)) or not 0 <= label <= most:
            known = f"there are classes 0 … {most:,}" if source.classes else f"give 0 … {most:,}"
            raise DatasetError(f"{name} has label {label!r}, and {known}; mend the labels")


@dataclass(frozen=True)
class _Encoded:
    data: bytes = b""
    width: int = 0
    height: int = 0
    mode: str = "RGB"
    transparent: bool = False
    resized: bool = False
    lossless: bool = False
    problem: str = ""
    raw: bool = False
    scale: tuple[float, float] = (1.0, 1.0)  # by what its width and height were multiplied


class _Encoder:
    """Encodes image i of a source, or says why it cannot. Called from several threads."""

    def __init__(self, source: Source, settings: Settings) -> None:
        self._source, self._settings = source, settings
        self._background, self._raw = rgb_of(settings.background), RawChoice.parse(settings.raw)
        self.quality = settings.quality or (90 if source.lossy else 100)
        self.subsampling: jpeg.Subsampling = settings.subsampling or ("4:2:0" if source.lossy else "4:4:4")

    def __call__(self, i: int) -> _Encoded:
        try:
            kept = self._keep(i) if self._settings.lossless and not self._raw.picks(i) else None
            encoded = kept or self._encode(self._source.load(i), raw=self._raw.picks(i))
        except (MemoryError, ImportError):  # those concern every image
            raise
        except Exception as error:  # whatever a decoder thinks of: it concerns this image alone
            return _Encoded(problem=_why(error))
        if len(encoded.data) > PAGE_BYTES:
            size = f"{len(encoded.data):,} bytes are over the {PAGE_BYTES:,} that a sample may have"
            return _Encoded(problem=f"as a JPEG, its {size}; make such images smaller with --max-side")
        return encoded

    def _keep(self, i: int) -> _Encoded | None:
        """Image i's own JPEG with restart markers and the table; None if it is none that we can keep."""
        settings = self._settings
        data = self._source.read(i) if self._source.read is not None else b""
        try:
            frame = jpeg.read_frame(data)
        except jpeg.JpegError:
            return None
        too_long = settings.max_side is not None and max(frame.width, frame.height) > settings.max_side
        if frame.components != 3 or too_long:
            return None
        check_pixels(frame.width, frame.height, most=settings.max_pixels)
        check_scans(data)
        blocks = jpeg.interval_for(-(-frame.width // frame.mcu_width), most=settings.interval)
        command = [_JPEGTRAN, "-copy", "none", "-optimize", "-restart", f"{blocks}B"]
        result = subprocess.run(command, input=data, capture_output=True, timeout=_JPEGTRAN_SECONDS)
        if result.returncode or result.stderr:  # it warns, and goes on, where data are missing
            raise DatasetError(result.stderr.decode(errors="replace").strip().splitlines()[0])
        return _Encoded(jpeg.add_table(result.stdout), frame.width, frame.height, lossless=True)

    def _encode(self, image: Image.Image, *, raw: bool) -> _Encoded:
        settings, mode, before = self._settings, image.mode, image.size
        check_pixels(*image.size, most=settings.max_pixels)
        image, transparent = flattened(image, background=self._background)
        longest = max(image.size)
        resized = settings.max_side is not None and longest > settings.max_side
        if settings.max_side is not None and resized:
            from PIL import Image

            width, height = (max(1, round(side * settings.max_side / longest)) for side in image.size)
            image = image.resize((width, height), Image.Resampling.LANCZOS)
        if max(image.size) > _LARGEST_SIDE:
            raise DatasetError(f"a side of {longest:,} pixels is over JPEG's {_LARGEST_SIDE:,}; use --max-side")
        size = 3 * image.width * image.height
        fits = size <= PAGE_BYTES  # else it is a JPEG all the same
        if not (raw and fits):
            data = jpeg.encode(image, quality=self.quality, subsampling=self.subsampling, interval=settings.interval)
            raw = fits and self._raw.pays(pixel_bytes=size, jpeg_bytes=len(data))
        stored = image.tobytes() if raw else data
        scale = (image.width / before[0], image.height / before[1])
        return _Encoded(stored, *image.size, mode, transparent, resized, raw=raw, scale=scale)


def _why(error: Exception) -> str:
    from PIL import UnidentifiedImageError

    if isinstance(error, UnidentifiedImageError):
        return "it is no image that PIL knows"
    return (str(error) or type(error).__name__).splitlines()[0]
