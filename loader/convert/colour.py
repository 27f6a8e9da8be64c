"""Any image of PIL's as 8-bit RGB: 16-bit values are scaled, and transparent images get a background."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from budgetloader.errors import DatasetError

if TYPE_CHECKING:
    from PIL import Image

RGB = tuple[int, int, int]
WHITE: RGB = (255, 255, 255)


def rgb_of(colour: str) -> RGB:
    """The colour of a name or code that CSS knows, such as "white" or "#ff8800".

    Raises:
        DatasetError: it is none.
    """
    from PIL import ImageColor

    try:
        red, green, blue, *_ = ImageColor.getrgb(colour)
    except (ValueError, TypeError, AttributeError):
        raise DatasetError(f"background {colour!r} is no colour; give a name such as white, or #rrggbb") from None
    return red, green, blue


def to_rgb(image: Image.Image, *, background: RGB = WHITE) -> Image.Image:
    """Any PIL image as 8-bit RGB.

    Args:
        image: of any mode. 16-bit values are scaled to 8 bits (PIL clips them).
        background: what shows through where it is transparent.

    Raises:
        DatasetError: it has values that are no pixels.
    """
    return flattened(image, background=background)[0]


def flattened(image: Image.Image, *, background: RGB) -> tuple[Image.Image, bool]:
    """See `to_rgb`; and whether any pixel was transparent, wholly or in part."""
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        image = _scaled(image)
    if not image.has_transparency_data:
        return (image if image.mode == "RGB" else image.convert("RGB")), False
    layers = _with_alpha(image)
    if layers.getchannel("A").getextrema() == (255, 255):
        return layers.convert("RGB"), False
    from PIL import Image

    canvas = Image.new("RGBA", layers.size, (*background, 255))
    return Image.alpha_composite(canvas, layers).convert("RGB"), True


def parted(image: Image.Image) -> tuple[Image.Image, Image.Image, bool]:
    """Colours and alpha of an image: RGB, as they are beneath it, and L; and whether any pixel is transparent."""
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        image = _scaled(image)
    if not image.has_transparency_data:
        from PIL import Image

        return image.convert("RGB"), Image.new("L", image.size, 255), False
    layers = _with_alpha(image)
    alpha = layers.getchannel("A")
    return layers.convert("RGB"), alpha, alpha.getextrema() != (255, 255)


def _scaled(image: Image.Image) -> Image.Image:
    """16-bit values in 8 bits, with alpha where one value stands for transparent pixels."""
    from PIL import Image

    values = np.asarray(image, dtype=np.float64)
    if not np.isfinite(values).all() or values.min() < 0 or values.max() > 65535:
        raise DatasetError(f"values {values.min():g} … {values.max():g} of mode {image.mode} are no pixels")
    grey = Image.fromarray(np.rint(values / 257).astype(np.uint8))
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        grey.putalpha(Image.fromarray(np.where(values == transparent, 0, 255).astype(np.uint8)))
    return grey


def _with_alpha(image: Image.Image) -> Image.Image:
    """The image as RGBA."""
    transparent = image.info.get("transparency")
    if image.mode == "RGB" and isinstance(transparent, tuple) and max(transparent) > 255:
        image = image.copy()
        image.info["transparency"] = tuple(value >> 8 for value in transparent)  # PIL read 16-bit pixels as 8-bit ones
    if image.mode == "La":
        image = image.convert("LA")
    return image.convert("RGBA")
