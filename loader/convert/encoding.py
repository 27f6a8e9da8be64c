"""Encoding the images of a source as a `.beton` file has them."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from budgetloader import jpeg_tables
from budgetloader.beton import PAGE_BYTES
from budgetloader.convert.colour import flattened, parted, rgb_of
from budgetloader.convert.raw_share import RawChoice
from budgetloader.convert.recoding import recode
from budgetloader.convert.sources import Source
from budgetloader.errors import DatasetError, first_line
from budgetloader.limits import LARGEST_SIDE, check_pixels, check_scans

if TYPE_CHECKING:
    from PIL import Image

JPEGTRAN = "jpegtran"
_JPEGTRAN_SECONDS = 120.0


@dataclass(frozen=True)
class Encoded:
    """What becomes of an image.

    Attributes:
        problem: why it cannot be stored.
        scale: by what its width and its height were multiplied.
        alpha: with settings.alpha="keep", its fourth channel as a grey JPEG.
    """

    data: bytes = b""
    width: int = 0
    height: int = 0
    mode: str = "RGB"
    transparent: bool = False
    resized: bool = False
    lossless: bool = False
    problem: str = ""
    raw: bool = False
    scale: tuple[float, ...] = (1.0, 1.0)
    alpha: bytes = b""

    def __post_init__(self) -> None:
        object.__setattr__(self, "scale", tuple(self.scale))  # JSON makes a list of it

    def packed(self) -> tuple[dict[str, Any], bytes]:
        """What JSON can say of it, and all of its bytes; `unpacked` takes both."""
        fields = {**vars(self), "alpha": len(self.alpha)}
        del fields["data"]
        return fields, self.data + self.alpha

    @classmethod
    def unpacked(cls, fields: dict[str, Any], content: bytes) -> Encoded:
        """The same again."""
        at = len(content) - fields["alpha"]
        return cls(**{**fields, "data": content[:at], "alpha": content[at:]})


class Encoder:
    """Encodes image i of a source, or says why it cannot. Called from several threads."""

    def __init__(self, source: Source, settings: Any) -> None:
        self._source, self._settings = source, settings
        self._background, self._raw = rgb_of(settings.background), RawChoice.parse(settings.raw)
        self.quality = settings.quality or (90 if source.lossy else 100)
        self.subsampling: jpeg_tables.Subsampling = settings.subsampling or ("4:2:0" if source.lossy else "4:4:4")
        self._how: dict[str, Any] = {
            "quality": self.quality,
            "subsampling": self.subsampling,
            "interval": settings.interval,
            "optimize": settings.optimize,
        }

    def __call__(self, i: int) -> Encoded:
        try:
            kept = self._keep(i) if self._settings.lossless and not self._raw.picks(i) else None
            encoded = kept or self._recode(i) or self._encode(self._source.load(i), raw=self._raw.picks(i))
        except (MemoryError, ImportError):  # those concern every image
            raise
        except Exception as error:  # whatever a decoder thinks of: it concerns this image alone
            return Encoded(problem=_why(error))
        if len(encoded.data) > PAGE_BYTES:
            size = f"{len(encoded.data):,} bytes are over the {PAGE_BYTES:,} that a sample may have"
            return Encoded(problem=f"as a JPEG, its {size}; make such images smaller with --max-side")
        return encoded

    def _keep(self, i: int) -> Encoded | None:
        """Image i's own JPEG with restart markers and the table; None if it is none that we can keep."""
        from budgetloader import jpeg  # with numba, which other conversions need not load

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
        blocks = jpeg_tables.interval_for(-(-frame.width // frame.mcu_width), most=settings.interval)
        command = [JPEGTRAN, "-copy", "none", "-optimize", "-restart", f"{blocks}B"]
        result = subprocess.run(command, input=data, capture_output=True, timeout=_JPEGTRAN_SECONDS)
        if result.returncode or result.stderr:  # it warns, and goes on, where data are missing
            raise DatasetError(result.stderr.decode(errors="replace").strip().splitlines()[0])
        return Encoded(jpeg.add_table(result.stdout), frame.width, frame.height, lossless=True)

    def _recode(self, i: int) -> Encoded | None:
        """Image i as `_encode` makes it, where it takes no more than decoding and encoding a JPEG."""
        settings, source = self._settings, self._source
        if source.read is None or not source.plain or self._raw != RawChoice() or settings.alpha == "keep":
            return None
        recoded = recode(source.read(i), max_side=settings.max_side, max_pixels=settings.max_pixels, **self._how)
        return None if recoded is None else Encoded(recoded.data, recoded.width, recoded.height)

    def _encode(self, image: Image.Image, *, raw: bool) -> Encoded:
        settings, mode, before = self._settings, image.mode, image.size
        check_pixels(*image.size, most=settings.max_pixels)
        layer: Image.Image | None = None
        if settings.alpha == "keep":
            image, layer, transparent = parted(image)
        else:
            image, transparent = flattened(image, background=self._background)
        longest = max(image.size)
        resized = settings.max_side is not None and longest > settings.max_side
        if settings.max_side is not None and resized:
            from PIL import Image

            width, height = (max(1, round(side * settings.max_side / longest)) for side in image.size)
            image = image.resize((width, height), Image.Resampling.LANCZOS)
            layer = layer and layer.resize((width, height), Image.Resampling.LANCZOS)
        if max(image.size) > LARGEST_SIDE:
            raise DatasetError(f"a side of {longest:,} pixels is over JPEG's {LARGEST_SIDE:,}; use --max-side")
        size = 3 * image.width * image.height
        fits = size <= PAGE_BYTES  # else it is a JPEG all the same
        if not (raw and fits):
            data = jpeg_tables.encode(image, **self._how)
            raw = fits and self._raw.pays(pixel_bytes=size, jpeg_bytes=len(data))
        stored = image.tobytes() if raw else data
        scale = (image.width / before[0], image.height / before[1])
        alpha = (
            b"" if layer is None else jpeg_tables.encode(layer, **{**self._how, "quality": 100, "subsampling": "4:4:4"})
        )
        return Encoded(stored, *image.size, mode, transparent, resized, raw=raw, scale=scale, alpha=alpha)


def _why(error: Exception) -> str:
    from PIL import UnidentifiedImageError

    if isinstance(error, UnidentifiedImageError):
        return "it is no image that PIL knows"
    return first_line(error)
