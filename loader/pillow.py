"""Pillow's JPEG encoder, with room for images that Pillow makes too little for."""

from __future__ import annotations

import io
import threading
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL import Image

_BYTES_PER_PIXEL = 12  # that no JPEG exceeds
_ROOM = threading.Lock()


def jpeg_bytes(image: Image.Image, **options: Any) -> bytes:
    """The image as a JPEG, without the comment of the file that it came from; `options` are those of Pillow's `save`.

    An encoder that optimises its Huffman tables needs room for the whole JPEG. Pillow gives it two bytes a pixel at
    most, which fails ("broken data stream") for noise of high quality: then it is done again with enough.
    """
    from PIL import ImageFile

    options = {"comment": b"", **options}
    buffer = io.BytesIO()
    try:
        image.save(buffer, "JPEG", **options)
    except OSError:
        buffer = io.BytesIO()
        with _ROOM:
            before = ImageFile.MAXBLOCK
            ImageFile.MAXBLOCK = max(before, _BYTES_PER_PIXEL * image.width * image.height)
            try:
                image.save(buffer, "JPEG", **options)
            finally:
                ImageFile.MAXBLOCK = before
    return buffer.getvalue()
