"""Images in, `.beton` out: every image as an indexed baseline JPEG (see `budgetloader.jpeg`)."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from budgetloader import jpeg
from budgetloader.beton import Writer
from budgetloader.errors import DatasetError
from budgetloader.limits import MAX_LABEL, MAX_PIXELS, check_max_pixels, check_pixels, check_scans
from budgetloader.parallel import in_order
from budgetloader.sources import Source

if TYPE_CHECKING:
    from PIL import Image

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
    """

    quality: int | None = None
    subsampling: jpeg.Subsampling | None = None
    interval: int = 2
    lossless: bool = False
    max_side: int | None = None
    on_bad: Literal["raise", "skip"] = "raise"
    threads: int | None = None
    max_pixels: int = MAX_PIXELS

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
        if self.subsampling not in (None, *jpeg.SUBSAMPLINGS):
            raise DatasetError(f"subsampling {self.subsampling!r} is none of {', '.join(jpeg.SUBSAMPLINGS)}")
        if self.on_bad not in ("raise", "skip"):
            raise DatasetError(f"on_bad {self.on_bad!r} is none of raise, skip")


@dataclass
class Report:
    """What a conversion did."""

    samples: int = 0
    jpeg_bytes: int = 0
    converted: dict[str, int] = field(default_factory=dict)  # colour mode → images brought to RGB from it
    resized: int = 0
    lossless: int = 0
    skipped: list[str] = field(default_factory=list)  # "name: why"


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
        DatasetError: an image cannot be read (and on_bad is "raise"), `path` exists, the disk is full.
    """
    settings = settings or Settings()
    _check_labels(source)
    quality = settings.quality or (90 if source.lossy else 100)
    subsampling = settings.subsampling or ("4:2:0" if source.lossy else "4:4:4")
    notes = {
        "writer": "budgetloader",
        "classes": source.classes,
        "quality": quality,
        "subsampling": subsampling,
        "interval": settings.interval,
    }
    if settings.lossless and not shutil.which(_JPEGTRAN):
        raise DatasetError(f"lossless conversion needs {_JPEGTRAN}; install libjpeg-turbo-progs")
    report = Report()

    def work(i: int) -> _Encoded:
        try:
            kept = _keep(source, i, settings) if settings.lossless else None
            return kept or _encode(source.load(i), settings, quality=quality, subsampling=subsampling)
        except (MemoryError, ImportError):  # those concern every image
            raise
        except Exception as error:  # whatever a decoder thinks of: it concerns this image alone
            return _Encoded(problem=_why(error))

    with Writer(path, capacity=len(source), notes=notes, exists=exists) as writer:
        for i, encoded in enumerate(in_order(work, len(source), threads=settings.threads)):
            if encoded.problem:
                if settings.on_bad == "raise":
                    raise DatasetError(
                        f"{source.names[i]} cannot be converted: {encoded.problem}; "
                        "mend or remove it, or have `budgetloader convert --on-bad skip` leave it out"
                    )
                report.skipped.append(f"{source.names[i]}: {encoded.problem}")
            else:
                writer.add(encoded.data, width=encoded.width, height=encoded.height, label=source.labels[i])
                report.jpeg_bytes += len(encoded.data)
                report.resized += encoded.resized
                report.lossless += encoded.lossless
                if encoded.mode != "RGB":
                    report.converted[encoded.mode] = report.converted.get(encoded.mode, 0) + 1
            progress(i + 1)
        if not writer.count:
            raise DatasetError(f"none of the {len(source)} images can be read; the first: {report.skipped[0]}")
        report.samples = writer.count
    return report


def _check_labels(source: Source) -> None:
    """Refuse labels that no class has."""
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
    resized: bool = False
    lossless: bool = False
    problem: str = ""


def _keep(source: Source, i: int, settings: Settings) -> _Encoded | None:
    """Image i's own JPEG with restart markers and the table; None if it is none that we can keep."""
    data = source.read(i) if source.read is not None else b""
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


def _encode(image: Image.Image, settings: Settings, *, quality: int, subsampling: jpeg.Subsampling) -> _Encoded:
    mode = image.mode
    check_pixels(*image.size, most=settings.max_pixels)
    image = to_rgb(image)
    longest = max(image.size)
    resized = False
    if settings.max_side is not None and longest > settings.max_side:
        from PIL import Image

        width, height = (max(1, round(side * settings.max_side / longest)) for side in image.size)
        image = image.resize((width, height), Image.Resampling.LANCZOS)
        resized = True
    if max(image.size) > _LARGEST_SIDE:
        raise DatasetError(f"a side of {longest:,} pixels is over JPEG's {_LARGEST_SIDE:,}; use --max-side")
    data = jpeg.encode(image, quality=quality, subsampling=subsampling, interval=settings.interval)
    return _Encoded(data, image.width, image.height, mode, resized)


def to_rgb(image: Image.Image) -> Image.Image:
    """Any PIL image as 8-bit RGB: 16-bit values are scaled (PIL clips them), transparency is dropped."""
    from PIL import Image

    if image.mode == "RGB":
        return image
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        values = np.asarray(image, dtype=np.float64)
        if not np.isfinite(values).all() or values.min() < 0 or values.max() > 65535:
            raise DatasetError(f"values {values.min():g} … {values.max():g} of mode {image.mode} are no pixels")
        image = Image.fromarray(np.rint(values / 257).astype(np.uint8))
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert("RGB")


def _why(error: Exception) -> str:
    from PIL import UnidentifiedImageError

    if isinstance(error, UnidentifiedImageError):
        return "it is no image that PIL knows"
    return (str(error) or type(error).__name__).splitlines()[0]
