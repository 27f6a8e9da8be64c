"""What an image has besides, as it is stored: boxes, points and masks follow an image that was made smaller."""

from __future__ import annotations

import io
from typing import Any

import numpy as np

from budgetloader import jpeg_tables
from budgetloader.convert.sources import Filled, Source, image_of
from budgetloader.errors import DatasetError, first_line
from budgetloader.fields import Picture


def values_of(source: Source, i: int, *, width: int, height: int, scale: tuple[float, ...]) -> dict[str, Any]:
    """The values of image i, by their fields' names.

    Args:
        source: the image's.
        i: its number.
        width, height: of the image as it is stored, pixels.
        scale: by what its width and its height were multiplied.

    Raises:
        DatasetError: a value cannot be what it is said to be; names the image.
    """
    try:
        return {one.field.name: _value(one, i, (width, height), scale) for one in source.columns}
    except DatasetError as error:
        raise DatasetError(f"{source.names[i]}: {error}") from None


def _value(one: Filled, i: int, size: tuple[int, int], scale: tuple[float, ...]) -> Any:
    value = one.values[i]
    if isinstance(value, Picture):
        return value if scale == (1.0, 1.0) else _picture(value, scale)
    if one.field.role == "mask":
        return _mask(value, size, scale)
    if one.field.role in ("boxes", "points") and scale != (1.0, 1.0):
        try:
            array = np.array(value, np.float64)
        except (TypeError, ValueError):
            raise DatasetError(f"field {one.field.name!r} has {str(value)[:60]} for {one.field.role}") from None
        if array.size:
            step = 2 if one.field.role == "boxes" else 3  # a box has two corners
            array[..., 0::step] *= scale[0]
            array[..., 1::step] *= scale[1]
        return array.astype(np.float32)
    return value


def _picture(value: Picture, scale: tuple[float, ...]) -> Picture:
    """Another image of a sample, made smaller as its first one was."""
    from PIL import Image

    try:
        if value.raw:
            image = Image.frombytes("RGB", (value.width, value.height), value.data)
        else:
            image = image_of(value.data, max_pixels=value.width * value.height)
        width, height = (max(1, round(side * by)) for side, by in zip(image.size, scale, strict=True))
        image = image.resize((width, height), Image.Resampling.LANCZOS)
        mode: Any = ("L", "4:4:4") if image.mode == "L" else ("RGB", "4:2:0")
        data = jpeg_tables.encode(image.convert(mode[0]), quality=95, subsampling=mode[1])
    except Exception as error:  # whatever a decoder thinks of damaged bytes
        raise DatasetError(f"another image of it cannot be read ({first_line(error)})") from None
    return Picture(data, width, height)


def _mask(data: bytes, size: tuple[int, int], scale: tuple[float, ...]) -> bytes:
    """A mask of the stored image's size: each pixel is the nearest one."""
    from PIL import Image

    before = tuple(round(side / by) for side, by in zip(size, scale, strict=True))
    try:
        with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
            # Its size is told before it is decoded; rounding may be off by one where the image was made smaller.
            if any(abs(a - b) > (scale != (1.0, 1.0)) for a, b in zip(image.size, before, strict=True)):
                raise DatasetError(f"its mask is of {image.width} × {image.height} pixels, unlike the image's {before}")
            if image.size == size:
                return data
            made = io.BytesIO()
            image.resize(size, Image.Resampling.NEAREST).save(made, "PNG")
            return made.getvalue()
    except DatasetError:
        raise
    except Exception as error:  # whatever a decoder thinks of
        raise DatasetError(f"its mask is no PNG ({first_line(error)})") from None
